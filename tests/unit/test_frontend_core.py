"""The frontend's core: one event in, the exact effects out."""

from __future__ import annotations

import pytest

from services.replica.replication.frontend import (
    EIO,
    ESHUTDOWN,
    STALL_NS,
    WINDOW_REQUESTS,
    Answer,
    ClientGone,
    ClientRequest,
    Closing,
    Data,
    Done,
    Effect,
    Event,
    FrontendCore,
    LinkDown,
    LinkUp,
    Merge,
    Opened,
    Refused,
    RefusedCode,
    Release,
    RequestKind,
    SendClose,
    SendOpen,
    SendRequest,
    ServingHint,
    Tick,
)
from services.replica.replication.frontend_search import PATIENCE_NS_MIN, PAUSE_NS_MAX, PAUSE_NS_MIN
from stoscore.units import BLOCK_BYTES, MIB, MS, SECOND

READ, WRITE, PATCH, ZERO, FLUSH, STATUS = (int(kind) for kind in RequestKind)
VOTERS = ("n1", "n2", "n3")


class Bench:
    """A core with a clock and short words for what is said to it."""

    def __init__(self, *up: str) -> None:
        self.core = FrontendCore(VOTERS)
        self.now_ns = 0
        self.opens: dict[str, int] = {}
        """The newest session asked of each node."""
        for node in up:
            self.step(LinkUp(node))

    def step(self, event: Event) -> list[Effect]:
        effects = self.core.step(event, self.now_ns)
        if self.core.unanswered < 32:  # it compares all with all
            self.core.validate()
        for effect in effects:
            if isinstance(effect, SendOpen):
                assert effect.session > max(self.opens.values(), default=0), "W2"
                self.opens[effect.node] = effect.session
        return effects

    def after(self, delay_ns: int) -> list[Effect]:
        self.now_ns += delay_ns
        return self.step(Tick())

    def opened(self, node: str, epoch: int) -> list[Effect]:
        return self.step(Opened(node, self.opens[node], epoch, 256))

    def ask(self, cookie: int, kind: int = WRITE, block: int = 0, count: int = 1) -> list[Effect]:
        return self.step(ClientRequest(cookie, kind, block, count, False, cookie if kind == WRITE else 0))

    def refused(self, node: str, code: int = RefusedCode.NOT_PRIMARY, hint: str = "") -> list[Effect]:
        return self.step(Refused(node, self.opens[node], code, hint))


def serving() -> Bench:
    """n1 serves in epoch 1, nobody else was asked."""
    bench = Bench("n1")
    bench.opened("n1", 1)
    return bench


def requests(effects: list[Effect]) -> list[SendRequest]:
    return [effect for effect in effects if isinstance(effect, SendRequest)]


def asked(effects: list[Effect]) -> list[str]:
    return [effect.node for effect in effects if isinstance(effect, SendOpen)]


# ---- the ordinary way -----------------------------------------------------------------------------------


def test_a_request_goes_to_the_primary_and_its_answer_to_the_client() -> None:
    bench = serving()
    session = bench.opens["n1"]
    (sent,) = requests(bench.step(ClientRequest(50, WRITE, 7, 2, True, 500)))
    assert sent == SendRequest("n1", session, sent.request, WRITE, 7, 2, True, 500)
    assert bench.step(Done("n1", session, sent.request, 1, 0)) == [Answer(50, 0, 0), Release(500)]
    assert bench.core.unanswered == 0
    assert bench.core.next_deadline_ns() is None


def patching() -> tuple[Bench, SendRequest]:
    """A patch of block 3 was asked for, with FUA, and its block is being read."""
    bench = serving()
    (read,) = requests(bench.step(ClientRequest(1, PATCH, 3, 1, True, 10)))
    return bench, read


def test_a_patch_is_a_read_a_merge_and_a_write() -> None:
    bench, read = patching()
    assert read == SendRequest("n1", bench.opens["n1"], read.request, READ, 3, 1, False, 0)
    merge, write = bench.step(Data("n1", read.session, read.request, 1, 70, READ, 1))
    assert merge == Merge(10, 70)
    assert write == SendRequest("n1", read.session, read.request, WRITE, 3, 1, True, 10)
    assert bench.step(Data("n1", read.session, read.request, 1, 71, READ, 1)) == [Release(71)], "merged once"
    assert bench.step(Done("n1", read.session, read.request, 1, 0)) == [Answer(1, 0, 0), Release(10)]


def test_other_requests_on_the_block_wait_for_the_whole_patch() -> None:
    bench, read = patching()
    assert not requests(bench.ask(2, WRITE, 3))
    assert not requests(bench.ask(3, READ, 3))
    bench.step(Data("n1", read.session, read.request, 1, 70, READ, 1))
    (write,) = requests(bench.step(Done("n1", read.session, read.request, 1, 0)))
    assert write.token == 2


def fail_over(bench: Bench) -> list[Effect]:
    bench.step(LinkUp("n2"))
    bench.step(LinkDown("n1"))
    bench.after(SECOND)
    return bench.opened("n2", 2)


def test_a_failover_before_the_merge_reads_again_and_one_after_it_sends_what_was_merged() -> None:
    bench, read = patching()
    (again,) = requests(fail_over(bench))
    assert (again.node, again.kind, again.token) == ("n2", READ, 0)
    bench, read = patching()
    bench.step(Data("n1", read.session, read.request, 1, 70, READ, 1))
    (again,) = requests(fail_over(bench))
    assert (again.node, again.kind, again.token, again.fua) == ("n2", WRITE, 10, True)


@pytest.mark.parametrize("errno", [0, EIO, 28])
def test_a_patch_whose_block_can_not_be_read_fails(errno: int) -> None:
    bench, read = patching()
    assert bench.step(Done("n1", read.session, read.request, 1, errno)) == [Answer(1, errno or EIO, 0), Release(10)]


@pytest.mark.parametrize(
    ("asked", "kind", "count"),
    [(READ, READ, 2), (READ, STATUS, 1), (PATCH, READ, 2), (PATCH, STATUS, 1), (STATUS, READ, 1)],
)
def test_another_answer_than_the_one_asked_for_is_an_error(asked: int, kind: int, count: int) -> None:
    bench = serving()
    (sent,) = requests(bench.step(ClientRequest(1, asked, 0, 1, False, 10 if asked == PATCH else 0)))
    effects = bench.step(Data("n1", sent.session, sent.request, 1, 70, kind, count))
    assert effects[:2] == [Release(70), Answer(1, EIO, 0)]


def test_a_status_may_end_early_and_not_late() -> None:
    for count, errno in ((1, 0), (8, 0), (9, EIO), (0, EIO)):
        bench = serving()
        (sent,) = requests(bench.ask(1, STATUS, 0, 8))
        effects = bench.step(Data("n1", sent.session, sent.request, 1, 70, STATUS, count))
        assert Answer(1, errno, 0 if errno else 70) in effects


def test_a_read_brings_its_content() -> None:
    bench = serving()
    (sent,) = requests(bench.ask(1, READ))
    assert bench.step(Data("n1", sent.session, sent.request, 1, 900, READ, 1)) == [Answer(1, 0, 900)]
    assert bench.step(Data("n1", sent.session, sent.request, 1, 901, READ, 1)) == [Release(901)]


@pytest.mark.parametrize(("errno", "seen"), [(28, 28), (EIO, EIO), (0, EIO)])
def test_errors_reach_the_client_and_a_read_without_content_is_one(errno: int, seen: int) -> None:
    bench = serving()
    (sent,) = requests(bench.ask(1, READ))
    assert bench.step(Done("n1", sent.session, sent.request, 1, errno)) == [Answer(1, seen, 0)]


def test_a_flush_waits_for_nothing() -> None:
    bench = serving()
    bench.ask(1, WRITE)
    assert len(requests(bench.step(ClientRequest(2, FLUSH, 0, 0, False, 0)))) == 1


def test_a_write_over_an_unanswered_write_waits_for_it() -> None:
    bench = serving()
    (first,) = requests(bench.ask(1))
    assert bench.ask(2) == []
    assert bench.ask(3, READ) == []
    effects = bench.step(Done("n1", first.session, first.request, 1, 0))
    (second,) = requests(effects)
    assert effects == [Answer(1, 0, 0), Release(1), second]
    assert second.token == 2


def test_the_window_is_bounded_by_requests() -> None:
    bench = serving()
    sent = [requests(bench.ask(cookie, block=cookie))[0] for cookie in range(1, WINDOW_REQUESTS + 1)]
    assert bench.ask(5000, block=5000) == []
    effects = bench.step(Done("n1", sent[0].session, sent[0].request, 1, 0))
    assert [request.token for request in requests(effects)] == [5000]


def test_the_window_is_bounded_by_bytes_but_zeroes_weigh_nothing() -> None:
    bench = serving()
    blocks = 32 * MIB // BLOCK_BYTES
    for cookie in (1, 2):
        assert requests(bench.ask(cookie, READ, cookie * blocks, blocks))
    assert not requests(bench.ask(3, READ, 0, 1))
    assert not requests(bench.ask(4, ZERO, 1, 1)), "no overtaking while the oldest waits for room"


# ---- finding the primary --------------------------------------------------------------------------------


def test_everybody_is_asked_at_once_with_rising_sessions() -> None:
    bench = Bench()
    assert bench.core.next_deadline_ns() is None
    asked_of = [bench.step(LinkUp(node)) for node in VOTERS]
    assert [asked(effects) for effects in asked_of] == [["n1"], ["n2"], ["n3"]]
    sessions = [bench.opens[node] for node in VOTERS]
    assert sessions == sorted(set(sessions))


def test_who_refuses_is_asked_again_after_a_pause_that_grows() -> None:
    bench = Bench("n1")
    assert bench.refused("n1") == []
    assert bench.core.next_deadline_ns() == PAUSE_NS_MIN
    assert asked(bench.after(PAUSE_NS_MIN - 1)) == []
    assert asked(bench.after(1)) == ["n1"]
    bench.now_ns = 3600 * SECOND
    bench.refused("n1")
    assert bench.core.next_deadline_ns() == bench.now_ns + PAUSE_NS_MAX


def test_a_silent_node_is_asked_again_only_when_patience_is_over() -> None:
    bench = Bench("n1")
    first = bench.opens["n1"]
    assert asked(bench.after(PATIENCE_NS_MIN - 1)) == []
    assert asked(bench.after(1)) == ["n1"]
    assert asked(bench.after(PATIENCE_NS_MIN)) == [], "patience doubles"
    assert bench.step(Opened("n1", first, 1, 256)) == [], "the answer to the older question is ignored"
    bench.opened("n1", 1)
    assert bench.core.primary == "n1"


def test_a_hint_is_followed_at_once_but_not_in_circles() -> None:
    bench = Bench("n1", "n2")
    bench.refused("n2")
    bench.now_ns = PAUSE_NS_MIN
    assert asked(bench.refused("n1", hint="n2")) == ["n2"]
    assert asked(bench.refused("n2", hint="n1")) == ["n1"]
    assert asked(bench.refused("n1", hint="n2")) == []


def test_a_hint_may_name_a_node_that_was_no_voter() -> None:
    bench = Bench("n1")
    bench.step(LinkUp("n9"))
    bench.refused("n1", hint="n9")
    bench.opened("n9", 4)
    assert bench.core.primary == "n9"


def test_requests_wait_while_nobody_serves_and_follow_in_order() -> None:
    bench = Bench("n1", "n2")
    assert [bench.ask(cookie, block=cookie) for cookie in (3, 1, 2)] == [[], [], []]
    assert [request.token for request in requests(bench.opened("n2", 1))] == [3, 1, 2]


def test_losing_the_link_asks_the_others_and_sends_all_again_in_order() -> None:
    bench = Bench(*VOTERS)
    bench.refused("n2")
    bench.refused("n3")
    bench.opened("n1", 1)
    for cookie in (1, 2, 3):
        bench.ask(cookie, block=cookie)
    bench.ask(4, block=1)
    assert asked(bench.step(LinkDown("n1"))) == ["n2", "n3"]
    assert bench.ask(5, block=5) == []
    effects = bench.opened("n3", 2)
    assert [(r.node, r.token) for r in requests(effects)] == [("n3", 1), ("n3", 2), ("n3", 3), ("n3", 5)]
    first = requests(effects)[0]
    assert [r.token for r in requests(bench.step(Done("n3", first.session, first.request, 2, 0)))] == [4]


def test_what_was_answered_is_not_sent_again() -> None:
    bench = serving()
    sent = [requests(bench.ask(cookie, block=cookie))[0] for cookie in (1, 2)]
    bench.step(Done("n1", sent[0].session, sent[0].request, 1, 0))
    bench.step(LinkDown("n1"))
    bench.step(LinkUp("n2"))
    assert [r.token for r in requests(bench.opened("n2", 2))] == [2]


def test_answers_of_an_older_session_or_epoch_are_dropped() -> None:
    bench = serving()
    (old,) = requests(bench.ask(1, READ))
    bench.step(LinkDown("n1"))
    bench.step(LinkUp("n1"))
    (new,) = requests(bench.opened("n1", 2))
    assert bench.step(Data("n1", old.session, old.request, 1, 7, READ, 1)) == [Release(7)]
    assert bench.step(Data("n1", new.session, new.request, 1, 7, READ, 1)) == [Release(7)], "epoch below the newest"
    assert bench.step(Data("n2", new.session, new.request, 2, 7, READ, 1)) == [Release(7)], "another node"
    assert bench.step(Data("n1", new.session, new.request, 2, 7, READ, 1)) == [Answer(1, 0, 7)]


def test_a_newer_epoch_wins_over_a_session_and_an_older_one_never_does() -> None:
    bench = Bench("n1", "n2", "n3")
    bench.opened("n1", 3)
    bench.ask(1)
    effects = bench.opened("n2", 5)
    assert effects[0] == SendClose("n1", bench.opens["n1"])
    assert [(r.node, r.token) for r in requests(effects)] == [("n2", 1)]
    assert bench.opened("n3", 4) == [SendClose("n3", bench.opens["n3"])]
    assert bench.core.primary == "n2"


def test_a_primary_that_announces_itself_is_asked_at_once() -> None:
    bench = Bench("n1", "n2")
    bench.refused("n2")
    bench.opened("n1", 1)
    bench.ask(1)
    session = bench.opens["n1"]
    effects = bench.step(ServingHint("n2", 2))
    assert effects[0] == SendClose("n1", session)
    assert "n2" in asked(effects)
    assert bench.opened("n1", 1) == [SendClose("n1", bench.opens["n1"])], "its epoch is over"
    assert [r.token for r in requests(bench.opened("n2", 2))] == [1]
    assert bench.step(ServingHint("n1", 1)) == []
    assert bench.step(ServingHint("n2", 2)) == []


def test_an_announcement_overtakes_a_refusal_that_is_still_under_way() -> None:
    bench = Bench("n1", "n2")
    first = bench.opens["n2"]
    assert asked(bench.step(ServingHint("n2", 2))) == ["n2"]
    assert bench.step(Refused("n2", first, RefusedCode.NOT_PRIMARY, "n1")) == []
    bench.opened("n2", 2)
    assert bench.core.primary == "n2"


@pytest.mark.parametrize("code", [RefusedCode.NOT_PRIMARY, RefusedCode.NOT_READY, 99])
def test_a_refused_request_loses_the_session_once(code: int) -> None:
    bench = Bench("n1", "n2")
    bench.refused("n2")
    bench.opened("n1", 1)
    sent = [requests(bench.ask(cookie, block=cookie))[0] for cookie in (1, 2)]
    assert asked(bench.step(Refused("n1", sent[0].request, code, ""))) == ["n2"], "n1 after its pause"
    assert bench.step(Refused("n1", sent[1].request, code, "")) == []
    assert asked(bench.after(PAUSE_NS_MIN)) == ["n1"]
    assert [r.token for r in requests(bench.opened("n1", 2))] == [1, 2]


def test_a_refusal_can_lift_the_session_numbers() -> None:
    bench = Bench("n1")
    bench.step(Refused("n1", bench.opens["n1"], RefusedCode.NOT_READY, "", newest=1000))
    bench.after(PAUSE_NS_MIN)
    assert bench.opens["n1"] == 1001


def test_a_stalled_primary_keeps_its_session_while_the_others_are_asked() -> None:
    bench = Bench("n1", "n2")
    bench.refused("n2")
    bench.opened("n1", 1)
    bench.ask(1)
    assert bench.core.next_deadline_ns() == STALL_NS
    effects = bench.after(STALL_NS)
    assert asked(effects) == ["n2"]
    (probe,) = requests(effects)
    assert (probe.node, probe.kind, probe.count) == ("n1", READ, 1)
    assert bench.step(Data("n1", probe.session, probe.request, 1, 70, READ, 1)) == [Release(70)]
    assert bench.core.primary == "n1"
    bench.refused("n2")
    assert asked(bench.after(10 * MS)) == []
    assert asked(bench.after(STALL_NS)) == ["n2"]
    assert [r.token for r in requests(bench.opened("n2", 2))] == [1]


def test_a_primary_that_forgot_the_session_refuses_the_probe() -> None:
    bench = serving()
    bench.ask(1)
    (probe,) = requests(bench.after(STALL_NS))
    bench.step(Refused("n1", probe.request, RefusedCode.NOT_READY, ""))
    bench.after(PAUSE_NS_MIN)
    assert [r.token for r in requests(bench.opened("n1", 2))] == [1]


def test_a_replaced_link_loses_what_was_on_the_old_one() -> None:
    bench = serving()
    bench.ask(1)
    assert asked(bench.step(LinkUp("n1"))) == ["n1"]
    assert [r.token for r in requests(bench.opened("n1", 1))] == [1]


# ---- the end --------------------------------------------------------------------------------------------


def test_a_fenced_frontend_is_over_for_good() -> None:
    bench = serving()
    bench.ask(1)
    bench.ask(2, READ, 9)
    bench.step(LinkDown("n1"))
    bench.step(LinkUp("n2"))
    assert bench.refused("n2", RefusedCode.FENCED) == [
        Answer(1, ESHUTDOWN, 0),
        Release(1),
        Answer(2, ESHUTDOWN, 0),
    ]
    assert bench.ask(3) == [Answer(3, ESHUTDOWN, 0), Release(3)]
    assert bench.step(LinkUp("n3")) == []
    assert bench.step(ServingHint("n1", 9)) == []
    assert bench.after(SECOND) == []
    assert bench.core.next_deadline_ns() is None


def test_a_stale_refusal_fences_nobody() -> None:
    bench = serving()
    bench.step(Refused("n2", 1, RefusedCode.FENCED, ""))
    bench.step(Refused("n1", 12345, RefusedCode.FENCED, ""))
    assert not bench.core.ended


def test_closing_ends_the_session_and_answers_everything() -> None:
    bench = serving()
    bench.ask(1)
    session = bench.opens["n1"]
    assert bench.step(Closing()) == [SendClose("n1", session), Answer(1, ESHUTDOWN, 0), Release(1)]
    assert bench.step(Closing()) == []


def test_a_gone_client_gets_no_answer_but_its_write_still_happens() -> None:
    bench = serving()
    (write,) = requests(bench.ask(1))
    bench.ask(2)
    (read,) = requests(bench.ask(3, READ, 9))
    assert bench.step(ClientGone({1, 2, 3})) == []
    effects = bench.step(Done("n1", write.session, write.request, 1, 0))
    assert effects[0] == Release(1)
    assert [r.token for r in requests(effects)] == [2]
    assert bench.step(Data("n1", read.session, read.request, 1, 70, READ, 1)) == [Release(70)]
