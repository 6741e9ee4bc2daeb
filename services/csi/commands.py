"""Running the node's own programs (mount, mkfs, losetup, …) without ever hanging with them.

A program that touches a block device can get stuck in the kernel when the device does, where even SIGKILL
waits. So every run has a time limit, and beyond it the program is killed and no longer waited for.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from stoscore.errors import Code, StosError, precondition

QUICK_S = 30.0
"""For what normally takes milliseconds and waits for a flush at most."""
OUTPUT_BYTES_MAX = 65_536
MESSAGE_CHARS_MAX = 600

PACKAGE = {
    "blkid": "util-linux",
    "cmp": "diffutils",
    "dd": "coreutils",
    "losetup": "mount (Debian) or util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mount": "mount (Debian) or util-linux",
    "qemu-storage-daemon": "qemu-system-common (Debian, Ubuntu) or qemu-img (Fedora)",
    "resize2fs": "e2fsprogs",
    "stat": "coreutils",
    "xfs_growfs": "xfsprogs",
    "umount": "mount (Debian) or util-linux",
}
"""What to install for each program."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended."""

    argv: tuple[str, ...]
    code: int
    output: str
    errors: str

    def check(self) -> Finished:
        """Itself when the exit code is 0. Raises INTERNAL with what the program said otherwise."""
        if self.code != 0:
            raise self.failure()
        return self

    def failure(self) -> StosError:
        said = " ".join((self.errors or self.output).split())[:MESSAGE_CHARS_MAX]
        return StosError(Code.INTERNAL, f"{self.argv[0]} failed with exit code {self.code}: {said or 'no message'}")


async def run(argv: Sequence[str], *, timeout_s: float = QUICK_S, pass_fds: Sequence[int] = ()) -> Finished:
    """Run a program to its end. Raises FAILED_PRECONDITION when it is not installed, DEADLINE_EXCEEDED
    when it takes longer than `timeout_s`.

    What it prints goes into memory files and not through pipes: a daemon that it leaves behind may keep its
    output open, and then a pipe's end never comes."""
    output, errors = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        process = _start(argv, output, errors, pass_fds)
        code = await _ended(process, argv[0], timeout_s)
        return Finished(tuple(argv), code, _printed(output), _printed(errors))
    finally:
        os.close(output)
        os.close(errors)


def _start(argv: Sequence[str], output: int, errors: int, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """By vfork, which the standard library uses here. The event loop's own way (uvloop's) is a fork that runs
    gRPC's fork handlers in the child, and there they crash."""
    try:
        return subprocess.Popen(  # noqa: S603  (callers name the program; no shell reads the paths)
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, "LC_ALL": "C", "PATH": search_path()},
            pass_fds=tuple(pass_fds),
            start_new_session=True,  # a Ctrl-C meant for the service must not stop a mkfs half-way
        )
    except FileNotFoundError as error:
        raise missing(argv[0]) from error


async def _ended(process: subprocess.Popen[bytes], program: str, timeout_s: float) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
    try:
        await asyncio.wait_for(ended, timeout_s)
        return process.wait()
    except TimeoutError:
        process.kill()
        raise StosError(
            Code.DEADLINE_EXCEEDED,
            f"{program} did not finish within {timeout_s:g} s",
            next_step="the volume may wait for its copies (`stos volume show`); ask again when it serves",
        ) from None
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _printed(descriptor: int) -> str:
    return os.pread(descriptor, OUTPUT_BYTES_MAX, 0).decode(errors="replace")


def missing(program: str) -> StosError:
    package = PACKAGE.get(program, program)
    return precondition(
        f"the program {program} is not installed on this node", next_step=f"install the package {package}"
    )


def search_path() -> str:
    """The PATH with the system directories, which a service's environment often leaves out."""
    parts = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*filter(None, parts), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]))
