"""Writes that come together are one thing while nothing holds any of them up, and one by one from then on."""

from __future__ import annotations

import pytest

from services.replica.replication.frontend import (
    EIO,
    ESHUTDOWN,
    Answer,
    AnswerMany,
    AnswerWrites,
    Apart,
    ClientGone,
    ClientReads,
    ClientRequest,
    ClientWrites,
    Closing,
    DataReads,
    Done,
    DoneMany,
    Effect,
    FrontendCore,
    LinkDown,
    Release,
    RequestKind,
    SendClose,
    SendMany,
    SendRequest,
)
from tests.support.frontends import opened, serving

READ, WRITE, PATCH, ZERO, STATUS = (
    int(kind) for kind in (RequestKind.READ, RequestKind.WRITE, RequestKind.PATCH, RequestKind.ZERO, RequestKind.STATUS)
)


def ask(core: FrontendCore, cookie: int, *blocks: int, count: int = 1) -> list[Effect]:
    effects = core.step(ClientWrites(cookie, blocks, count, 10 * cookie), 0)
    core.validate()
    return effects


def run(core: FrontendCore, cookie: int, *blocks: int, count: int = 1) -> SendMany:
    (sent,) = ask(core, cookie, *blocks, count=count)
    assert isinstance(sent, SendMany)
    return sent


def done(core: FrontendCore, sent: SendMany, *which: int) -> list[Effect]:
    numbers = [sent.asks[at][0] for at in which or range(len(sent.asks))]
    effects = core.step(DoneMany("n1", sent.session, numbers, 1), 0)
    core.validate()
    return effects


def test_a_run_is_one_message_and_one_answer() -> None:
    core = serving()
    sent = run(core, 10, 7, 3, 9, count=2)
    first = sent.asks[0][0]
    assert (sent.kind, sent.tokens) == (WRITE, (100,))
    assert sent.asks == ((first, 7, 2), (first + 1, 3, 2), (first + 2, 9, 2))
    assert core.unanswered == 3
    assert done(core, sent) == [AnswerWrites(10, 100)]
    assert done(core, sent) == [], "answered once"
    assert core.unanswered == 0


@pytest.mark.parametrize("which", [(0,), (0, 1), (1, 2), (0, 2, 1)])
def test_what_is_not_done_as_one_is_done_one_by_one(which: tuple[int, ...]) -> None:
    core = serving()
    sent = run(core, 10, 1, 2, 3)
    assert done(core, sent, *which) == [Apart(10), AnswerMany([(10 + at, 0, 100 + at) for at in which])]
    left = [at for at in range(3) if at not in which]
    if left:
        assert done(core, sent, *left) == [AnswerMany([(10 + at, 0, 100 + at) for at in left])]
    assert core.unanswered == 0


def test_one_of_its_writes_fails_and_the_others_do_not() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    second = sent.asks[1][0]
    failed = core.step(Done("n1", sent.session, second, 1, EIO), 0)
    assert failed == [Apart(10), Answer(11, EIO, 0), Release(101)]
    assert done(core, sent, 0) == [AnswerMany([(10, 0, 100)])]


@pytest.mark.parametrize("kind", [READ, WRITE, PATCH, ZERO, STATUS])
@pytest.mark.parametrize(("block", "count"), [(5, 1), (4, 2), (6, 1), (0, 100)])
def test_w3_whatever_overlaps_one_of_them_waits_for_it(kind: int, block: int, count: int) -> None:
    core = serving()
    sent = run(core, 10, 5, 150, count=2)
    assert core.step(ClientRequest(1, kind, block, count, False, 1 if kind in (WRITE, PATCH) else 0), 0) == [Apart(10)]
    core.validate()
    answer, waited = done(core, sent, 0)
    assert answer == AnswerMany([(10, 0, 100)])
    assert isinstance(waited, SendRequest) and waited.block == block


@pytest.mark.parametrize("blocks", [(5, 6), (151, 20), (4, 152)])
def test_w3_reads_that_come_together_wait_for_the_writes_that_they_meet(blocks: tuple[int, int]) -> None:
    core = serving()
    sent = run(core, 10, 5, 150, count=2)
    effects = core.step(ClientReads(20, blocks, 1), 0)
    core.validate()
    asked = {effect.block for effect in effects if isinstance(effect, SendRequest)}
    waits = {block for block in blocks if block in (5, 6, 150, 151)}
    assert effects[:2] == [Apart(20), Apart(10)] if waits else isinstance(effects[0], SendMany)
    assert not asked & waits
    more = done(core, sent)
    core.validate()
    sent_after = {effect.block for effect in more if isinstance(effect, SendRequest)} | {
        block for effect in more if isinstance(effect, SendMany) for _, block, _ in effect.asks
    }
    assert sent_after == waits


def test_w3_a_run_that_writes_a_block_twice_is_none() -> None:
    core = serving()
    effects = ask(core, 10, 1, 2, 1)
    assert effects[0] == Apart(10)
    (sent,) = effects[1:]
    assert isinstance(sent, SendMany) and [block for _, block, _ in sent.asks] == [1, 2]
    answer, second = done(core, sent, 0)
    assert answer == AnswerMany([(10, 0, 100)])
    assert isinstance(second, SendRequest) and (second.block, second.token) == (1, 102)


@pytest.mark.parametrize("other", [ClientRequest(1, WRITE, 5, 1, False, 1), ClientRequest(1, READ, 5, 1, False, 0)])
def test_w3_a_run_does_not_begin_on_a_block_that_somebody_uses(other: ClientRequest) -> None:
    core = serving()
    core.step(other, 0)
    apart, alone = ask(core, 10, 4, 5)
    assert apart == Apart(10)
    assert isinstance(alone, SendRequest) and (alone.block, alone.token) == (4, 100)


def test_w3_nor_on_one_that_a_run_reads() -> None:
    core = serving()
    core.step(ClientReads(20, (4, 5), 1), 0)
    assert ask(core, 10, 9, 5)[:2] == [Apart(10), Apart(20)]


def test_runs_that_meet_nowhere_leave_each_other_alone() -> None:
    core = serving()
    first, second = run(core, 10, 1, 2), run(core, 20, 3, 4)
    assert isinstance(core.step(ClientReads(30, (5, 6), 1), 0)[0], SendMany)
    assert done(core, second) == [AnswerWrites(20, 200)]
    assert done(core, first) == [AnswerWrites(10, 100)]


def test_after_a_failover_its_writes_are_sent_again_oldest_first() -> None:
    core = serving()
    run(core, 10, 8, 3)
    assert core.step(LinkDown("n1"), 0)[0] == Apart(10)
    core.validate()
    (again,) = opened(core, "n2", 2)
    assert isinstance(again, SendMany)
    assert [block for _, block, _ in again.asks] == [8, 3] and again.tokens == (100, 101)


def test_what_a_client_that_is_gone_wrote_is_written_all_the_same() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    assert core.step(ClientGone([10, 11]), 0) == [Apart(10)]
    core.validate()
    assert done(core, sent) == [Release(100), Release(101)]


def test_what_a_run_wrote_is_no_answer_with_content() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    assert not core.is_run(sent.asks)
    assert core.step(DataReads("n1", sent.session, sent.asks[0][0], 1, 70), 0) == [Release(70)]
    assert done(core, sent) == [AnswerWrites(10, 100)]


def test_a_closed_frontend_answers_each_of_its_writes() -> None:
    core = serving()
    sent = run(core, 10, 1, 2)
    answers = [Answer(10, ESHUTDOWN, 0), Release(100), Answer(11, ESHUTDOWN, 0), Release(101)]
    assert core.step(Closing(), 0) == [SendClose("n1", sent.session), Apart(10), *answers]
    assert ask(core, 10, 1, 2) == [Apart(10), *answers]
