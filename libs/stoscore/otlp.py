"""Spans and metrics on their way to an OpenTelemetry collector. A collector that is slow, down or hangs costs what it
would have heard, nothing else.

The SDK's batch processor holds a bounded queue and sends from a thread of its own; what finds it full is dropped there.
Spans are made by `stoscore.telemetry` and counts by `stoscore.metrics`; here they only get the SDK's shape. Imported
when an exporter is set.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from stoscore.metrics import Instrument, Sample
from stoscore.spans import Link, SpanRecord

log = logging.getLogger("stos.otlp")

QUEUE_MAX = 4096
BATCH_MAX = 512
EXPORT_TIMEOUT_MS = 3000
FLUSH_MS = 2000
"""How long an ending process waits for a collector."""
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("stos")
_KIND = {"internal": trace.SpanKind.INTERNAL, "server": trace.SpanKind.SERVER, "client": trace.SpanKind.CLIENT}


def resource(service: str) -> Resource:
    """Who sends: stos-replica, and which of them."""
    return Resource.create(
        {"service.name": f"stos-{service}", "service.instance.id": f"{os.uname().nodename}-{os.getpid()}"}
    )


def span_exporter(
    service: str, exporter: str, endpoint: str
) -> tuple[Callable[[SpanRecord], None], Callable[[], None]]:
    """What takes spans, and what ends it. `exporter`: console or otlp."""
    sending = _exporter(exporter, endpoint)
    processor = BatchSpanProcessor(
        sending,
        max_queue_size=QUEUE_MAX,
        max_export_batch_size=BATCH_MAX,
        export_timeout_millis=EXPORT_TIMEOUT_MS,
    )
    about = resource(service)

    def send(span: SpanRecord) -> None:
        processor.on_end(readable(span, about))

    return send, partial(_end, processor, sending)


def _exporter(exporter: str, endpoint: str) -> SpanExporter:
    if exporter == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda item: f"{item.to_json(indent=None)}\n")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=EXPORT_TIMEOUT_MS / 1000)


def _end(processor: BatchSpanProcessor, exporter: SpanExporter) -> None:
    """Sends what is left, for as long as `FLUSH_MS`. The SDK knows no such bound: it hands over batch by batch, each
    with a timeout of its own, and a collector that hangs would hold a node up until Kubernetes kills it."""
    ending = threading.Thread(target=processor.shutdown, name="otlp end", daemon=True)
    ending.start()
    ending.join(FLUSH_MS / 1000)
    if ending.is_alive():
        # It cancels the call that is under way; the batches behind it are refused at once.
        exporter.shutdown()
        ending.join(FLUSH_MS / 1000)


def metric_exporter(service: str, endpoint: str) -> Callable[[list[Sample]], None]:
    """What sends samples, waiting for the collector as long as it takes, bounded. Never raises."""
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    timeout_s = EXPORT_TIMEOUT_MS / 1000
    exporter = OTLPMetricExporter(endpoint=endpoint, insecure=True, timeout=timeout_s)
    about, began_ns = resource(service), time.time_ns()

    def send(samples: list[Sample]) -> None:
        try:
            exporter.export(metrics_data(samples, about, began_ns, time.time_ns()), timeout_millis=EXPORT_TIMEOUT_MS)
        except Exception:
            # The library's edge: what a collector does must not end what is observed.
            log.warning("metrics could not be exported", exc_info=True)

    return send


def metrics_data(samples: list[Sample], about: Resource, began_ns: int, now_ns: int) -> MetricsData:
    """Samples in the SDK's shape: cumulative since the process began."""
    families: dict[str, list[Sample]] = {}
    for sample in samples:
        families.setdefault(sample.name, []).append(sample)
    told = [_metric(members, began_ns, now_ns) for members in families.values()]
    scopes = [ScopeMetrics(_SCOPE, told, "")]
    return MetricsData([ResourceMetrics(about, scopes, "")])


def _metric(members: list[Sample], began_ns: int, now_ns: int) -> Metric:
    instrument = members[0].instrument
    points: list[Any] = [_point(sample, instrument, began_ns, now_ns) for sample in members]
    data: Any
    if instrument.kind == "gauge":
        data = Gauge(points)
    elif instrument.kind == "counter":
        data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    else:
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
    return Metric(instrument.name, instrument.description, instrument.unit, data)


def _point(sample: Sample, instrument: Instrument, began_ns: int, now_ns: int) -> Any:
    attributes = {f"stos.{key}": value for key, value in zip(instrument.attributes, sample.attributes, strict=True)}
    if instrument.kind != "histogram":
        return NumberDataPoint(attributes, began_ns, now_ns, sample.value)
    count = sum(sample.counts)
    return HistogramDataPoint(
        attributes, began_ns, now_ns, count, sample.value, sample.counts, instrument.bounds, 0.0, instrument.bounds[-1]
    )


def readable(span: SpanRecord, about: Resource) -> ReadableSpan:
    """The SDK's own view of a finished span."""
    parent = _context(span.trace_id, span.parent_id) if span.parent_id else None
    status = trace.Status(trace.StatusCode.ERROR, span.error) if span.error else trace.Status()
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id),
        parent=parent,
        resource=about,
        attributes=span.attributes,
        links=[_link(link) for link in span.links],
        kind=_KIND[span.kind],
        instrumentation_scope=_SCOPE,
        status=status,
        start_time=span.start_ns,
        end_time=span.end_ns,
    )


def _link(link: Link) -> trace.Link:
    return trace.Link(_context(link.trace_id, link.span_id), {"stos.link": link.why})


def _context(trace_id: str, span_id: str) -> trace.SpanContext:
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
