"""Structured logs and traces: every line carries its trace, and one trace crosses all services.

Trace ids are made and passed on always (W3C `traceparent`), so that logs of different processes can be
joined. A finished span goes to whoever wants it: the process's own store of recent ones (`stoscore.span_store`), and
an exporter when one is set (`stoscore.otlp`, imported only then, because OpenTelemetry's SDK costs start-up time that a
restarted node service doesn't have). A span that nobody wants costs its ids and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoscore.errors import Code, StosError
from stoscore.span_store import SpanStore
from stoscore.spans import TRACEPARENT, Kind, Link, SpanRecord, Value, bounded, link_to

if TYPE_CHECKING:
    from stoscore.settings import CommonSettings

CONVENTIONAL = {
    "subject": "messaging.destination.name",
    "messaging_system": "messaging.system",
    "rpc_method": "rpc.method",
    "rpc_system": "rpc.system",
    "error_type": "error.type",
}
"""Attributes that OpenTelemetry's semantic conventions name; every other one is called `stos.<name>`."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SPAN: ContextVar[Span | None] = ContextVar("stos_span", default=None)
_sinks: list[Callable[[SpanRecord], None]] = []
"""Who is given finished spans. None of them waits or raises."""
_endings: list[Callable[[], None]] = []
store: SpanStore | None = None
"""This process's recent spans, when it keeps them."""


class Span:
    """One piece of work with a name, a place in a trace and attributes."""

    __slots__ = (
        "_attributes",
        "_error",
        "_kind",
        "_links",
        "_parent_id",
        "_refused",
        "_start_ns",
        "_started_ns",
        "name",
        "traceparent",
    )

    def __init__(
        self,
        name: str,
        parent: str,
        attributes: dict[str, Value],
        *,
        kind: Kind = "internal",
        links: tuple[Link, ...] = (),
        sampled: bool = True,
    ):
        match = TRACEPARENT.fullmatch(parent) if parent else None
        trace_id, self._parent_id = (match[1], match[2]) if match else (os.urandom(16).hex(), "")
        flags = match[3] if match else ("01" if sampled else "00")
        self.name = name
        self.traceparent = f"00-{trace_id}-{os.urandom(8).hex()}-{flags}"
        self._attributes = attributes
        self._kind = kind
        self._links = links
        self._error = ""
        self._refused = False
        self._start_ns = time.time_ns()
        self._started_ns = time.monotonic_ns()

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def set(self, **attributes: Value) -> None:
        """Attributes that are known only later."""
        self._attributes.update(attributes)

    def link(self, traceparent: str, why: str) -> None:
        """It has to do with that span; what is no traceparent is left out."""
        found = link_to(traceparent, why)
        if found is not None:
            self._links += (found,)

    def fail(self, reason: str, kind: str = "") -> None:
        """The work failed for a known reason; `kind`: a code, or the exception's class."""
        self._error = reason or "failed"
        if kind:
            self._attributes["error_type"] = kind

    def refuse(self, error: StosError) -> None:
        """The question that this work is was answered by an error. That there is none is as good an answer as another:
        whoever makes something asks for its name first, and a trace in which that had failed would look ill."""
        self._refused = True
        if error.code is Code.NOT_FOUND:
            self.set(answer=error.code.value)
        else:
            self.fail(error.message, error.code.value)

    def end(self) -> None:
        if not _sinks or self.traceparent.endswith("-00"):
            return
        named = {CONVENTIONAL.get(key, f"stos.{key}"): value for key, value in self._attributes.items()}
        record = SpanRecord(
            self.trace_id,
            self.traceparent[36:52],
            self._parent_id,
            self.name,
            self._start_ns,
            time.monotonic_ns() - self._started_ns,
            self._kind,
            self._error,
            bounded(named),
            self._links,
        )
        for sink in _sinks:
            sink(record)


@contextmanager
def span(
    name: str,
    parent_traceparent: str | None = None,
    *,
    span_kind: Kind = "internal",
    links: tuple[Link, ...] = (),
    sampled: bool = True,
    **attributes: Value,
) -> Iterator[Span]:
    """Work under a span: child of `parent_traceparent`, or of the current span, or the root of a new trace. `sampled`
    False (of a root) keeps the whole trace out of stores and exporters: those who look at traces should not fill them.
    """
    parent = parent_traceparent or current_traceparent()
    opened = Span(name, parent, attributes, kind=span_kind, links=links, sampled=sampled)
    token = _SPAN.set(opened)
    try:
        yield opened
    except BaseException as error:
        if not opened._error and not opened._refused:
            kind = error.code.value if isinstance(error, StosError) else type(error).__name__
            opened.fail(str(error) or kind, kind)
        raise
    finally:
        _SPAN.reset(token)
        opened.end()


def promise() -> str:
    """The traceparent of a root span that will be recorded later, so that others can link to it before."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def record(
    name: str,
    duration_ns: int,
    *,
    parent: str = "",
    error: str = "",
    links: tuple[Link, ...] = (),
    promised: str = "",
    **attributes: Value,
) -> str:
    """A span of work that is over: where opening one beforehand would cost too much. Gives its traceparent; `promised`:
    the one that it was promised."""
    told = Span(name, parent, attributes, links=links)
    told.traceparent = promised or told.traceparent
    told._start_ns -= duration_ns
    told._started_ns -= duration_ns
    if error:
        told.fail(error)
    told.end()
    return told.traceparent


def current_traceparent() -> str:
    """W3C traceparent of the current span, "" outside of any."""
    current = _SPAN.get()
    return current.traceparent if current else ""


def valid_traceparent(text: str) -> str:
    """The text if it is a traceparent, else "": what comes from outside is not passed on unread."""
    return text if TRACEPARENT.fullmatch(text) else ""


def keep(directory: Path, bytes_max: int) -> SpanStore:
    """Keep this process's spans there from now on, until `shutdown`."""
    global store
    store = SpanStore(directory, bytes_max)
    _sinks.append(store.add)
    _endings.append(store.close)
    return store


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
    """Logs to standard error in the chosen format; spans to the process's own store and the chosen exporter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if settings.log_format == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # It warns whenever a TLS connection of the NATS client is closed by the other side.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("stos").setLevel(settings.log_level.upper())
    if settings.trace_bytes:
        keep(settings.trace_dir or settings.identity_dir / "traces", settings.trace_bytes)
    if settings.otel_exporter != "none":
        from stoscore.otlp import span_exporter

        send, end = span_exporter(service, settings.otel_exporter, settings.otel_endpoint)
        _sinks.append(send)
        _endings.append(end)


def shutdown() -> None:
    """Keep and send what is still buffered, and forget where to."""
    global store
    _sinks.clear()
    while _endings:
        _endings.pop()()
    store = None
