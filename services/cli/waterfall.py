"""The shape of a trace, pure: who is whose child, where each span lies on one common line of time.

Spans come from processes with clocks of their own. Work can't begin before its cause, nor a call be answered when its
asker has gone; what seems so, in another process, is moved with all below it to where it can have been: a call into the
middle of who asks, because the way there and back takes about the same. What was moved says so. A span whose parent
nobody kept is shown at the top and says so too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stoscore.spans import Link, SpanRecord

CHILDREN_MAX = 200
"""Of one span; the rest is counted."""
SHOWN_MAX = 5000
"""Of one trace, those nearest to its beginning; the rest is counted where it belongs. A browser takes minutes over a
page of a hundred thousand lines."""


@dataclass(frozen=True, slots=True)
class Told:
    """A span, and the process that told it."""

    process: str
    span: SpanRecord


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the waterfall."""

    told: Told | None
    """None: spans that are left out, and `hidden` says how many"""
    depth: int
    start_ns: int
    """from the start of the trace, corrected"""
    moved_ns: int = 0
    """by how much the process's clock was corrected"""
    orphan: bool = False
    """its parent was not kept"""
    hidden: int = 0
    linked_by: tuple[Link, ...] = ()
    """spans that have a link to this one"""


@dataclass(frozen=True, slots=True)
class Waterfall:
    trace_id: str
    rows: tuple[Row, ...]
    start_ns: int
    """Unix time of the earliest span"""
    duration_ns: int
    spans: int
    processes: tuple[str, ...]
    errors: int


def arrange(told: Iterable[Told], children_max: int = CHILDREN_MAX, shown_max: int = SHOWN_MAX) -> Waterfall:
    """The spans of one trace, each once. There has to be one."""
    known: dict[str, Told] = {}
    for item in told:
        known.setdefault(item.span.span_id, item)
    assert known, "a trace has spans"
    children, tops = _families(known)
    chosen = _nearest(tops, children, children_max, shown_max)
    linked_by = _linked_by(known.values())
    rows: list[Row] = []
    base_ns = min(item.span.start_ns for item in tops)
    # Depth first, without recursion: a trace may be as deep as whoever made it likes.
    pending: list[tuple[Told, int, int, Row | None]] = [
        (item, 0, 0, None) for item in reversed(tops) if item.span.span_id in chosen
    ]
    while pending:
        item, depth, moved_ns, rest = pending.pop()
        if rest is not None:
            rows.append(rest)
            continue
        span = item.span
        start_ns = span.start_ns + moved_ns - base_ns
        orphan = bool(span.parent_id) and depth == 0
        rows.append(Row(item, depth, start_ns, moved_ns, orphan, 0, tuple(linked_by.get(span.span_id, ()))))
        below = children.get(span.span_id, ())
        kept, left = _split(below, chosen)
        if left:
            rest = Row(None, depth + 1, start_ns, hidden=_count(left, children))
            pending.append((item, depth, 0, rest))
        for child in reversed(kept):
            pending.append((child, depth + 1, moved_ns + _correction(item, child, moved_ns), None))
    _, left = _split(tops, chosen)
    if left:
        rows.append(Row(None, 0, rows[-1].start_ns, hidden=_count(left, children)))
    shown = [row for row in rows if row.told is not None]
    earliest_ns = min(row.start_ns for row in shown)
    end_ns = max(row.start_ns + row.told.span.duration_ns for row in shown if row.told is not None)
    first = next(iter(known.values())).span
    return Waterfall(
        first.trace_id,
        tuple(rows),
        base_ns + earliest_ns,
        end_ns - earliest_ns,
        len(known),
        tuple(sorted({item.process for item in known.values()})),
        sum(bool(item.span.error) for item in known.values()),
    )


def _families(known: Mapping[str, Told]) -> tuple[dict[str, list[Told]], list[Told]]:
    """Parent -> children in order of time, and what is at the top. A ring of parents, which only a liar makes, is cut
    at its earliest span."""
    children: dict[str, list[Told]] = {}
    tops = []
    for item in sorted(known.values(), key=lambda one: one.span.start_ns):
        if item.span.parent_id in known:
            children.setdefault(item.span.parent_id, []).append(item)
        else:
            tops.append(item)
    reached = _below(tops, children)
    for item in sorted(known.values(), key=lambda one: one.span.start_ns):
        if item.span.span_id not in reached:
            children[item.span.parent_id].remove(item)
            tops.append(item)
            reached |= _below([item], children)
    return children, tops


def _nearest(tops: Sequence[Told], children: Mapping[str, list[Told]], children_max: int, shown_max: int) -> set[str]:
    """Which spans are shown: level by level from the top, so that what is left out are the details."""
    waiting, chosen = deque(tops), set[str]()
    while waiting and len(chosen) < shown_max:
        item = waiting.popleft()
        chosen.add(item.span.span_id)
        waiting.extend(children.get(item.span.span_id, ())[:children_max])
    return chosen


def _split(items: Sequence[Told], chosen: set[str]) -> tuple[list[Told], list[Told]]:
    """Those that are shown, and those that are left out."""
    kept = [item for item in items if item.span.span_id in chosen]
    return kept, [item for item in items if item.span.span_id not in chosen]


def _below(tops: Sequence[Told], children: Mapping[str, list[Told]]) -> set[str]:
    reached: set[str] = set()
    pending = list(tops)
    while pending:
        item = pending.pop()
        reached.add(item.span.span_id)
        pending += [child for child in children.get(item.span.span_id, ()) if child.span.span_id not in reached]
    return reached


def _count(items: Sequence[Told], children: Mapping[str, list[Told]]) -> int:
    return len(_below(items, children))


def _correction(parent: Told, child: Told, moved_ns: int) -> int:
    """How far the child's clock has to be moved beyond its parent's. A call is answered while its asker waits; other
    work only can't begin before its cause, and may well outlive it."""
    if parent.process == child.process:
        return 0
    start_ns, end_ns = child.span.start_ns + moved_ns, child.span.end_ns + moved_ns
    its_start_ns, its_end_ns = parent.span.start_ns + moved_ns, parent.span.end_ns + moved_ns
    is_call = child.span.kind == "server"
    if its_start_ns <= start_ns and (not is_call or end_ns <= its_end_ns or start_ns <= its_end_ns):
        return 0
    room_ns = max(0, parent.span.duration_ns - child.span.duration_ns) if is_call else 0
    return its_start_ns + room_ns // 2 - start_ns


def _linked_by(told: Iterable[Told]) -> dict[str, list[Link]]:
    found: dict[str, list[Link]] = {}
    for item in told:
        for link in item.span.links:
            found.setdefault(link.span_id, []).append(Link(item.span.trace_id, item.span.span_id, link.why))
    return found


def format_ns(duration_ns: int) -> str:
    """12 µs, 3.4 ms, 1.25 s; what would round up to a thousand is told in the next unit."""
    if duration_ns < 999_500:
        return f"{duration_ns / 1000:.0f} µs"
    if duration_ns < 999_950_000:
        return f"{duration_ns / 1e6:.1f} ms"
    return f"{duration_ns / 1e9:.2f} s"
