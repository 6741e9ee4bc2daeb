"""Finding and ending a program that a former life of this service may have started.

Process ids are reused, so a number in a file proves nothing. The command line names the one file that a
daemon serves, so it is looked for there; and a signal goes through a pidfd that was opened before the
command line was read again, so it never hits a stranger.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    argv: tuple[str, ...]


def find(matches: Callable[[tuple[str, ...]], bool]) -> Process | None:
    """The first process whose command line matches. Zombies have none and are not found."""
    for entry in sorted(Path("/proc").iterdir()):
        if entry.name.isdigit():
            argv = _argv(int(entry.name))
            if argv and matches(argv):
                return Process(int(entry.name), argv)
    return None


async def end(process: Process, *, grace_s: float) -> None:
    """SIGTERM, and SIGKILL after the grace; returns when the process has ended."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    with closing(_Descriptor(pidfd)):
        if _argv(process.pid) != process.argv:
            return
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                return
            if await _ended(pidfd, wait_s):
                return


async def _ended(pidfd: int, wait_s: float) -> bool:
    """A pidfd is readable as soon as its process has ended, reaped or not."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while not select.select([pidfd], [], [], 0)[0]:
        if loop.time() >= until:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _argv(pid: int) -> tuple[str, ...]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in raw.split(b"\0")[:-1])


class _Descriptor:
    def __init__(self, number: int):
        self._number = number

    def close(self) -> None:
        os.close(self._number)
