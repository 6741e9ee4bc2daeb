"""Reads that come together are one thing while nothing holds any of them up, and one by one from then on."""

from __future__ import annotations

import pytest

from services.replica.replication.frontend import (
    EIO,
    ESHUTDOWN,
    MANY,
    SMALL_BLOCKS,
    WINDOW_REQUESTS,
    Answer,
    AnswerMany,
    AnswerReads,
    Apart,
    ClientGone,
    ClientReads,
    ClientRequest,
    Closing,
    DataMany,
    DataReads,
    Done,
    Effect,
    FrontendCore,
    LinkDown,
    Refused,
    RefusedCode,
    Release,
    RequestKind,
    SendClose,
    SendMany,
    SendRequest,
)
from tests.support.frontends import opened, serving

READ, WRITE, ZERO = int(RequestKind.READ), int(RequestKind.WRITE), int(RequestKind.ZERO)


def ask(core: FrontendCore, cookie: int, *blocks: int, count: int = 1) -> list[Effect]:
    effects = core.step(ClientReads(cookie, blocks, count), 0)
    core.validate()
    return effects


def run(core: FrontendCore, cookie: int, *blocks: int, count: int = 1) -> SendMany:
    (sent,) = ask(core, cookie, *blocks, count=count)
    assert isinstance(sent, SendMany)
    return sent


def test_a_run_is_one_message_and_one_answer() -> None:
    core = serving()
    sent = run(core, 10, 7, 3, 9, count=2)
    first = sent.asks[0][0]
    assert (sent.kind, sent.tokens) == (READ, ())
    assert sent.asks == ((first, 7, 2), (first + 1, 3, 2), (first + 2, 9, 2))
    assert core.unanswered == 3 and core.is_run(sent.asks)
    assert [core.cookie(first + at) for at in range(4)] == [10, 11, 12, None]
    answer = DataReads("n1", sent.session, first, 1, 70)
    assert core.step(answer, 0) == [AnswerReads(10, 70)]
    assert core.step(answer, 0) == [Release(70)], "answered once"
    assert core.unanswered == 0 and not core.is_run(sent.asks)
    core.validate()


def test_only_all_of_its_reads_in_their_order_are_the_run() -> None:
    core = serving()
    asks = run(core, 10, 1, 2, 3).asks
    (first, block, count), *rest = asks
    for other in (asks[:2], asks[1:], (asks[0], asks[2], asks[1]), ((first, block + 5, count), *rest)):
        assert not core.is_run(other)


@pytest.mark.parametrize(("node", "session", "epoch"), [("n2", 0, 1), ("n1", 1, 1), ("n1", 0, 0)])
def test_an_answer_of_another_node_session_or_older_epoch_is_dropped(node: str, session: int, epoch: int) -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    answer = DataReads(node, sent.session + session, sent.asks[0][0], epoch, 70)
    assert core.step(answer, 0) == [Release(70)]
    assert core.is_run(sent.asks)


def test_w3_a_run_does_not_begin_on_blocks_that_a_write_is_changing() -> None:
    core = serving()
    (write,) = core.step(ClientRequest(1, WRITE, 5, 1, False, 1), 0)
    assert isinstance(write, SendRequest)
    apart, alone = ask(core, 10, 4, 5)
    assert apart == Apart(10)
    assert isinstance(alone, SendRequest) and alone.block == 4
    done = core.step(Done("n1", write.session, write.request, 1, 0), 0)
    assert [effect.block for effect in done if isinstance(effect, SendRequest)] == [5]


def test_w3_nor_below_a_large_change() -> None:
    core = serving()
    core.step(ClientRequest(1, ZERO, 0, 1000, False, 0), 0)
    assert ask(core, 10, 4000, 4001)[0] == Apart(10)


@pytest.mark.parametrize(("block", "count"), [(5, 1), (4, 2), (6, 1), (0, 100)])
def test_w3_a_write_waits_for_the_reads_of_its_blocks_only(block: int, count: int) -> None:
    core = serving()
    sent = run(core, 10, 5, 50, count=2)
    assert core.step(ClientRequest(1, WRITE, block, count, False, 1), 0) == [Apart(10)]
    core.validate()
    (first, _, _), (second, _, _) = sent.asks
    got = core.step(DataMany("n1", sent.session, 1, [(first, 2, 70)]), 0)
    assert got[0] == AnswerMany([(10, 70, 0)])
    if count < 100:
        assert isinstance(got[1], SendRequest) and got[1].kind == WRITE
    else:
        got = core.step(DataMany("n1", sent.session, 1, [(second, 2, 71)]), 0)
        assert isinstance(got[1], SendRequest) and got[1].kind == WRITE
    core.validate()


def test_a_write_elsewhere_leaves_the_run_alone() -> None:
    core = serving()
    sent = run(core, 10, 5, 50, count=2)
    (write,) = core.step(ClientRequest(1, WRITE, 7, 43, False, 1), 0)
    assert isinstance(write, SendRequest)
    assert core.is_run(sent.asks)


def test_one_of_its_reads_fails_and_the_others_do_not() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    (first, _, _), (second, _, _) = sent.asks
    assert core.step(Done("n1", sent.session, second, 1, EIO), 0) == [Apart(10), Answer(11, EIO, 0)]
    assert core.step(DataMany("n1", sent.session, 1, [(first, 1, 70)]), 0) == [AnswerMany([(10, 70, 0)])]
    assert core.unanswered == 0


def test_after_a_failover_its_reads_are_sent_again_oldest_first() -> None:
    core = serving()
    run(core, 10, 1, 2)
    core.step(ClientRequest(1, WRITE, 9, 1, False, 1), 0)
    assert core.step(LinkDown("n1"), 0)[0] == Apart(10)
    core.validate()
    reads, write = opened(core, "n2", 2)
    assert isinstance(reads, SendMany) and [block for _, block, _ in reads.asks] == [1, 2]
    assert isinstance(write, SendRequest) and write.kind == WRITE


def test_a_refusal_that_names_one_of_its_reads_ends_the_session() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    assert core.step(Refused("n1", sent.asks[1][0], RefusedCode.NOT_PRIMARY, ""), 0)[0] == Apart(10)
    assert not core.primary


def test_nobody_waits_for_the_run_of_a_client_that_is_gone() -> None:
    core = serving()
    sent, other = run(core, 10, 1, 2), run(core, 20, 3, 4)
    assert core.step(ClientGone([10, 11]), 0) == [Apart(10)]
    assert core.cookie(sent.asks[1][0]) is None and core.is_run(other.asks)
    assert core.step(DataReads("n1", sent.session, sent.asks[0][0], 1, 70), 0) == [Release(70)]
    assert core.step(Done("n1", sent.session, sent.asks[0][0], 1, EIO), 0) == []
    core.validate()


def test_a_closed_frontend_answers_each_of_its_reads() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    answers = [Answer(10, ESHUTDOWN, 0), Answer(11, ESHUTDOWN, 0)]
    assert core.step(Closing(), 0) == [SendClose("n1", sent.session), Apart(10), *answers]
    assert ask(core, 10, 1, 2) == [Apart(10), *answers]


def test_without_a_session_they_wait_one_by_one() -> None:
    core = FrontendCore(("n1",))
    assert ask(core, 10, 1, 2) == [Apart(10)]
    (sent,) = opened(core, "n1", 1)
    assert isinstance(sent, SendMany)


def test_an_older_primary_is_asked_one_by_one() -> None:
    apart, *sent = ask(serving(takes_many=False), 10, 1, 2)
    assert apart == Apart(10) and [type(effect) for effect in sent] == [SendRequest, SendRequest]


@pytest.mark.parametrize(("together", "count"), [(MANY + 1, 1), (2, SMALL_BLOCKS + 1), (MANY, SMALL_BLOCKS)])
def test_what_is_more_than_one_message_may_hold_is_no_run(together: int, count: int) -> None:
    assert ask(serving(), 10, *range(0, together * 100, 100), count=count)[0] == Apart(10)


def test_runs_stay_inside_the_window() -> None:
    core, cookie = serving(), 0
    sent: list[Effect] = []
    while core.unanswered < WINDOW_REQUESTS + MANY:
        sent = ask(core, cookie, *range(MANY))
        cookie += MANY
    assert sent == [Apart(cookie - MANY)], "the rest waits here"
