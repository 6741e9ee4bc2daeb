"""Recent spans, kept by the process that made them: a trace can be looked at when no collector was ever set up.

    add() ── bounded queue ──> one thread ──> spans.jsonl, and spans.1.jsonl when that is full

`add` never waits: the event loop that calls it also keeps leases. When the disk is slow, full or gone the queue fills
up and further spans are counted and dropped. Two files of half the size each hold what is kept, so the oldest half
goes at once and no file is ever rewritten. Nothing is synced: after a power loss the last lines may be torn, and are
skipped.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stoscore.spans import BadSpan, SpanRecord, decode, encode

CURRENT, BEFORE = "spans.jsonl", "spans.1.jsonl"
WAITING_MAX = 20_000
GATHER_S = 0.1
"""How long the writer lets more spans arrive before it writes them together."""
CLOSE_S = 2.0
LINE_BYTES_MAX = 256 * 1024

log = logging.getLogger("stos.spans")


class SpanStore:
    """The spans of one process, in one directory. Several processes may share it: lines are appended whole."""

    def __init__(self, directory: Path, bytes_max: int):
        self.directory = directory
        self.kept = 0
        self.dropped = 0
        self._bytes_max = bytes_max
        self._waiting: deque[SpanRecord] = deque()
        self._something = threading.Event()
        self._closing = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._write_all, name="spans", daemon=True)
        self._thread.start()

    def add(self, span: SpanRecord) -> None:
        """From any thread; never waits."""
        if len(self._waiting) >= WAITING_MAX:
            self.dropped += 1
            return
        self._waiting.append(span)
        if not self._something.is_set():
            self._something.set()

    def close(self) -> None:
        """What was added is written, unless the disk hangs: then it is left behind. Idempotent."""
        self._closing.set()
        self._something.set()
        self._thread.join(CLOSE_S)

    def _write_all(self) -> None:
        while not (self._closing.is_set() and not self._waiting):
            self._something.wait()
            self._closing.wait(GATHER_S)
            self._something.clear()
            self._write(len(self._waiting))

    def _write(self, count: int) -> None:
        spans = [self._waiting.popleft() for _ in range(count)]
        text = "".join(f"{encode(span)}\n" for span in spans)
        try:
            self._append(text.encode("ascii"))
            self.kept += count
            self._told = ""
        except OSError as error:
            self.dropped += count
            if self._told != str(error):
                self._told = str(error)
                log.warning("spans can't be kept: %s", error)

    def _append(self, lines: bytes) -> None:
        if not lines:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / CURRENT
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, lines)
            full = os.fstat(descriptor).st_size >= self._bytes_max // 2
        finally:
            os.close(descriptor)
        if full:
            os.replace(path, self.directory / BEFORE)


def read(directory: Path, containing: str = "") -> Iterator[SpanRecord]:
    """What is kept there, oldest first; only lines with that text (an id) are looked at. Lines that are no span,
    torn ones first of all, are left out. A directory that is not there holds nothing."""
    for name in (BEFORE, CURRENT):
        with suppress(FileNotFoundError), (directory / name).open("r", encoding="ascii", errors="replace") as lines:
            while line := lines.readline(LINE_BYTES_MAX):
                if containing in line:
                    with suppress(BadSpan):
                        yield decode(line)
