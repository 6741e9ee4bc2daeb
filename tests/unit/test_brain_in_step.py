"""Snapshots in step at the leader: each step is answered when it is taken, by the reign that was asked first (K4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Brain, Record, Snapshot
from services.replica.brain import events as ev
from stoscore.units import MS
from tests.support.voters import A, B, C, accept, brain, record, slot, step
from tests.unit.test_brain_snapshots import LEASED, SIZE, known, leader, orders, replies, sealed

GROUP = "pair.0123456789abcdef"
OTHER = "pair.fedcba9876543210"


def asked(name: str = "s", request: int = 1, group: str = GROUP) -> ev.TakeAsked:
    return ev.TakeAsked(request, name, 1, in_step=True, group=group)


def snapshot(machine: Brain, name: str = "s") -> Snapshot:
    found = known(machine).snapshot(name)
    assert found is not None
    return found


def stepped(machine: Brain, name: ev.StepAsked | ev.StepReached) -> list[ev.Effect]:
    return step(machine, name, 0, LEASED)


def reached(machine: Brain, what: str) -> list[ev.Effect]:
    return stepped(machine, ev.StepReached(snapshot(machine).asked, what))  # type: ignore[arg-type]


def ask(machine: Brain, what: str, request: int, *, epoch: int | None = None) -> list[ev.Effect]:
    version = snapshot(machine).asked
    of = machine.epoch if epoch is None else epoch
    return stepped(machine, ev.StepAsked(request, "s", what, of, version, 50 * MS))  # type: ignore[arg-type]


def test_each_step_is_answered_when_it_is_taken() -> None:
    machine = leader()
    step(machine, asked(), 0, LEASED)
    (order,) = orders(accept(machine, B, C))
    assert order.in_step and snapshot(machine).group == GROUP
    assert replies(reached(machine, "prepared")) == [ev.Reply(1)]
    out = ask(machine, "held", 2)
    assert ev.HoldWrites(order.asked, 50 * MS) in out and not replies(out)
    assert replies(reached(machine, "held")) == [ev.Reply(2)]
    out = ask(machine, "sealed", 3)
    assert ev.SealHeld(order.asked) in out and not replies(out)
    assert replies(reached(machine, "sealed")) == [ev.Reply(3)]
    assert not replies(ask(machine, "ready", 4))
    sealed(machine, "s", A, B)
    assert replies(accept(machine, B)) == [ev.Reply(4)], "by the committed record"
    assert snapshot(machine).group == GROUP


def test_one_that_fails_is_told_to_whoever_waits_and_is_forgotten() -> None:
    machine = leader()
    step(machine, asked(), 0, LEASED)
    accept(machine, B, C)
    reached(machine, "prepared")
    ask(machine, "sealed", 3)
    step(machine, ev.SealFailed("s", snapshot(machine).asked, "it did not hold", lapsed=True), 0, LEASED)
    (reply,) = replies(accept(machine, B))
    assert (reply.request, reply.code) == (3, "ABORTED") and "did not hold" in reply.error
    assert known(machine).snapshot("s") is None


def test_a_step_that_is_taken_answers_nobody_whose_snapshot_is_still_to_be_agreed_on() -> None:
    """*It was told that its snapshot had been dropped, by the record of before.*"""
    machine = leader()
    step(machine, asked(), 0, LEASED)
    accept(machine, B, C)
    step(machine, ev.TakeAsked(7, "later", 1), 0, LEASED)
    assert not replies(reached(machine, "prepared"))
    assert replies(accept(machine, B, C)) == [ev.Reply(1)], "the step, by the record that was on its way"
    assert machine.record is not None and machine.record.snapshot("later") is not None


@pytest.mark.parametrize("wrong", ["epoch", "name", "version"])
def test_what_is_asked_of_another_reign_or_snapshot_is_refused(wrong: str) -> None:
    machine = leader()
    step(machine, asked(), 0, LEASED)
    accept(machine, B, C)
    reached(machine, "prepared")
    question = ev.StepAsked(2, "s", "held", machine.epoch, snapshot(machine).asked, MS)
    changed = {
        "epoch": {"epoch": question.epoch - 1},
        "name": {"name": "t"},
        "version": {"asked": question.asked + 1},
    }
    out = stepped(machine, replace(question, **changed[wrong]))  # type: ignore[arg-type]
    assert [(reply.request, reply.code) for reply in replies(out)] == [(2, "ABORTED")]
    assert not [effect for effect in out if isinstance(effect, ev.HoldWrites)]


def test_the_next_leader_drops_what_is_pending_for_a_group_and_seals_what_is_not() -> None:
    """*It sealed a moment of its own for a group whose other volumes had sealed theirs.*"""
    pending = Snapshot("s", SIZE, 1, 1, group=GROUP)
    machine = leader(replace(record(A, B, C), snapshots=(pending, Snapshot("own", SIZE, 1, 2))))
    (order,) = orders(accept(machine, B, C))
    assert known(machine).snapshot("s") is None
    assert order.name == "own" and not order.in_step


def test_two_groups_never_wait_for_each_other() -> None:
    machine = leader()
    step(machine, asked(), 0, LEASED)
    accept(machine, B, C)
    (reply,) = replies(step(machine, asked("t", 2, OTHER), 0, LEASED))
    assert (reply.request, reply.code) == (2, "ABORTED")
    assert not replies(step(machine, asked("s", 3), 0, LEASED)), "the same one waits"
    accept(machine, B, C)
    assert replies(reached(machine, "prepared")) == [ev.Reply(1), ev.Reply(3)]


def test_a_name_that_is_there_is_not_of_a_group_that_it_was_not_taken_for() -> None:
    machine = leader()
    step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED)
    accept(machine, B, C)
    (reply,) = replies(step(machine, asked("s", 2), 0, LEASED))
    assert (reply.request, reply.code) == (2, "ALREADY_EXISTS")


def test_who_waits_for_a_step_is_sent_on_when_the_leader_stops() -> None:
    machine = leader()
    step(machine, asked(), 0, LEASED)
    accept(machine, B, C)
    out = step(machine, ev.StoreChanged(False, "the disk is gone", votes=False), 0, LEASED)
    assert ev.Reply(1, "NOT_PRIMARY", "it stopped being the primary") in out
    follower = brain(B, slot(record(A, B, C)))
    out = stepped(follower, ev.StepAsked(2, "s", "held", follower.epoch, 1, MS))
    assert [(reply.request, reply.code) for reply in replies(out)] == [(2, "NOT_PRIMARY")]


def test_a_record_without_groups_is_written_as_before_there_were_any() -> None:
    from pydantic import TypeAdapter

    plain = replace(record(A, B, C), snapshots=(Snapshot("s", SIZE, 1, 1),))
    written = TypeAdapter(Record).dump_json(plain)
    assert b"group" not in written
    grouped = replace(plain, snapshots=(Snapshot("s", SIZE, 1, 1, group=GROUP),))
    assert TypeAdapter(Record).validate_json(TypeAdapter(Record).dump_json(grouped)) == grouped
