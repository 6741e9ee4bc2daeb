"""A trace in the terminal: one line a span, its bar on the common line of time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from services.cli.waterfall import Row, Waterfall, format_ns
from stoscore.subjects import PREFIX
from stoscore.tables import Tone, painted, plain

OUTCOME = "stos.outcome"
"""What was decided, in words: the one attribute that is always shown."""
NAME_SHARE = 0.45
"""Of the width, for the names; the rest is for duration and bar."""
WIDTH_MIN = 40
_DURATION_CHARS = 9
_ID = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{26}\b", re.ASCII)
_PREFIX = f"{PREFIX}."
"""Every subject begins so; names need the room."""


def draw(waterfall: Waterfall, width: int, *, attributes: bool = False, colours: bool = False) -> list[str]:
    """Lines of at most `width` characters, but for outcomes, links, errors and attributes, which are told in full. What
    failed is red where there are `colours`."""
    width = max(width, WIDTH_MIN)
    names = int(width * NAME_SHARE)
    bars = width - names - _DURATION_CHARS - 3
    lines = [heading(waterfall), ""]
    for row in waterfall.rows:
        told = _lines(row, waterfall, names, bars, attributes=attributes)
        failed = colours and row.told is not None and row.told.span.error
        lines += [painted(line, Tone.BAD) for line in told] if failed else told
    notes = _notes(waterfall)
    return [*lines, "", *notes] if notes else lines


def heading(waterfall: Waterfall) -> str:
    moment = datetime.fromtimestamp(waterfall.start_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    told = f"trace {waterfall.trace_id}  {moment}  {format_ns(waterfall.duration_ns)}"
    failed = f", {waterfall.errors} failed" if waterfall.errors else ""
    return f"{told}  {waterfall.spans} spans of {len(waterfall.processes)} processes{failed}"


def _lines(row: Row, waterfall: Waterfall, names: int, bars: int, *, attributes: bool) -> list[str]:
    indent = "  " * min(row.depth, names // 4)
    if row.told is None:
        return [f"{indent}… {row.hidden} more"]
    span = row.told.span
    marks = ("! " if span.error else "") + ("? " if row.orphan else "") + ("~ " if row.moved_ns else "")
    name = _cut(f"{indent}{marks}{plain(short(span.name))} ({plain(row.told.process)})", names)
    duration = format_ns(span.duration_ns).rjust(_DURATION_CHARS)
    lines = [f"{name.ljust(names)} {duration} {_bar(row, waterfall, bars)}".rstrip()]
    below = f"{indent}    "
    if outcome := span.attributes.get(OUTCOME):
        lines.append(f"{below}{plain(outcome)}")
    if span.error:
        lines.append(f"{below}failed: {plain(span.error)}")
    lines += [f"{below}link to {link.trace_id} {link.span_id}: {plain(link.why)}" for link in span.links]
    lines += [f"{below}linked by {link.span_id}: {plain(link.why)}" for link in row.linked_by]
    if attributes:
        lines += [f"{below}{plain(key)}={plain(value)}" for key, value in sorted(span.attributes.items())]
    return lines


def _bar(row: Row, waterfall: Waterfall, width: int) -> str:
    assert row.told is not None
    whole_ns = max(waterfall.duration_ns, 1)
    first = min(width - 1, row.start_ns * width // whole_ns) if row.start_ns > 0 else 0
    length = max(1, round(row.told.span.duration_ns * width / whole_ns))
    return " " * first + "█" * min(length, width - first)


def short(name: str) -> str:
    """A span's name without what is the same everywhere, and with as much of an id as tells it from others."""
    return _ID.sub(r"\1…", name.replace(_PREFIX, ""))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _notes(waterfall: Waterfall) -> list[str]:
    notes = []
    if any(row.orphan for row in waterfall.rows):
        notes.append("?  the span that it is part of was not kept, or its process did not answer")
    if any(row.moved_ns for row in waterfall.rows):
        notes.append("~  that process's clock differs; moved to where it can have been")
    return notes
