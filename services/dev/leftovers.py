"""What a volume in use leaves on the machine: mounts, loop devices, exporting programs, sockets.

A cluster that is stopped under a mounted volume would leave a mount that hangs for ever. And at the end of a
demonstration "nothing is left" is looked up in the kernel's tables and not believed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.dev.processes import identify, terminate

_COMMAND_TIMEOUT_S = 10.0
_EXPORTERS = ("qemu-storage-daemon",)
"""Programs that outlive the CSI node service on purpose, so that its death does not touch a mounted volume."""
_EXPORTER_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Mount:
    source: str
    target: str
    filesystem: str


def _unescape(field: str) -> str:
    """mountinfo writes blanks and backslashes as octal escapes (proc(5))."""
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field


def parse_mountinfo(text: str) -> list[Mount]:
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if separator and len(before) > 4 and len(after) > 1:
            found.append(Mount(_unescape(after[1]), _unescape(before[4]), after[0]))
    return found


def _inside(path: str, directories: tuple[Path, ...]) -> bool:
    return any(Path(path).is_relative_to(directory) for directory in directories)


def loop_devices(*directories: Path) -> list[str]:
    """Loop devices whose backing file lies in one of the directories."""
    found = []
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        with contextlib.suppress(OSError):
            if _inside(backing.read_text().strip(), directories):
                found.append(f"/dev/{backing.parts[3]}")
    return found


def mounts(*directories: Path) -> list[Mount]:
    """Mounts in the directories, or of loop devices whose file lies there; the innermost first."""
    loops = set(loop_devices(*directories))
    table = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    ours = [mount for mount in table if mount.source in loops or _inside(mount.target, directories)]
    return list(reversed(ours))


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def programs(*directories: Path) -> Iterator[tuple[int, str]]:
    """(pid, command line) of other processes that name one of the directories, or what is in it, in their arguments.
    Not of those that name a neighbour whose name only begins so: they are another cluster's, and would be ended."""
    names = re.compile("|".join(rf"(?<![\w./-]){re.escape(str(directory))}(?![\w.-])" for directory in directories))
    for entry in sorted(Path("/proc").glob("[0-9]*")):
        pid = int(entry.name)
        arguments = _arguments(pid)
        if pid != os.getpid() and any(map(names.search, arguments)):
            yield pid, " ".join(arguments).strip()


def unix_sockets(*directories: Path) -> list[str]:
    """Paths of listening Unix sockets in the directories."""
    listening = "00010000"
    found = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[3] == listening and _inside(fields[7], directories):
            found.add(fields[7])
    return sorted(found)


def release_mounts(*directories: Path) -> list[str]:
    """Unmounts and detaches what is still in use there, so that the processes behind it can be stopped.
    Returns a line for each thing done."""
    loops = loop_devices(*directories)
    done = [line for mount in mounts(*directories) if mount.source in loops for line in _unmount(mount)]
    # Before what is below it goes: a loop device whose file is gone can't be told from another's.
    done += [f"detached {device}" for device in loops if _run("losetup", "-d", device)]
    done += _end_exporters(directories)
    return done + [line for mount in mounts(*directories) for line in _unmount(mount)]


def _unmount(mount: Mount) -> list[str]:
    """Lazily when somebody still uses it: the device behind it is about to go."""
    if _run("umount", mount.target) or _run("umount", "-l", mount.target):
        return [f"unmounted {mount.target}"]
    return []


def _end_exporters(directories: tuple[Path, ...]) -> list[str]:
    ours = [pid for pid, command in programs(*directories) if Path(command.split(" ", 1)[0]).name in _EXPORTERS]
    living = [process for pid in ours if (process := identify(pid)) is not None]
    terminate(living, _EXPORTER_PATIENCE_S)
    return [f"ended the exporting process {process.pid}" for process in living]


def _run(*command: str) -> bool:
    """Never longer than its time limit: a program that is stuck in the kernel on a dead device can't even be
    killed, so it is not waited for."""
    try:
        process = subprocess.Popen(  # noqa: S603  (our own programs; no shell reads the paths)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return False
    try:
        return process.wait(_COMMAND_TIMEOUT_S) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        return False
