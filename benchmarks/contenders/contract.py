"""What the benchmark asks of a contender, and how a process's CPU is counted."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_S = 60
_READY_S = 20
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Contender(Protocol):
    name: str
    jobs: frozenset[str] | None
    """Names of the jobs that it runs; None: all."""

    def missing(self) -> str:
        """What it needs and is not installed, with how to get it; "" when nothing is missing."""

    def start(self, size_bytes: int) -> str:
        """The NBD URI. Raises RuntimeError when it can't be started; then nothing of it runs."""

    def processes(self) -> dict[str, int]:
        """Process name -> pid, of all that belongs to it."""

    def working(self) -> set[str]:
        """The processes on the path of the data; the others only stand by."""

    def stop(self) -> None:
        """Idempotent. Leaves nothing behind, also after a start that was interrupted."""


def cpu_us(pid: int) -> int:
    """User and system time of a process so far. Raises RuntimeError when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise RuntimeError(f"process {pid} ended during the measurement") from None
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_US


def environment() -> dict[str, str]:
    """Settings of a cluster that the caller works with are not ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}


def serve(argv: Sequence[str], socket: Path) -> subprocess.Popen[bytes]:
    """A server that listens on that Unix socket when this returns. Raises RuntimeError."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )
    deadline = time.monotonic() + _READY_S
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            end(process)
            assert process.stderr is not None
            said = process.stderr.read().decode("utf-8", "replace").strip()
            raise RuntimeError(f"{argv[0]} did not start: {said[-300:]}")
        time.sleep(0.02)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
