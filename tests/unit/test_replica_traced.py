"""What a node is asked to follow is bounded, and what it tells of it belongs together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.replica.nbd.figures import IoFigures
from services.replica.nbd.wire import Command
from services.replica.peers import Type
from services.replica.traced import (
    APART_NS,
    FOLLOWED_MAX,
    ONE_IN,
    SLOW_NS,
    Traced,
    frontend_span,
    keep_if_slow,
    key_of,
    primary_span,
    sampled,
)
from stoscore import telemetry
from stoscore.spans import TRACEPARENT, SpanRecord
from stoscore.units import SECOND

VOLUME, OTHER = b"a" * 16, b"b" * 16


@pytest.fixture
def spans() -> Iterator[list[SpanRecord]]:
    found: list[SpanRecord] = []
    telemetry._sinks.append(found.append)
    yield found
    telemetry._sinks.remove(found.append)


def test_every_node_names_a_request_alike_and_no_two_requests() -> None:
    names = [name(volume, key_of(volume, 7)) for volume in (VOLUME, OTHER) for name in (frontend_span, primary_span)]
    names.append(frontend_span(VOLUME, key_of(VOLUME, 8)))
    assert len(set(names)) == 5
    assert all(TRACEPARENT.fullmatch(name) for name in names)
    assert names[0][3:35] == names[1][3:35], "one trace"


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [(1, ONE_IN - 1, 0), (1, ONE_IN, ONE_IN), (ONE_IN, ONE_IN, ONE_IN), (ONE_IN + 1, 3 * ONE_IN + 5, 3 * ONE_IN)],
)
def test_one_in_many(first: int, last: int, found: int) -> None:
    assert sampled(first, last) == found


def test_from_its_frame_to_its_answer(spans: list[SpanRecord]) -> None:
    followed = Traced()
    followed.asked(VOLUME, 5, 7, Type.IO_WRITE, 11, SECOND)
    followed.stored(11, 3 * SECOND, 9 * SECOND, 4)
    followed.answered(VOLUME, 5, (6, 7, 8), 0, 20 * SECOND)
    stored, served = spans
    assert (stored.name, stored.duration_ns // SECOND) == ("store.write", 8)
    assert stored.attributes["stos.waited_us"] == 2_000_000
    assert (served.name, served.duration_ns // SECOND) == ("primary.write", 19)
    assert stored.parent_id == served.span_id
    assert not followed.requests and not followed.writes


def test_a_failed_request_says_so(spans: list[SpanRecord]) -> None:
    followed = Traced()
    followed.asked(VOLUME, 5, 7, Type.IO_FLUSH, 0, 1000)
    followed.answered(VOLUME, 5, (7,), 5, 2000)
    assert [(span.name, span.error) for span in spans] == [("primary.flush", "errno 5")]


def test_who_flags_everything_has_few_followed(spans: list[SpanRecord]) -> None:
    followed = Traced()
    for number in range(1000):
        followed.asked(VOLUME, 5, number, Type.IO_WRITE, number + 1, number * 1000)
        followed.sent(VOLUME, number, 5000 + number, number * 1000)
    assert len(followed.requests) == len(followed.writes) == 1
    for number in range(1000):
        followed.asked(VOLUME, 5, number, Type.IO_WRITE, number + 1, number * APART_NS + APART_NS)
    assert len(followed.requests) == len(followed.writes) == FOLLOWED_MAX
    assert (VOLUME, 5, 999) in followed.requests, "the oldest make room"
    assert spans == []


def test_slow_and_failed_disk_work_is_always_kept(spans: list[SpanRecord]) -> None:
    keep_if_slow("store.sync", "v", SLOW_NS - 1, None)
    keep_if_slow("store.sync", "v", SLOW_NS, None)
    keep_if_slow("store.mark", "v", 1, OSError("input/output error"))
    assert [(span.name, span.error) for span in spans] == [("store.sync", ""), ("store.mark", "input/output error")]


def test_slow_and_failed_requests_are_always_kept(spans: list[SpanRecord]) -> None:
    figures = IoFigures("v", "data")
    for took_ns, errno, span in ((1, 0, ""), (SLOW_NS, 0, ""), (1, 5, ""), (1, 0, frontend_span(VOLUME, 3))):
        figures.answered(Command.WRITE, 4096, took_ns, errno, span)
    assert [(span.name, span.error) for span in spans] == [("io.write", ""), ("io.write", "errno 5"), ("io.write", "")]
    assert f"00-{spans[-1].trace_id}-{spans[-1].span_id}-01" == frontend_span(VOLUME, 3)
