"""What waits at a leader: requests for what is so already share a commit."""

from __future__ import annotations

from services.replica.brain import Brain
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from tests.support.voters import A, B, C, accept, brain, elect, record, sent, slot, step

TRIES = 50


def leader() -> Brain:
    machine = brain(A, slot(record(A, B, C)))
    elect(machine, B, C)
    accept(machine, B)
    return machine


def replied(effects: list[ev.Effect]) -> list[ev.Reply]:
    return [effect for effect in effects if isinstance(effect, ev.Reply)]


def commits_until_idle(machine: Brain) -> list[list[ev.Reply]]:
    """What each commit answers."""
    answered: list[list[ev.Reply]] = []
    while machine.proposal is not None and not machine.proposal.committed:
        answered.append(replied(accept(machine, B)))
    return answered


def test_what_is_asked_for_again_sooner_than_it_is_committed_costs_no_commit_each() -> None:
    """The queue of a leader with slow disks only grew, and whoever wanted something else waited behind it."""
    machine = leader()
    for request in range(TRIES):
        step(machine, ev.DetachAsked(request, None))
    step(machine, ev.AttachAsked(TRIES, "n"))
    for request in range(TRIES):
        step(machine, ev.AttachAsked(TRIES + 1 + request, "n"))
    assert [len(answers) for answers in commits_until_idle(machine)] == [1, TRIES - 1, TRIES + 1]
    assert machine.record is not None and machine.record.attachment is not None


def test_who_asks_while_a_record_is_on_its_way_waits_for_the_next() -> None:
    """A majority may have stored that one before: a leader that had been deposed since would answer."""
    machine = leader()
    step(machine, ev.AttachAsked(1, "n"))
    step(machine, ev.AttachAsked(2, "n"))
    assert replied(accept(machine, B)) == [ev.Reply(1)]
    assert replied(accept(machine, B)) == [ev.Reply(2)]


def test_nobody_is_taken_along_past_who_wants_something_else() -> None:
    machine = leader()
    step(machine, ev.ExpandAsked(1, 8 << 20))
    step(machine, ev.AttachAsked(2, "n"))
    step(machine, ev.DetachAsked(3, None))
    step(machine, ev.AttachAsked(4, "m"))
    step(machine, ev.AttachAsked(5, "n"))
    step(machine, ev.AttachAsked(6, "m"))
    answers = commits_until_idle(machine)
    assert [[reply.request for reply in some] for some in answers] == [[1], [2], [3], [4, 5], [6]]
    assert [reply.code for some in answers for reply in some] == ["", "", "", "", "FAILED_PRECONDITION", ""]


def test_snapshots_that_are_asked_for_again_share_a_commit_too() -> None:
    machine = leader()
    for request in range(TRIES):
        step(machine, ev.TakeAsked(request, "red", 1))
    out = accept(machine, B)
    assert [message for message in sent(out) if isinstance(message, ms.Propose)]
    assert len(commits_until_idle(machine)) == 1
