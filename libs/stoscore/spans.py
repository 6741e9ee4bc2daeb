"""A finished span: what it was, where it belongs, how long it took; and the one line that it is kept as.

Ids are W3C's, attributes are named as OpenTelemetry names them, so that the same record is kept on disk, shown by
`stos trace` and exported over OTLP. Every word of a line may come from somewhere else: reading is strict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SPAN_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_KINDS = ("internal", "server", "client")
TEXT_MAX = 512
"""Characters of a name, an error or an attribute; what is longer is cut."""
ATTRIBUTES_MAX = 64
LINKS_MAX = 32


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that this one has to do with, and why: "missed beats", "resync"."""

    trace_id: str
    span_id: str
    why: str


@dataclass(frozen=True, slots=True)
class SpanRecord:
    trace_id: str
    span_id: str
    parent_id: str
    """ "" for the root of a trace"""
    name: str
    start_ns: int
    """Unix time, by the clock of the process that did the work"""
    duration_ns: int
    kind: Kind = "internal"
    error: str = ""
    """why it failed; "" when it did not"""
    attributes: dict[str, Value] = field(default_factory=dict)
    links: tuple[Link, ...] = ()

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


class BadSpan(ValueError):
    """A line that is no span."""


def link_to(traceparent: str, why: str) -> Link | None:
    """None for what is no traceparent."""
    match = TRACEPARENT.fullmatch(traceparent)
    return Link(match[1], match[2], why) if match else None


def bounded(values: dict[str, Any]) -> dict[str, Value]:
    """As many and as long as a span may have."""
    return {
        str(key)[:TEXT_MAX]: value if isinstance(value, bool | int | float) else str(value)[:TEXT_MAX]
        for key, value in list(values.items())[:ATTRIBUTES_MAX]
    }


def encode(span: SpanRecord) -> str:
    """One line, without its end. The ids come first, so that a reader finds them without parsing."""
    return json.dumps(
        [
            span.trace_id,
            span.span_id,
            span.parent_id,
            span.name[:TEXT_MAX],
            span.start_ns,
            span.duration_ns,
            span.kind,
            span.error[:TEXT_MAX],
            span.attributes,
            [[link.trace_id, link.span_id, link.why] for link in span.links[:LINKS_MAX]],
        ],
        separators=(",", ":"),
    )


def decode(line: str) -> SpanRecord:
    """Raises BadSpan for a torn line, or anything else that `encode` does not write."""
    try:
        trace_id, span_id, parent_id, name, start_ns, duration_ns, kind, error, attributes, links = json.loads(line)
    except (ValueError, TypeError, RecursionError) as problem:
        raise BadSpan(str(problem)) from None
    _check(_is(trace_id, _TRACE_ID) and _is(span_id, _SPAN_ID) and (parent_id == "" or _is(parent_id, _SPAN_ID)))
    _check(isinstance(name, str) and isinstance(error, str) and kind in _KINDS)
    _check(all(isinstance(number, int) and 0 <= number < 1 << 63 for number in (start_ns, duration_ns)))
    _check(isinstance(attributes, dict) and isinstance(links, list))
    return SpanRecord(
        trace_id, span_id, parent_id, name, start_ns, duration_ns, kind, error, bounded(attributes), _links(links)
    )


def _links(raw: Iterable[Any]) -> tuple[Link, ...]:
    found = []
    for item in raw:
        _check(isinstance(item, list) and len(item) == 3)
        trace_id, span_id, why = item
        _check(_is(trace_id, _TRACE_ID) and _is(span_id, _SPAN_ID) and isinstance(why, str))
        found.append(Link(trace_id, span_id, why[:TEXT_MAX]))
    return tuple(found)


def _is(text: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _check(holds: bool) -> None:
    if not holds:
        raise BadSpan("a field has no possible value")
