"""Processes that outlive the command that started them, and are never confused with somebody else's.

`stos dev up` returns while the cluster stays. Later commands know a process by its pid *and* the tick at
which the kernel started it: a pid alone may have been given to another program since, and that program
would get our SIGKILL.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_STATE_FIELD = 0
_THREADS_FIELD = 17
_START_TICKS_FIELD = 19
"""Positions in /proc/<pid>/stat counted after the closing parenthesis of the command name (proc(5))."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for as long as the machine is up."""

    pid: int
    start_ticks: int


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def identify(pid: int) -> ProcessId | None:
    """The living process with this pid; None when there is none or it is a zombie.

    A killed process whose first thread has ended while others still end is alive: it holds its ports and locks,
    and whoever is started in its place would not get them."""
    fields = _stat_fields(pid)
    if fields is None or (fields[_STATE_FIELD] in "ZX" and int(fields[_THREADS_FIELD]) <= 1):
        return None
    return ProcessId(pid, int(fields[_START_TICKS_FIELD]))


def alive(process: ProcessId) -> bool:
    return identify(process.pid) == process


def spawn(argv: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path) -> ProcessId:
    """Starts a process in its own session with its output appended to `log`.

    Raises OSError when the program can't be executed.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(  # noqa: S603  (members of the embedded cluster, composed by us)
            argv,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    fields = _stat_fields(child.pid)
    # Unreaped children stay in /proc, so the fields are there even if it has ended already.
    assert fields is not None
    child.returncode = 0  # It is meant to outlive us: keeps Popen's destructor from warning about that.
    return ProcessId(child.pid, int(fields[_START_TICKS_FIELD]))


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """False when the process is gone. The pidfd pins the process between the check and the signal."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def reap(process: ProcessId) -> None:
    """Collects the exit state if it is our own child; harmless otherwise."""
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return


def wait_gone(processes: Iterable[ProcessId], timeout_s: float) -> list[ProcessId]:
    """Waits until all have ended; returns those that are still alive at the deadline."""
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if alive(process)]
    while left and (remaining := deadline - time.monotonic()) > 0:
        _wait_for_exit(left[0], remaining)
        for process in left:
            reap(process)
        left = [process for process in left if alive(process)]
    return left


def _wait_for_exit(process: ProcessId, timeout_s: float) -> None:
    """A pidfd is readable once its process has ended, so nothing is polled."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if alive(process):
            select.select([descriptor], [], [], timeout_s)
    finally:
        os.close(descriptor)


def terminate(processes: Sequence[ProcessId], patience_s: float) -> list[ProcessId]:
    """SIGTERM, then SIGKILL for what is left after `patience_s`; returns what had to be killed."""
    for process in processes:
        send_signal(process, signal.SIGTERM)
        # A stopped process never sees SIGTERM.
        send_signal(process, signal.SIGCONT)
    stubborn = wait_gone(processes, patience_s)
    for process in stubborn:
        send_signal(process, signal.SIGKILL)
    wait_gone(stubborn, patience_s)
    return stubborn
