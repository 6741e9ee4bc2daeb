"""What a frontend counts of its clients' requests: how many, how much, how long, how many failed.

A span is made only of what is worth one: what failed, what was slow, and one request in many, so that a normal one is
seen beside them. The rest costs a bucket and three additions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from services.replica.nbd.wire import Command
from services.replica.traced import SLOW_NS
from stoscore import telemetry
from stoscore.metrics import Histogram, Sample, sampled

NAMES = {int(command): command.name.lower() for command in Command}


class IoFigures:
    """Of one volume on the node where it is used."""

    def __init__(self, volume: str, name: str) -> None:
        self._about = (volume, name)
        self._count = dict.fromkeys(NAMES, 0)
        self._bytes = dict.fromkeys(NAMES, 0)
        self._errors = dict.fromkeys(NAMES, 0)
        self._took = {command: Histogram() for command in NAMES}
        self.rotten = 0
        """blocks that a read brought and that did not match their checksums"""

    def answered(self, command: int, length: int, took_ns: int, errno: int, span: str = "") -> None:
        """`span`: promised to the nodes that were asked to follow it."""
        self._count[command] += 1
        self._bytes[command] += length
        self._took[command].record(took_ns / 1e9)
        if errno:
            self._errors[command] += 1
        if errno or took_ns >= SLOW_NS or span:
            self._tell(command, length, took_ns, errno, span)

    def answered_many(self, done: list[tuple[int, int, int]]) -> None:
        """(command, length, nanoseconds) of requests that succeeded, none of which was followed."""
        for (command, length, took_ns), times in Counter(done).items():  # what came together went together, mostly
            self.answered_alike(command, length, took_ns, times)

    def answered_alike(self, command: int, length: int, took_ns: int, times: int) -> None:
        """So many requests of one kind and size that came and succeeded together, none of which was followed."""
        self._count[command] += times
        self._bytes[command] += times * length
        self._took[command].record(took_ns / 1e9, times)
        if took_ns >= SLOW_NS:
            for _ in range(times):
                self._tell(command, length, took_ns, 0, "")

    def _tell(self, command: int, length: int, took_ns: int, errno: int, span: str) -> None:
        volume, name = self._about
        telemetry.record(
            f"io.{NAMES[command]}",
            took_ns,
            error=f"errno {errno}" if errno else "",
            promised=span,
            volume=volume,
            volume_name=name,
            bytes=length,
        )

    def samples(self) -> Iterator[Sample]:
        for command, operation in NAMES.items():
            if not self._count[command]:
                continue
            about = (*self._about, operation)
            yield Sample("stos.volume.io.operations", self._count[command], about)
            yield Sample("stos.volume.io.bytes", self._bytes[command], about)
            yield Sample("stos.volume.io.errors", self._errors[command], about)
            yield sampled("stos.volume.io.duration", self._took[command], *about)
