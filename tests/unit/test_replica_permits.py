"""Who may say what about a volume, judged by a voter's own record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica import permits
from services.replica.brain import messages as ms
from services.replica.brain.record import Attachment, HardState, Record, Slot, Stamp, Voter

VOLUME = "ab" * 16
A, B, C = (Voter(node, letter * 16) for node, letter in (("n1", "a"), ("n2", "b"), ("n3", "c")))
W = Voter("w", "d" * 16, "witness")
RECORD = Record(VOLUME, "data", 1 << 20, 2, (A, B, C, W), (A, B, C), A, Attachment("app", 3), 3)
SLOT = Slot(Stamp(1, 7, 4), RECORD)
STATE = HardState(B, 7, A, SLOT, 500_000_000)
MINE = int(B.incarnation, 16)


def data(node: str = "n1", sender: str = "a" * 16, target: int = MINE, generation: int = 1) -> str:
    return permits.data(SLOT, mine=MINE, node=node, sender=int(sender, 16), target=target, generation=generation)


def test_data_comes_from_a_copy_by_its_incarnation_in_this_generation() -> None:
    assert data() == ""
    assert data("n3", C.incarnation) == ""
    assert data("x") == permits.STRANGER
    assert data("app") == permits.STRANGER, "who uses the volume is no voter of it"
    assert data("n1", "e" * 16) == permits.INCARNATION
    assert data("n1", C.incarnation) == permits.INCARNATION
    assert data(target=MINE + 1) == permits.INCARNATION
    assert data(generation=0) == data(generation=2) == permits.GENERATION
    assert data("w", W.incarnation) == permits.WITNESS
    unfounded = permits.data(None, mine=MINE, node="n1", sender=int(A.incarnation, 16), target=MINE, generation=0)
    assert unfounded == permits.STRANGER


@pytest.mark.parametrize(
    ("state", "leader", "may"),
    [
        (STATE, None, {"n1"}),
        (STATE, A, {"n1"}),
        (replace(STATE, voted_for=None), None, {"n1"}),
        (replace(STATE, epoch=8, voted_for=C), None, {"n3"}),
        (replace(STATE, epoch=8, voted_for=None), None, set()),
        (replace(STATE, epoch=8, voted_for=C), B, {"n2", "n3"}),
        (HardState(B, 0, None, None, 1), None, set()),
    ],
)
def test_the_leader_of_an_epoch_is_who_was_voted_for_followed_or_recorded_in_it(
    state: HardState, leader: Voter | None, may: set[str]
) -> None:
    nodes = ["n1", "n2", "n3", "w", "x", ""]
    assert {node for node in nodes if not permits.lead(state, leader, node)} == may


def test_a_brain_hears_voters_of_its_record_only() -> None:
    for voter in RECORD.voters:
        assert permits.brain(STATE, ms.Vote(VOLUME, voter, B, 8, SLOT.stamp, generation=1)) == ""
    for stranger in (Voter("x", "e" * 16), Voter("app", "e" * 16)):
        assert permits.brain(STATE, ms.Vote(VOLUME, stranger, B, 8, SLOT.stamp, generation=1)) == permits.STRANGER
        heard = replace(RECORD, voters=(*RECORD.voters, stranger))
        assert permits.brain(STATE, ms.Vote(VOLUME, stranger, B, 8, SLOT.stamp, generation=1), heard) == ""
    for other in (replace(A, incarnation="e" * 16), replace(A, kind="witness"), replace(W, kind="data")):
        assert permits.brain(STATE, ms.Vote(VOLUME, other, B, 8, SLOT.stamp, generation=1)) == permits.INCARNATION


def test_before_the_first_record_a_proposal_names_its_sender() -> None:
    fresh = HardState(B, 0, None, None, 1)
    x = Voter("x", "e" * 16)
    for state in (fresh, None):
        assert permits.brain(state, ms.Propose(VOLUME, A, B, 7, SLOT)) == ""
        assert permits.brain(state, ms.Propose(VOLUME, x, B, 7, SLOT)) == permits.STRANGER
        assert permits.brain(state, ms.PreVote(VOLUME, x, B, 7, SLOT.stamp)) == "", "it hears that there is none"


def knows(node: str, target: int = 0, record: Record | None = RECORD) -> bool:
    return permits.knows(record, mine=MINE, node=node, target=target)


def test_who_may_learn_that_a_volume_is_here() -> None:
    assert knows("app")
    assert knows("n1")
    assert knows("w")
    assert not knows("x")
    assert not knows("x", MINE + 1)
    assert knows("x", MINE), "it was told our incarnation with the record, when it was attached"
    assert not knows("app", record=replace(RECORD, attachment=None))
    assert not knows("n1", record=None)
    assert knows("app", MINE, record=None)


GOOD = ms.Propose(VOLUME, A, B, 7, SLOT, SLOT.stamp)


@pytest.mark.parametrize(
    "message",
    [
        replace(GOOD, epoch=-1),
        replace(GOOD, epoch=permits.EPOCH_MAX + 1),
        replace(GOOD, committed=Stamp(0, permits.EPOCH_MAX + 1, 1)),
        replace(GOOD, committed=Stamp(1 << 32, 1, 1)),
        replace(GOOD, committed=Stamp(-1, 1, 1)),
        replace(GOOD, committed=Stamp(0, 1, -1)),
        replace(GOOD, slot=Slot(Stamp(0, 7, 1 << 53), RECORD)),
        replace(GOOD, sender=replace(A, incarnation="A" * 16)),
        replace(GOOD, sender=replace(A, incarnation="a" * 17)),
        replace(GOOD, target=replace(B, node="N2")),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, voters=(*RECORD.voters, Voter("e", ""))))),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, name="../x"))),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, size_bytes=1 << 60))),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, attach_epoch=1 << 32))),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, attachment=Attachment("*", 3)))),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, labels=(("a", "b"),) * 65))),
        ms.VoteAnswer(VOLUME, A, B, -5, True, 7),
        ms.VoteAnswer(VOLUME, A, B, 7, False, 7, reason="?" * 1001),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, zones=("z",) * 65))),
        replace(GOOD, slot=Slot(SLOT.stamp, replace(RECORD, zones=("z" * 1001,)))),
        ms.Vote(VOLUME, A, B, 8, SLOT.stamp, released=1 << 24),
        ms.Released(VOLUME, A, B, 7, replace(C, incarnation="no")),
        ms.NotUnderstood(VOLUME, A, B, "?" * 1001, 1),
        ms.PreVoteAnswer(VOLUME, A, B, 7, True, 7, in_sync=(Voter("..", "a" * 16),)),
    ],
)
def test_numbers_and_names_that_can_not_be_are_refused_first(message: ms.BrainMessage) -> None:
    assert permits.brain(STATE, GOOD) == ""
    assert permits.brain(STATE, message) == permits.IMPOSSIBLE
