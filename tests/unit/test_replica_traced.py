"""What a node is asked to follow is bounded, and what it tells of it belongs together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.replica.codec import Envelope, Followed, Parts, pack_message, pack_traced
from services.replica.nbd.figures import IoFigures
from services.replica.nbd.wire import Command
from services.replica.peers import Frame, Type
from services.replica.peers.frames import TRACED, FrameReader
from services.replica.replication import messages as ms
from services.replica.traced import (
    APART_NS,
    FOLLOWED_MAX,
    ONE_IN,
    SLOW_NS,
    Traced,
    flushing,
    frontend_span,
    keep_if_slow,
    key_of,
    primary_span,
    sampled,
    syncing,
    zeroing,
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
    assert not followed.requests and not followed.work


def test_a_flush_is_followed_by_the_ticket_that_it_became(spans: list[SpanRecord]) -> None:
    primary, copy = Traced(), Traced()
    primary.asked(VOLUME, 5, 7, Type.IO_FLUSH, 0, SECOND)
    primary.became(VOLUME, 5, 6, syncing(VOLUME, 3), SECOND)
    assert not primary.work, "another's flush"
    primary.became(VOLUME, 5, 7, syncing(VOLUME, 4), 2 * SECOND)
    key = primary.key(syncing(VOLUME, 4))
    assert key == key_of(VOLUME, 7)
    copy.sent(VOLUME, key, flushing(VOLUME, 4), 2 * SECOND)
    primary.synced(flushing(VOLUME, 4), 3 * SECOND)
    copy.synced(syncing(VOLUME, 4), 3 * SECOND)
    assert spans == [], "the tickets that a copy counts for itself are others"
    copy.synced(flushing(VOLUME, 4), 4 * SECOND)
    primary.synced(syncing(VOLUME, 4), 5 * SECOND)
    primary.answered(VOLUME, 5, (7,), 0, 6 * SECOND)
    assert [(span.name, span.duration_ns // SECOND) for span in spans] == [
        ("store.flush", 2),
        ("store.flush", 3),
        ("primary.flush", 5),
    ]
    assert {span.parent_id for span in spans[:2]} == {spans[2].span_id}
    assert not primary.work and not copy.work


def test_zeros_are_followed_by_their_range(spans: list[SpanRecord]) -> None:
    followed = Traced()
    followed.asked(VOLUME, 5, 7, Type.IO_ZERO, zeroing(VOLUME, 8, 16), SECOND)
    followed.stored(zeroing(VOLUME, 8, 15), SECOND, SECOND, 15)
    followed.stored(zeroing(OTHER, 8, 16), SECOND, SECOND, 16)
    assert spans == []
    followed.stored(zeroing(VOLUME, 8, 16), 2 * SECOND, 3 * SECOND, 16)
    (zeroed,) = spans
    assert (zeroed.name, zeroed.attributes["stos.blocks"]) == ("store.zero", 16)


@pytest.mark.parametrize(
    "message",
    [ms.Write(9, 8, 3, 2, 1), ms.WriteMany(9, 8, ((3, 1), (7, 1)), 1), ms.Zero(9, 8, 3, 2), ms.Flush(9, 8, True, 5)],
    ids=lambda message: type(message).__name__,
)
def test_a_message_that_is_followed_says_all_that_it_says_otherwise(message: Followed) -> None:
    payload = (bytes(2 * 8), bytes(2 * 4096)) if isinstance(message, ms.Write | ms.WriteMany) else ()
    key = key_of(VOLUME, 7)
    envelope = Envelope(VOLUME, sender=1, target=2, generation=3, epoch=4)
    (plain,) = frames(pack_message(envelope, message, payload))
    (traced,) = frames(pack_traced(envelope, message, payload, key))
    place = {"y": key} if isinstance(message, ms.WriteMany) else {"attach_epoch": key}
    assert traced == plain._replace(flags=plain.flags | TRACED, **place)


def frames(parts: Parts) -> list[Frame]:
    raw = b"".join(parts)
    reader = FrameReader(buffer_bytes=len(raw) + 1)
    reader.get_buffer()[: len(raw)] = raw
    return [frame._replace(payload=bytes(frame.payload)) for frame in reader.received(len(raw))]


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
    assert len(followed.requests) == len(followed.work) == 1
    for number in range(1000):
        followed.asked(VOLUME, 5, number, Type.IO_WRITE, number + 1, number * APART_NS + APART_NS)
    assert len(followed.requests) == len(followed.work) == FOLLOWED_MAX
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


def test_requests_that_are_answered_together_are_counted_one_by_one(spans: list[SpanRecord]) -> None:
    one, together = IoFigures("v", "data"), IoFigures("v", "data")
    done = [(Command.WRITE, 4096, 5), (Command.WRITE, 8192, 5), (Command.WRITE, 4096, 5), (Command.READ, 4096, SLOW_NS)]
    done += [(Command.READ, 4096, SLOW_NS)] * 2
    for command, length, took_ns in done:
        one.answered(command, length, took_ns, 0)
    expected, told = list(one.samples()), len(spans)
    together.answered_many(done)
    assert [(sample.name, sample.attributes, sample.counts) for sample in together.samples()] == [
        (sample.name, sample.attributes, sample.counts) for sample in expected
    ]
    assert [sample.value for sample in together.samples()] == pytest.approx([sample.value for sample in expected])
    assert told == 3 and len(spans) == 2 * told
