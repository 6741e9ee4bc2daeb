"""What a process tells of itself when somebody looks: the traces of which it keeps spans, its metrics, its settings.

Every process answers for itself and nobody gathers beforehand, so looking needs no collector, and a process that is
gone takes only its own spans along. Files are read in a thread; looking leaves no traces of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from stoscore import metrics, settings, subjects, telemetry
from stoscore.bus import Bus, RequestContext
from stoscore.errors import StosError
from stoscore.metrics_endpoint import MetricsEndpoint
from stoscore.process_messages import (
    MetricModel,
    MetricsPage,
    MetricsRequest,
    SettingsPage,
    SettingsRequest,
    SpansPage,
    SpansRequest,
    TracesPage,
    TracesRequest,
    TraceSummary,
)
from stoscore.process_metrics import BusMetrics
from stoscore.redaction import redact
from stoscore.span_store import read
from stoscore.spans import SpanRecord, encode
from stoscore.units import KIB, MS

PAGE_BYTES = 256 * KIB
SAMPLES_MAX = 1000
"""of one page of metrics"""

log = telemetry.get_logger("observing")


class Observed:
    """One service's own word on itself, by the bus and, with an address, to Prometheus."""

    def __init__(self, bus: Bus, metrics_listen: str = ""):
        self._bus = bus
        self._counted = BusMetrics(bus)
        self._endpoint = MetricsEndpoint(bus.identity, bus.audit, metrics_listen) if metrics_listen else None

    async def start(self) -> None:
        """Raises StosError when the address can't be had. A server whose permissions are of a version that does not
        know these subjects must not keep the process from its work."""
        if self._endpoint is not None:
            log.info("metrics are served on %s", await self._endpoint.start())
        self._counted.start()
        role = self._bus.me.role
        try:
            await self._bus.serve(subjects.observe(role, "traces"), TracesRequest, self._traces)
            await self._bus.serve(subjects.observe(role, "spans"), SpansRequest, self._spans)
            await self._bus.serve(subjects.observe(role, "metrics"), MetricsRequest, self._metrics)
            await self._bus.serve(subjects.observe(role, "settings"), SettingsRequest, self._settings)
        except StosError as error:
            log.warning("nobody can look at this process: %s", error)

    async def stop(self) -> None:
        """After `start` was called."""
        self._counted.stop()
        if self._endpoint is not None:
            await self._endpoint.stop()

    async def _traces(self, request: TracesRequest, context: RequestContext) -> TracesPage:
        found = await asyncio.to_thread(summaries, kept(), request.since_unix_ms, request.limit)
        return TracesPage(process=str(self._bus.me), traces=found)

    async def _spans(self, request: SpansRequest, context: RequestContext) -> SpansPage:
        lines, following = await asyncio.to_thread(page, kept(request.trace), request.trace, request.after)
        return SpansPage(process=str(self._bus.me), spans=lines, next=following)

    async def _metrics(self, request: MetricsRequest, context: RequestContext) -> MetricsPage:
        prefixes = tuple(request.prefixes) or ("",)
        told = [sample for sample in metrics.collect() if sample.name.startswith(prefixes)][request.after :]
        models = [
            MetricModel(name=one.name, value=one.value, attributes=list(one.attributes), counts=list(one.counts))
            for one in told[:SAMPLES_MAX]
        ]
        following = request.after + SAMPLES_MAX if len(told) > SAMPLES_MAX else 0
        return MetricsPage(process=str(self._bus.me), at_unix_ns=time.time_ns(), samples=models, next=following)

    async def _settings(self, request: SettingsRequest, context: RequestContext) -> SettingsPage:
        told = {name: redact(value)[0] for name, value in settings.in_use().items()}
        return SettingsPage(process=str(self._bus.me), settings=told)


def kept(containing: str = "") -> Iterable[SpanRecord]:
    store = telemetry.store
    directory: Path | None = store.directory if store is not None else None
    return read(directory, containing) if directory is not None else ()


def summaries(spans: Iterable[SpanRecord], since_unix_ms: int, limit: int) -> list[TraceSummary]:
    """One line a trace, newest first."""
    traces: dict[str, list[SpanRecord]] = {}
    for span in spans:
        if span.end_ns >= since_unix_ms * MS:
            traces.setdefault(span.trace_id, []).append(span)
    found = [_summary(trace_id, members) for trace_id, members in traces.items()]
    return sorted(found, key=lambda trace: trace.start_ns, reverse=True)[:limit]


def _summary(trace_id: str, members: list[SpanRecord]) -> TraceSummary:
    first = min(members, key=lambda span: span.start_ns)
    return TraceSummary(
        trace_id=trace_id,
        root=next((span.name for span in members if not span.parent_id), ""),
        first=first.name,
        start_ns=first.start_ns,
        end_ns=max(span.end_ns for span in members),
        spans=len(members),
        errors=sum(bool(span.error) for span in members),
    )


def page(spans: Iterable[SpanRecord], trace: str, after: int) -> tuple[list[str], int]:
    """The lines of spans whose trace begins with those letters, as many as one message carries."""
    lines: list[str] = []
    size = 0
    for number, span in enumerate(one for one in spans if one.trace_id.startswith(trace)):
        if number < after:
            continue
        line = encode(span)
        size += len(line) + line.count('"') + line.count("\\") + 8
        if lines and size > PAGE_BYTES:
            return lines, number
        lines.append(line)
    return lines, 0
