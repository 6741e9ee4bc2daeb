"""Small requests that come together travel together, and are answered one by one."""

from __future__ import annotations

from services.replica.replication.frontend import (
    EIO,
    MANY,
    MANY_BLOCKS,
    SMALL_BLOCKS,
    Answer,
    AnswerMany,
    ClientGone,
    ClientRequest,
    ClientRequests,
    DataMany,
    DoneMany,
    Effect,
    FrontendCore,
    LinkDown,
    Release,
    RequestKind,
    SendMany,
    SendRequest,
)
from tests.support.frontends import opened, serving

READ, WRITE, PATCH, ZERO, FLUSH, STATUS = (int(kind) for kind in RequestKind)


def one(cookie: int, kind: int = WRITE, block: int = 0, count: int = 1, *, fua: bool = False) -> ClientRequest:
    return ClientRequest(cookie, kind, block or cookie * 100, count, fua, cookie if kind == WRITE else 0)


def ask(core: FrontendCore, *requests: ClientRequest) -> list[Effect]:
    effects = core.step(ClientRequests(requests), 0)
    core.validate()
    return effects


def numbers(effects: list[Effect]) -> list[int]:
    return [number for effect in effects if isinstance(effect, SendMany) for number, _, _ in effect.asks]


def test_reads_go_together_and_writes_go_together() -> None:
    sent = ask(serving(), one(1), one(2, READ), one(3, count=2), one(4, READ), one(5, FLUSH, count=0))
    flush, reads, writes = sent
    assert isinstance(flush, SendRequest) and flush.kind == FLUSH
    assert isinstance(reads, SendMany) and isinstance(writes, SendMany)
    assert (reads.kind, [ask[1:] for ask in reads.asks], reads.tokens) == (READ, [(200, 1), (400, 1)], ())
    assert (writes.kind, [ask[1:] for ask in writes.asks], writes.tokens) == (WRITE, [(100, 1), (300, 2)], (1, 3))


def test_what_is_alone_large_or_forced_to_the_disk_travels_alone() -> None:
    core = serving()
    assert all(isinstance(effect, SendRequest) for effect in ask(core, one(1)))
    large = one(2, count=SMALL_BLOCKS + 1)
    sent = ask(core, large, one(3, fua=True), one(4, ZERO), one(5, PATCH), one(6))
    assert len(sent) == 5 and all(isinstance(effect, SendRequest) for effect in sent)


def test_a_primary_of_an_older_version_is_asked_one_by_one() -> None:
    sent = ask(serving(takes_many=False), one(1), one(2))
    assert len(sent) == 2 and all(isinstance(effect, SendRequest) for effect in sent)


def test_no_message_is_larger_than_one_may_be() -> None:
    core = serving()
    sent = ask(core, *[one(cookie) for cookie in range(1, 2 * MANY + 2)])
    assert [len(effect.asks) for effect in sent if isinstance(effect, SendMany)] == [MANY, MANY]
    assert isinstance(sent[-1], SendRequest)
    sent = ask(core, *[one(cookie, READ, count=SMALL_BLOCKS) for cookie in range(1000, 1040)])
    sizes = [sum(count for _, _, count in effect.asks) for effect in sent if isinstance(effect, SendMany)]
    assert sum(sizes) == 40 * SMALL_BLOCKS and max(sizes) <= MANY_BLOCKS


def test_w3_what_overlaps_waits_also_when_it_came_together() -> None:
    core = serving()
    (first,) = ask(core, one(1, block=5), one(2, block=5, count=2), one(3, block=6))
    assert isinstance(first, SendRequest)
    (_, second) = core.step(DoneMany("n1", first.session, [first.request], 1), 0)
    assert isinstance(second, SendRequest) and second.block == 5, "the third waits for the second"


def test_each_is_answered_once() -> None:
    core = serving()
    sent = ask(core, one(1), one(2))
    done = DoneMany("n1", sent[0].session, numbers(sent), 1)  # type: ignore[union-attr]
    assert core.step(done, 0) == [AnswerMany([(1, 0, 1), (2, 0, 2)])]
    assert core.step(done, 0) == []
    assert core.unanswered == 0


def test_reads_that_come_back_together_are_answered_together() -> None:
    core = serving()
    sent = ask(core, one(1, READ), one(2, READ, count=2), one(3))
    session, (first, second) = sent[0].session, numbers(sent[:1])  # type: ignore[union-attr]
    (_, write) = sent
    assert isinstance(write, SendRequest)
    for wrong in (DataMany("n2", session, 1, [(first, 1, 70)]), DataMany("n1", session + 1, 1, [(first, 1, 70)])):
        assert core.step(wrong, 0) == [Release(70)]
    short = DataMany("n1", session, 1, [(first, 1, 71), (second, 1, 72), (write.request, 1, 73), (99, 1, 74)])
    assert core.step(short, 0) == [Release(72), Answer(2, EIO, 0), Release(73), Release(74), AnswerMany([(1, 71, 0)])]
    assert core.step(short, 0) == [Release(token) for token in (71, 72, 73, 74)], "answered once"
    core.validate()


def test_nobody_waits_for_what_a_client_that_is_gone_had_asked_for() -> None:
    core = serving()
    sent = ask(core, one(1, READ), one(2, READ), one(3), one(4))
    session, asked = sent[0].session, numbers(sent)  # type: ignore[union-attr]
    core.step(ClientGone([1, 3]), 0)
    got = core.step(DataMany("n1", session, 1, [(asked[0], 1, 70), (asked[1], 1, 71)]), 0)
    assert got == [Release(70), AnswerMany([(2, 71, 0)])]
    assert core.step(DoneMany("n1", session, asked[2:], 1), 0) == [Release(3), AnswerMany([(4, 0, 4)])]
    assert core.unanswered == 0
    core.validate()


def test_an_answer_of_another_session_node_or_older_epoch_is_dropped() -> None:
    core = serving()
    sent = ask(core, one(1), one(2))
    session = sent[0].session  # type: ignore[union-attr]
    for wrong in (
        DoneMany("n2", session, numbers(sent), 1),
        DoneMany("n1", session + 1, numbers(sent), 1),
        DoneMany("n1", session, numbers(sent), 0),
    ):
        assert core.step(wrong, 0) == []


def test_a_read_that_is_said_to_be_done_fails() -> None:
    core = serving()
    sent = ask(core, one(1, READ), one(2, READ))
    out = core.step(DoneMany("n1", sent[0].session, numbers(sent), 1), 0)  # type: ignore[union-attr]
    assert out == [Answer(1, EIO, 0), Answer(2, EIO, 0)]


def test_after_a_failover_everything_unanswered_is_sent_again_together() -> None:
    core = serving()
    for cookie in range(1, 5):
        ask(core, one(cookie))
    core.step(LinkDown("n1"), 0)
    (again,) = opened(core, "n2", 2)
    assert isinstance(again, SendMany) and again.node == "n2"
    assert [block for _, block, _ in again.asks] == [100, 200, 300, 400]
