"""The longest pauses of a load, each with what the members of the cluster said about that time.

A pause of a busy machine and one of ours look alike in a figure. What tells them apart is what happened then, and
whether a thread that wants next to nothing was kept waiting as well.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from services.dev.demo.history import GapMeter

NOTED_NS = 80_000_000
TOLD_MAX = 6
BEFORE_S = 0.3
"""What causes a pause is often said before it begins."""
_NAP_S = 0.005


@dataclass(frozen=True, slots=True)
class Pause:
    ended_s: float
    seconds: float


class Pauses(GapMeter):
    """A gap meter that remembers when the longer ones were."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Pause] = []

    def completed(self, now_ns: int) -> None:
        if self._last_ns is not None and now_ns - self._last_ns > NOTED_NS:
            self.noted.append(Pause(time.time(), (now_ns - self._last_ns) / 1e9))
        super().completed(now_ns)


@dataclass(slots=True)
class Sleeper:
    """A thread that wants to be woken every few milliseconds and notes how late it was."""

    late: list[Pause] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            time.sleep(_NAP_S)
            late = time.monotonic() - begun - _NAP_S
            if late > 4 * _NAP_S:
                self.late.append(Pause(time.time(), late))

    def kept_waiting_ms(self, pause: Pause) -> int:
        begun_s = pause.ended_s - pause.seconds
        within = [late.seconds for late in self.late if begun_s < late.ended_s < pause.ended_s + _NAP_S]
        return round(sum(within) * 1000)


def longest(pauses: list[Pause], sleeper: Sleeper, logs: Path) -> list[str]:
    """The longest first, a line each with what was said."""
    said = _said(logs)
    told = []
    for pause in sorted(pauses, key=lambda one: -one.seconds)[:TOLD_MAX]:
        begun_s = pause.ended_s - pause.seconds - BEFORE_S
        then = Counter(words for at_s, words in said if begun_s <= at_s <= pause.ended_s)
        words = "; ".join(f"{text} ×{count}" if count > 1 else text for text, count in then.most_common(12))
        at = datetime.fromtimestamp(pause.ended_s).strftime("%H:%M:%S.%f")[:-3]
        waited = sleeper.kept_waiting_ms(pause)
        told.append(
            f"{pause.seconds * 1000:4.0f} ms until {at} (a sleeper: {waited} ms): {words or 'nothing was said'}"
        )
    return told


def _said(logs: Path) -> list[tuple[float, str]]:
    """(when, member: what), of all members."""
    found = []
    for path in sorted(logs.glob("*.log")):
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                entry = json.loads(line)
                at = datetime.fromisoformat(entry["time"]).timestamp()
                found.append((at, f"{path.stem}: {str(entry['message'])[:70]}"))
            except (ValueError, KeyError, TypeError):
                continue  # the NATS server's own lines
    return found
