"""The waterfall: families, clocks apart, missing parents, rings, a hundred thousand spans, and names that attack."""

from __future__ import annotations

import re

import pytest

from services.cli.trace_html import render
from services.cli.trace_text import draw
from services.cli.waterfall import SHOWN_MAX, Told, Waterfall, arrange, format_ns
from stoscore.spans import Link, SpanRecord
from stoscore.units import MS, SECOND

TRACE = "a" * 32
START_NS = 1_800_000_000 * SECOND
EVIL = "<script>alert('x')</script>\x1b[31m\r\n\u202e&quot;"


def span(number: int, parent: int = 0, start_ms: float = 0, took_ms: float = 10, **more: object) -> SpanRecord:
    start_ns = START_NS + int(start_ms * MS)
    parent_id = f"{parent:016x}" if parent else ""
    name = str(more.pop("name", f"span {number}"))
    return SpanRecord(TRACE, f"{number:016x}", parent_id, name, start_ns, int(took_ms * MS), **more)  # type: ignore[arg-type]


def told(*spans: SpanRecord, process: str = "node/n1") -> list[Told]:
    return [Told(process, one) for one in spans]


def names(waterfall: Waterfall) -> list[tuple[int, str]]:
    return [(row.depth, row.told.span.name) for row in waterfall.rows if row.told]


def test_children_follow_their_parent_in_order_of_time() -> None:
    drawn = arrange(told(span(3, 1, 5, 2), span(1, took_ms=10), span(4, 3, 6, 1), span(2, 1, 1, 2)))
    assert names(drawn) == [(0, "span 1"), (1, "span 2"), (1, "span 3"), (2, "span 4")]
    assert (drawn.duration_ns, drawn.spans, drawn.errors) == (10 * MS, 4, 0)


def test_a_span_that_is_told_twice_is_shown_once() -> None:
    assert arrange(told(span(1), span(1))).spans == 1


def test_a_missing_parent_is_said() -> None:
    drawn = arrange(told(span(1), span(2, parent=99, start_ms=3)))
    assert [row.orphan for row in drawn.rows] == [False, True]
    text = "\n".join(draw(drawn, 80))
    assert "? span 2" in text
    assert "was not kept" in text
    assert "was not kept" in render(drawn)


@pytest.mark.parametrize("apart_ms", [-3_600_000, -40, 40, 3_600_000])
def test_a_child_by_another_clock_lies_inside_its_parent(apart_ms: float) -> None:
    """Its own children move with it."""
    theirs = told(span(2, 1, 20 + apart_ms, 10, kind="server"), span(3, 2, 22 + apart_ms, 4), process="svc/other")
    drawn = arrange(told(span(1, took_ms=30)) + theirs)
    parent, child, below = drawn.rows
    assert child.moved_ns
    assert parent.start_ns <= child.start_ns <= child.start_ns + 10 * MS <= parent.start_ns + 30 * MS
    assert below.start_ns - child.start_ns == 2 * MS
    assert drawn.duration_ns == 30 * MS
    assert "~ " in "\n".join(draw(drawn, 80))


def test_work_that_outlives_who_asked_for_it_is_not_moved() -> None:
    drawn = arrange(told(span(1, took_ms=5)) + told(span(2, 1, 3, 50), span(3, 1, 7, 1), process="node/n2"))
    assert drawn.rows[1].moved_ns == 0
    assert drawn.duration_ns == 53 * MS


def test_a_ring_of_parents_is_cut() -> None:
    drawn = arrange(told(span(1, parent=3), span(2, parent=1, start_ms=1), span(3, parent=2, start_ms=2)))
    assert names(drawn) == [(0, "span 1"), (1, "span 2"), (2, "span 3")]


def test_a_hundred_thousand_spans() -> None:
    """Wide and deep at once: bounded, counted, without recursion."""
    wide = [span(number, 1, number / 1000, 0.001) for number in range(2, 90_000)]
    deep = [span(number, number - 1, 0, 1) for number in range(90_001, 100_001)]
    drawn = arrange(told(span(1, took_ms=100), *wide, span(90_000, 1, 0, 100), *deep))
    assert drawn.spans == 100_001 - 1
    hidden = sum(row.hidden for row in drawn.rows)
    shown = sum(row.told is not None for row in drawn.rows)
    assert hidden + shown == drawn.spans
    assert hidden > 0
    assert all(len(line) <= 120 for line in draw(drawn, 120)[2:])


@pytest.mark.parametrize("shape", ["tree", "chain", "orphans"])
def test_whatever_its_shape_a_page_has_a_bound(shape: str) -> None:
    """Nothing is lost from the count, and what is nearest to the beginning is shown."""
    parent = {"tree": lambda n: n // 10 or 1, "chain": lambda n: n - 1, "orphans": lambda n: n + 500_000}[shape]
    drawn = arrange(told(span(1), *(span(number, parent(number)) for number in range(2, 30_001))))
    shown = [row for row in drawn.rows if row.told is not None]
    assert len(shown) == SHOWN_MAX
    assert len(shown) + sum(row.hidden for row in drawn.rows) == drawn.spans == 30_000
    assert len(drawn.rows) < 2 * SHOWN_MAX


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bars_fit(width: int) -> None:
    drawn = arrange(told(span(1, took_ms=10), span(2, 1, 9.99, 0.01), span(3, 1, 0, 0), span(4, 1, 2, 3)))
    lines = draw(drawn, width)[2:]
    assert all(len(line) <= width for line in lines)
    assert all("█" in line for line in lines)


def test_links_are_told_at_both_ends() -> None:
    link = Link(TRACE, f"{2:016x}", "resync")
    drawn = arrange(told(span(1, links=(link,)), span(2, start_ms=5)))
    text = "\n".join(draw(drawn, 80))
    assert f"link to {TRACE} {2:016x}: resync" in text
    assert f"linked by {1:016x}: resync" in text


def test_hostile_words_stay_words() -> None:
    hostile = span(1, name=EVIL, error=EVIL, attributes={EVIL: EVIL}, links=(Link(TRACE, f"{1:016x}", EVIL),))
    drawn = arrange(told(hostile, process=EVIL))
    text = "\n".join(draw(drawn, 120, attributes=True))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    page = render(drawn)
    assert "\x1b" not in page
    assert "<script" not in page
    assert not re.search(r"\bon\w+=|https?:|src=|url\(", page)
    assert "default-src 'none'" in page


def test_what_was_decided_is_told_beside_the_decision() -> None:
    waterfall = arrange(told(span(1, name="brain lead", attributes={"stos.outcome": "elected by n1\x1b, <n3>"})))
    assert "    elected by n1\\x1b, <n3>" in draw(waterfall, 100)
    assert "elected by n1\\x1b, &lt;n3&gt;" in render(waterfall).partition("<dl>")[0]


def test_an_id_is_as_long_as_it_must_be_and_a_failure_is_red() -> None:
    name = f"request stos.v1.node.n3.vol.{'0123456789abcdef' * 2}.snapshot"
    waterfall = arrange(told(span(1, name=name, error="no")))
    line = next(line for line in draw(waterfall, 120) if "snapshot" in line)
    assert line.startswith("! request node.n3.vol.012345….snapshot (node/n1)")
    assert draw(waterfall, 120, colours=True).count(f"\x1b[31m{line}\x1b[0m") == 1
    page = render(waterfall)
    assert "vol.012345….snapshot" in page and name in page, "in full where it is unfolded"
    assert "class='bar failed'" in page


def test_durations() -> None:
    assert [format_ns(ns) for ns in (0, 1_500, 12_345_678, 2_500_000_000)] == ["0 µs", "2 µs", "12.3 ms", "2.50 s"]
    edges = (999_499, 999_600, 999_949_999, 999_960_000)
    assert [format_ns(ns) for ns in edges] == ["999 µs", "1.0 ms", "999.9 ms", "1.00 s"]
