"""The node's mounts and filesystems: the few things that staging and publishing do to the machine.

The one rule that protects data stands in `format_if_blank`: a device is formatted only when no known
signature is on it, its first MiB could be read, and that MiB is all zeros. The device stays locked (BSD
flock) meanwhile, and `mkfs` inherits the lock: when the service is killed and restarted while its `mkfs`
goes on alone, the newcomer sees the lock and waits instead of mounting half a filesystem.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from services.csi.commands import run
from services.csi.mounts import (
    FILESYSTEMS,
    Device,
    Mount,
    mkfs_command,
    parse_mountinfo,
    parse_probe,
    topmost,
)
from stoscore.errors import Code, StosError, invalid, precondition
from stoscore.units import MIB

GROW_S = 120.0
_BUSY = "target is busy"
_BLKID_NOTHING_FOUND = 2


def mounts() -> list[Mount]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))


def mount_at(path: str) -> Mount | None:
    """What is mounted at the path, if anything."""
    return topmost(mounts(), resolved(path))


def resolved(path: str) -> str:
    """The path as the mount table writes it. Only its parents are looked at: the last part may be a mount
    of a dead device."""
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name)


def device_of(path: str) -> Device:
    """The block device behind a device file. Raises FAILED_PRECONDITION when there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise precondition(f"the device {path} is gone: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise precondition(f"{path} is no block device")
    return Device(path, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")


def size_of(device: Device) -> int:
    """Bytes, from sysfs, which answers even when the device does not."""
    return int(Path(f"/sys/dev/block/{device.number}/size").read_text()) * 512


async def format_if_blank(device: Device, wanted: str, *, default: str, timeout_s: float) -> str:
    """The filesystem on the device; on a blank one the wanted one is made, or the default if `wanted` is
    empty. Raises FAILED_PRECONDITION when the device holds something else."""
    descriptor = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(descriptor, device)
        found = await _signature(device)
        if not found:
            await _check_blank(device)
            command = mkfs_command(wanted or default, device.path)
            (await run(command, timeout_s=timeout_s, pass_fds=[descriptor])).check()
            found = await _signature(device)
        allowed = (wanted,) if wanted else FILESYSTEMS
        if found not in allowed:
            raise precondition(
                f"the volume holds {found}, not {' or '.join(allowed)}; it is never formatted over",
                next_step="ask for the filesystem that it has, or use a new volume",
            )
        return found
    finally:
        os.close(descriptor)


def _lock(descriptor: int, device: Device) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StosError(
            Code.ABORTED, f"another program is formatting or probing {device.path}", next_step="ask again"
        ) from error


async def _signature(device: Device) -> str:
    """The name of what is on the device: a filesystem, "a partition table", or empty for nothing known."""
    probe = await run(["blkid", "-p", "-o", "export", device.path])
    if probe.code == _BLKID_NOTHING_FOUND:
        return ""
    found = parse_probe(probe.check().output)
    if "TYPE" in found:
        return found["TYPE"]
    return f"a partition table ({found['PTTYPE']})" if "PTTYPE" in found else "an unknown signature"


async def _check_blank(device: Device) -> None:
    """blkid says "nothing found" also when it can't read, and for data that it does not know."""
    count = min(MIB, size_of(device))
    compared = await run(["cmp", "-s", "-n", str(count), device.path, "/dev/zero"])
    if compared.code == 1:
        raise precondition(
            f"{device.path} holds data but no known filesystem; it is not formatted",
            next_step="if the data may go, overwrite its first MiB with zeros, or use a new volume",
        )
    compared.check()


async def mount(device: Device, path: str, fs_type: str, flags: Sequence[str]) -> None:
    # A clone's xfs has the UUID of its source, and the kernel mounts a UUID once, but for who says that it knows.
    flags = [*flags, *(["nouuid"] if fs_type == "xfs" and "nouuid" not in flags else [])]
    options = ["-o", ",".join(flags)] if flags else []
    done = await run(["mount", "-t", fs_type, *options, device.path, path])
    if done.code != 0:
        raise StosError(Code.INTERNAL, f"can't mount {device.path}: {' '.join(done.errors.split())[:400]}")


async def grow_filesystem(device: Device) -> None:
    """To the size of its device, mounted as it is. Nothing happens when it has that size."""
    shown = next((mount for mount in mounts() if device.mounted_as_filesystem(mount) and mount.root == "/"), None)
    if shown is None:
        raise precondition(f"{device.path} is not mounted", next_step="stage the volume first")
    if shown.fs_type == "xfs":
        (await run(["xfs_growfs", "-d", shown.path])).check()
        return
    done = await run(["resize2fs", device.path], timeout_s=GROW_S)
    if done.code != 0 and "Permission denied" in done.errors:
        raise precondition(
            f"the kernel lets nobody grow the mounted ext4 on {device.path} without CAP_SYS_RESOURCE",
            next_step="run the node service privileged, or with that capability, and ask again",
        )
    done.check()


async def bind(source: str, path: str, *, readonly: bool) -> None:
    """Show `source` at `path` too. A bind mount becomes read-only by a second step, so a caller that was
    interrupted between the two repeats `make_readonly`."""
    (await run(["mount", "--bind", source, path])).check()
    if readonly:
        await make_readonly(path)


async def make_readonly(path: str) -> None:
    (await run(["mount", "-o", "remount,bind,ro", path])).check()


async def unmount(path: str) -> None:
    """Raises FAILED_PRECONDITION while a process uses what is mounted."""
    done = await run(["umount", path], timeout_s=120.0)
    if done.code != 0 and mount_at(path) is not None:
        if _BUSY in done.errors:
            raise precondition(
                f"{path} is in use by a process", next_step="end the processes that have files open in it"
            )
        raise done.failure()


def make_directory(path: str, field: str) -> None:
    """The directory itself, not its parents. Raises when something else is there."""
    _refuse_parentless(path, field)
    try:
        os.mkdir(path, 0o750)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise precondition(f"{field} {path} exists and is no directory") from None
    except OSError as error:
        raise precondition(f"can't make {field} {path}: {error.strerror}") from error


def make_file(path: str, field: str) -> None:
    """An empty file to bind a device to. Raises when something else is there."""
    _refuse_parentless(path, field)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise precondition(f"{field} {path} exists and is no empty file") from None
    except OSError as error:
        raise precondition(f"can't make {field} {path}: {error.strerror}") from error


def remove_target(path: str) -> None:
    """Remove what publishing made: an empty directory or an empty file. Anything else is not ours."""
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(path)
        else:
            raise precondition(f"target_path {path} is neither an empty directory nor an empty file; it is kept")
    except FileNotFoundError:
        return
    except OSError as error:
        raise precondition(f"can't remove target_path {path}: {error.strerror}") from error


def _refuse_parentless(path: str, field: str) -> None:
    if not os.path.isdir(os.path.dirname(path)):
        raise invalid(f"the parent directory of {field} {path} does not exist")
