"""Structured logs and traces: every line carries its trace, and one trace crosses all services.

Trace ids are made and passed on always (W3C `traceparent`), so that logs of different processes can be
joined. Spans leave the process only when an exporter is set; the OpenTelemetry SDK is imported only then,
because it costs start-up time that a restarted node service doesn't have.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoscore.settings import CommonSettings

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SPAN: ContextVar[Span | None] = ContextVar("stos_span", default=None)
_exporter: Any = None
"""The OpenTelemetry tracer when an exporter is set, and what sends its spans."""
_provider: Any = None


class Span:
    """One piece of work with a name, a place in a trace and attributes."""

    __slots__ = ("_otel", "name", "traceparent")

    def __init__(self, name: str, traceparent: str, otel: Any = None):
        self.name = name
        self.traceparent = traceparent
        self._otel = otel

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def set(self, **attributes: str | int | float | bool) -> None:
        """Attributes that are known only later."""
        if self._otel is not None:
            for key, value in attributes.items():
                self._otel.set_attribute(f"stos.{key}", value)

    def fail(self, reason: str) -> None:
        """The work failed for a known reason."""
        if self._otel is not None:
            from opentelemetry.trace import Status, StatusCode

            self._otel.set_status(Status(StatusCode.ERROR, reason))


@contextmanager
def span(name: str, parent_traceparent: str | None = None, **attributes: str | int | float | bool) -> Iterator[Span]:
    """Work under a span: child of `parent_traceparent`, or of the current span, or the root of a new trace."""
    parent = parent_traceparent or current_traceparent()
    if _exporter is None:
        opened = Span(name, _child_of(parent))
        token = _SPAN.set(opened)
        try:
            yield opened
        finally:
            _SPAN.reset(token)
        return
    with _exported(name, parent, attributes) as opened:
        token = _SPAN.set(opened)
        try:
            yield opened
        finally:
            _SPAN.reset(token)


def current_traceparent() -> str:
    """W3C traceparent of the current span, "" outside of any."""
    current = _SPAN.get()
    return current.traceparent if current else ""


def valid_traceparent(text: str) -> str:
    """The text if it is a traceparent, else "": what comes from outside is not passed on unread."""
    return text if _TRACEPARENT.fullmatch(text) else ""


def _child_of(parent: str) -> str:
    match = _TRACEPARENT.fullmatch(parent) if parent else None
    trace_id = match[1] if match else os.urandom(16).hex()
    return f"00-{trace_id}-{os.urandom(8).hex()}-01"


@contextmanager
def _exported(name: str, parent: str, attributes: dict[str, Any]) -> Iterator[Span]:
    from opentelemetry import trace

    context = None
    match = _TRACEPARENT.fullmatch(parent) if parent else None
    if match:
        remote = trace.SpanContext(
            int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=trace.TraceFlags(1)
        )
        context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    prefixed = {f"stos.{key}": value for key, value in attributes.items()}
    with _exporter.start_as_current_span(name, context=context, attributes=prefixed) as otel:
        ids = otel.get_span_context()
        yield Span(name, f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01", otel)


# ---- logs --------------------------------------------------------------------------------------------


def get_logger(name: str) -> logging.Logger:
    """A logger below "stos". Fields of a line go into `extra`: `log.info("attached", extra={"volume": v})`."""
    return logging.getLogger(f"stos.{name}")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}
    current = _SPAN.get()
    if current is not None and "trace_id" not in fields:
        fields["trace_id"] = current.trace_id
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, service: str):
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """A line for people: time, level, logger, message, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        line = f"{moment} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        line = f"{line}  {fields}" if fields else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def setup(service: str, settings: CommonSettings) -> None:
    """Logs to standard error in the chosen format; spans to the chosen exporter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if settings.log_format == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # It warns whenever a TLS connection of the NATS client is closed by the other side.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("stos").setLevel(settings.log_level.upper())
    if settings.otel_exporter != "none":
        _export(service, settings)


def _export(service: str, settings: CommonSettings) -> None:
    global _exporter, _provider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if settings.otel_exporter == "console":
        exporter = ConsoleSpanExporter(out=sys.stderr, formatter=lambda item: f"{item.to_json(indent=None)}\n")
    else:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=settings.otel_endpoint, insecure=True)
    _provider = TracerProvider(resource=Resource.create({"service.name": f"stos-{service}"}))
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _exporter = _provider.get_tracer("stos")


def shutdown() -> None:
    """Send what is still buffered."""
    if _provider is not None:
        _provider.shutdown()
