"""Waiting until a process that was just started is ready, or saying why it never will be.

A service logs one line "… is ready" when it answers. Only what was logged since the start counts: the log of
a cluster that is started again begins with the lines of its last life.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from services.dev.processes import ProcessId, alive
from stoscore.errors import Code, StosError

POLL_S = 0.02
_TAIL_LINES = 5
_READY = " is ready"


@dataclass(frozen=True, slots=True)
class Starting:
    """A process between its start and its readiness."""

    name: str
    process: ProcessId
    log: Path
    log_offset: int
    """Length of the log before the start."""


def says_ready(log_text: str) -> bool:
    return any(_is_ready_line(line) for line in log_text.splitlines())


def _is_ready_line(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        entry = json.loads(line)
    except ValueError:
        return False  # The last line may be half written.
    return isinstance(entry, dict) and str(entry.get("message", "")).endswith(_READY)


def wait_ready(starting: list[Starting], timeout_s: float) -> None:
    """Returns when all are ready. Raises StosError naming the first that ended or took too long, with the
    last lines of its log."""
    deadline = time.monotonic() + timeout_s
    waiting = list(starting)
    while waiting:
        waiting = [one for one in waiting if not says_ready(_since_start(one))]
        for one in waiting:
            if not alive(one.process):
                raise _failed(one, "ended at its start")
            if time.monotonic() > deadline:
                raise _failed(one, f"was not ready within {timeout_s:.0f} s")
        if waiting:
            time.sleep(POLL_S)


def _since_start(one: Starting) -> str:
    try:
        with one.log.open("rb") as file:
            file.seek(one.log_offset)
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _failed(one: Starting, what: str) -> StosError:
    last = _since_start(one).strip().splitlines()[-_TAIL_LINES:]
    said = f": {' | '.join(line[:400] for line in last)}" if last else ", and logged nothing"
    return StosError(Code.UNAVAILABLE, f"{one.name} {what}{said}", next_step=f"its log is {one.log}")
