"""Spans on their way to an OpenTelemetry collector. A collector that is slow, down or hangs costs spans, nothing else.

The SDK's batch processor holds a bounded queue and sends from a thread of its own; what finds it full is dropped there.
Records are made by `stoscore.telemetry`; here they only get the SDK's shape. Imported when an exporter is set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from stoscore.spans import Link, SpanRecord

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
    processor = BatchSpanProcessor(
        _exporter(exporter, endpoint),
        max_queue_size=QUEUE_MAX,
        max_export_batch_size=BATCH_MAX,
        export_timeout_millis=EXPORT_TIMEOUT_MS,
    )
    about = resource(service)

    def send(span: SpanRecord) -> None:
        processor.on_end(readable(span, about))

    return send, partial(_end, processor)


def _exporter(exporter: str, endpoint: str) -> SpanExporter:
    if exporter == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda item: f"{item.to_json(indent=None)}\n")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=EXPORT_TIMEOUT_MS / 1000)


def _end(processor: BatchSpanProcessor) -> None:
    processor.force_flush(FLUSH_MS)
    processor.shutdown()  # type: ignore[no-untyped-call]


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
