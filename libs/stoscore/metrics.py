"""Metrics: every instrument of stos in one table, plain numbers that the hot path counts, and how they are gathered.

    code ── plain integers, Histogram ──> source() ──> collect() ──> Prometheus text, OTLP, the bus

What counts calls nobody: it adds to an integer of its own. When somebody asks, every registered source says what it
has counted. Names, units and kinds are OpenTelemetry's (`stos.volume.io.duration`, s, histogram); what has no row in
the table can't be told, so that the reference, which is made from it, is complete.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RATIO = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SAMPLES_MAX = 100_000
"""Of one collection; what is beyond is counted in stos.metrics.dropped."""

log = logging.getLogger("stos.metrics")


@dataclass(frozen=True, slots=True)
class Instrument:
    """One row of the table."""

    name: str
    kind: Kind
    unit: str
    """UCUM, as OpenTelemetry writes it: s, By, 1, {request}"""
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """upper ends of a histogram's buckets"""


def _counter(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name, "counter", unit, description, attributes)


def _gauge(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name, "gauge", unit, description, attributes)


_VOLUME = ("volume", "name")

INSTRUMENTS = (
    _gauge("stos.build", "1", "always 1; says which version runs", "version"),
    _counter("process.cpu.time", "s", "CPU time of the process"),
    _gauge("process.memory.usage", "By", "resident memory of the process"),
    _gauge("stos.process.uptime", "s", "time since the process began"),
    Instrument(
        "stos.loop.lag",
        "histogram",
        "s",
        "how late the event loop runs what is due; leases are bounded by it",
        (),
        LATENCY_S,
    ),
    _gauge("stos.attacher.usable", "1", "1 where a node can make devices of volumes this way", "attacher"),
    _gauge(
        "stos.mount.unsafe", "{mount}", "a node's file systems on volumes, by an option that may lose data", "option"
    ),
    _gauge("stos.bus.connected", "1", "1 while the process is connected to NATS", "identity"),
    _counter(
        "stos.bus.connections", "{connection}", "connections to NATS that were made, the first included", "identity"
    ),
    _gauge("stos.bus.subscriptions", "{subscription}", "subjects that the process listens to on NATS", "identity"),
    _gauge("stos.certificate.age", "s", "time since the process's certificate was issued", "identity"),
    _gauge("stos.certificate.remaining", "s", "time until the process's certificate expires", "identity"),
    _gauge("stos.trust.number", "1", "number of the trust state in use; the same everywhere", "identity"),
    _counter("stos.spans", "{span}", "spans of the process's own store, by what became of them", "outcome"),
    _counter("stos.metrics.dropped", "{sample}", "samples that were too many to be told"),
    _gauge("stos.node.capacity", "By", "space that the node offers for copies"),
    _gauge("stos.node.provisioned", "By", "size of the copies that it holds, as promised to their users"),
    _gauge("stos.node.used", "By", "space that they take"),
    _gauge("stos.node.free", "By", "free space of the node's file system"),
    _gauge("stos.node.copies", "{copy}", "copies and witnesses on the node", "role"),
    _gauge("stos.node.broken", "{copy}", "directories of copies that can't be used"),
    _gauge("stos.peer.up", "1", "1 while the peer answers beats on the link", "peer"),
    _counter("stos.link.dropped", "{frame}", "frames that were not believed", "reason"),
    _counter("stos.decisions", "{decision}", "decisions of the node's brains", "decision"),
    Instrument(
        "stos.store.sync.duration",
        "histogram",
        "s",
        "time of one fdatasync of a copy, waiting for its turn included",
        (),
        LATENCY_S,
    ),
    Instrument(
        "stos.snapshot.held",
        "histogram",
        "s",
        "time for which new writes waited while a snapshot was sealed, at its primary",
        (),
        LATENCY_S,
    ),
    _counter("stos.checksum.failures", "{block}", "blocks whose content did not match their checksum", "place"),
    _counter("stos.blocks.healed", "{block}", "of these, blocks of this node's copies healed from another copy"),
    _gauge("stos.volume.serving", "1", "1 where the volume is served, 0 at its leader while it is not", *_VOLUME),
    _gauge("stos.volume.in_sync", "{copy}", "copies that hold every acknowledged write, by the primary", *_VOLUME),
    _gauge("stos.volume.copies", "{copy}", "copies that were asked for", *_VOLUME),
    _gauge(
        "stos.volume.epoch", "1", "epoch in which the volume is led; each failover and hand-over raises it", *_VOLUME
    ),
    _gauge("stos.volume.lease.margin", "s", "time that the primary's lease has left", *_VOLUME),
    _gauge("stos.volume.size", "By", "size of the volume, by its primary", *_VOLUME),
    _gauge("stos.volume.copy.failed", "1", "1: the disk of this node's copy failed", *_VOLUME),
    _gauge("stos.resync.remaining", "By", "what a copy that catches up still lacks, by the primary", *_VOLUME, "node"),
    _counter("stos.resync.sent", "By", "sent to copies that caught up, packed where that paid"),
    _counter("stos.resync.spared", "By", "not sent to copies that caught up, because packing made it smaller"),
    _counter("stos.resync.compared", "By", "compared with copies that caught up"),
    _counter("stos.resync.completed", "{resync}", "copies that were brought up to date"),
    Instrument(
        "stos.resync.estimate.error",
        "histogram",
        "1",
        "by which share of the bytes that a resync sent its estimate was wrong",
        (),
        RATIO,
    ),
    Instrument(
        "stos.resync.duration.error",
        "histogram",
        "1",
        "by which share of the time that a resync took its estimate was wrong",
        (),
        RATIO,
    ),
    _gauge("stos.recovery.rate", "By/s", "what this node may send to copies that catch up, as its pace stands"),
    _gauge("stos.recovery.waiting", "{copy}", "copies that catch up and wait for their turn in this node's budget"),
    _gauge("stos.volume.io.inflight", "{request}", "requests of clients that are not answered", *_VOLUME),
    _counter("stos.volume.io.operations", "{request}", "answered requests of clients", *_VOLUME, "operation"),
    _counter("stos.volume.io.bytes", "By", "bytes of these", *_VOLUME, "operation"),
    _counter("stos.volume.io.errors", "{request}", "requests of clients that failed", *_VOLUME, "operation"),
    Instrument(
        "stos.volume.io.duration",
        "histogram",
        "s",
        "from the request at the frontend to its answer",
        (*_VOLUME, "operation"),
        LATENCY_S,
    ),
)
BY_NAME = {instrument.name: instrument for instrument in INSTRUMENTS}


class Histogram:
    """Counts by bucket: one search among sixteen numbers for each value."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_S):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """the last one: above all bounds"""
        self.total = 0.0

    def record(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


@dataclass(frozen=True, slots=True)
class Sample:
    """One number, or one histogram."""

    name: str
    value: float
    """of a histogram: the sum of its values"""
    attributes: tuple[str, ...] = ()
    """values of the instrument's attributes, in its order"""
    counts: tuple[int, ...] = ()

    @property
    def instrument(self) -> Instrument:
        return BY_NAME[self.name]


def sampled(name: str, histogram: Histogram, *attributes: str) -> Sample:
    return Sample(name, histogram.total, attributes, tuple(histogram.counts))


Source = Callable[[], Iterable[Sample]]
_sources: list[Source] = []
_dropped = 0


def register(source: Source) -> None:
    """It is called in the event loop's thread, whenever somebody asks, and must not wait."""
    _sources.append(source)


def unregister(source: Source) -> None:
    """Idempotent."""
    if source in _sources:
        _sources.remove(source)


def collect() -> list[Sample]:
    """What everybody has counted. A source that fails is left out: looking must not break what is looked at."""
    global _dropped
    samples: list[Sample] = []
    for source in list(_sources):
        try:
            samples += list(source())
        except Exception:
            log.exception("a source of metrics failed")
    _dropped += max(0, len(samples) - SAMPLES_MAX)
    del samples[SAMPLES_MAX:]
    samples.append(Sample("stos.metrics.dropped", _dropped))
    return samples
