"""A candidate whose answers are late: whom it asks again, for what, and when."""

from __future__ import annotations

from itertools import pairwise

from services.replica.brain import Brain
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from tests.support.voters import LEASE, TIMING, A, B, C, brain, record, sent, slot, step


def voting() -> Brain:
    """A, for whom B would vote; it has asked for the votes of B and C at 0."""
    machine = brain(A, slot(record(A, B, C)))
    for node in ("b", "c"):
        step(machine, ev.PeerUp(node))
    step(machine, ev.TimePassed())
    asked = machine.candidacy.asking_epoch
    step(machine, ev.Received(ms.PreVoteAnswer("v", B, A, asked, True, asked - 1)))
    assert machine.role == "voting"
    return machine


def next_asked(machine: Brain) -> tuple[int, list[ms.PreVote | ms.Vote]]:
    """When it asks for votes the next time, and for what."""
    while True:
        due_ns = machine.next_deadline_ns(machine.local.facts)
        assert due_ns is not None
        messages = sent(step(machine, ev.TimePassed(), due_ns))
        asked = [message for message in messages if isinstance(message, ms.PreVote | ms.Vote)]
        if asked:
            return due_ns, asked


def test_who_has_not_answered_is_asked_for_the_same_vote_after_growing_pauses() -> None:
    machine = voting()
    epoch, times = machine.epoch, []
    for _ in range(8):
        at_ns, asked = next_asked(machine)
        times.append(at_ns)
        assert [(type(message), message.target, message.epoch) for message in asked] == [
            (ms.Vote, B, epoch),
            (ms.Vote, C, epoch),
        ]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:2] == [2 * TIMING.resend_ns, 4 * TIMING.resend_ns]
    assert pauses[-1] == pauses[-2] <= 5 * LEASE
    step(machine, ev.Received(ms.VoteAnswer("v", B, A, epoch, True, epoch)), times[-1])
    assert machine.role == "leader"


def test_a_refusal_is_an_answer_and_everybody_is_asked_anew() -> None:
    machine = voting()
    epoch = machine.epoch
    step(machine, ev.Received(ms.VoteAnswer("v", B, A, epoch, False, epoch, "another")))
    _, asked = next_asked(machine)
    assert [(type(message), message.target, message.epoch) for message in asked] == [
        (ms.PreVote, B, epoch + 1),
        (ms.PreVote, C, epoch + 1),
    ]


def test_who_is_not_there_slows_nobody_down() -> None:
    """C is gone and B refuses, for it has promised another: that may end at any moment."""
    machine = brain(A, slot(record(A, B, C)))
    step(machine, ev.PeerUp("b"))
    step(machine, ev.TimePassed())
    now_ns = 0
    for _ in range(5):
        asked = machine.candidacy.asking_epoch
        answer = ms.PreVoteAnswer("v", B, A, asked, False, asked - 1, "another holds a live promise")
        step(machine, ev.Received(answer), now_ns)
        at_ns, messages = next_asked(machine)
        assert at_ns - now_ns == TIMING.resend_ns
        assert isinstance(messages[0], ms.PreVote)
        now_ns = at_ns


def test_who_comes_back_is_asked_at_once() -> None:
    machine = voting()
    for _ in range(5):
        now_ns, _ = next_asked(machine)
    step(machine, ev.PeerDown("c"), now_ns)
    step(machine, ev.PeerUp("c"), now_ns)
    at_ns, asked = next_asked(machine)
    assert at_ns == now_ns + TIMING.resend_ns
    assert C in [message.target for message in asked]
