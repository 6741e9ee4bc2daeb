"""What no brain says: dropped, counted and answered where the sender is only newer; nothing is believed of it.

Everything goes the way of a real message: bytes, `Handlers`, the node, the brain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replica import permits
from services.replica.brain import Facts, HardState, Record, Slot, Stamp, Timing, Voter
from services.replica.brain import messages as ms
from services.replica.driver import Decided, Node, ToBrain
from services.replica.frontends import Frontends
from services.replica.handlers import Handlers
from services.replica.peers import PeerNetwork
from services.replica.shell import Shell
from tests.support.replicas import CLEAN
from tests.support.trail import HeardTrail

VOLUME = "ab" * 16
ME, N2, N3 = (Voter(f"n{number}", f"{number}{number}" * 8) for number in (1, 2, 3))
STRANGER = Voter("n9", "99" * 8)
RECORD = Record(VOLUME, "data", 1 << 20, 2, (ME, N2, N3), (ME, N2, N3))
HELD = Slot(Stamp(0, 5, 7), RECORD)


class Nowhere:
    def send(self, peer: str, *parts: bytes) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class Rig:
    """One node with one voter, and what it says."""

    def __init__(self) -> None:
        self.node = Node("n1", Timing(), 1, lambda volume: CLEAN, 0)
        shell = Shell(self.node, cast(PeerNetwork, Nowhere()), cast(Any, Nowhere()), asyncio.get_running_loop())
        self.handlers = Handlers(self.node, cast(Frontends, None), HeardTrail())
        self.handlers.shell = shell
        state = HardState(ME, 5, None, HELD, 500_000_000)
        self.node.open(VOLUME, state, 0, marked=frozenset(), unclean=False, fresh=True)
        self.node.take()

    @property
    def state(self) -> HardState:
        return self.node.volumes[VOLUME].brain.state

    def hears(self, raw: bytes, peer: str = "n2", now_ns: int = 1) -> list[ms.BrainMessage]:
        """What it answers, when the disk is done."""
        self.handlers.brain(peer, VOLUME, raw, now_ns)
        said, saves = [], True
        while saves:
            orders = self.node.take()
            said += [order.message for order in orders if isinstance(order, ToBrain)]
            saves = [order for order in orders if hasattr(order, "ticket")]
            for save in saves:
                self.node.disk.saved(VOLUME, save.ticket, now_ns)  # type: ignore[union-attr]
        return said


def changed(message: ms.BrainMessage, change: Callable[[dict[str, Any]], object]) -> bytes:
    said = json.loads(ms.encode(message))
    change(said)
    return json.dumps(said).encode()


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        for step in path[:-1]:
            said = said[step]
        said[path[-1]] = value

    return change


VOTE = ms.Vote(VOLUME, N2, ME, 6, HELD.stamp)
PROPOSE = ms.Propose(
    VOLUME, N2, ME, 6, Slot(Stamp(0, 6, 8), Record(VOLUME, "data", 1 << 20, 2, (ME, N2, N3), (N2,), N2))
)


async def test_the_messages_of_these_tests_are_good_as_they_are() -> None:
    (answer,) = Rig().hears(ms.encode(VOTE))
    assert isinstance(answer, ms.VoteAnswer) and answer.granted
    (answer,) = Rig().hears(ms.encode(PROPOSE))
    assert isinstance(answer, ms.Accepted)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (VOTE, put("message", "epoch", value=-1)),
        (VOTE, put("message", "epoch", value=1 << 24)),
        (VOTE, put("message", "epoch", value=1 << 70)),
        (VOTE, put("message", "epoch", value="x")),
        (VOTE, put("message", "epoch", value=None)),
        (VOTE, put("message", "released", value=-3)),
        (VOTE, put("message", "stamp", "version", value=0)),
        (VOTE, put("message", "stamp", "version", value=1 << 60)),
        (VOTE, put("message", "stamp", "epoch", value=-1)),
        (VOTE, put("message", "stamp", "generation", value=1 << 40)),
        (VOTE, put("message", "sender", "incarnation", value="not hex")),
        (VOTE, put("message", "sender", "node", value="N2; rm")),
        (VOTE, put("message", "volume", value="x" * 100)),
        (PROPOSE, put("message", "slot", "stamp", "version", value=-5)),
        (PROPOSE, put("message", "slot", "record", "in_sync", value=[])),
        (PROPOSE, put("message", "slot", "record", "size_bytes", value=4095)),
        (PROPOSE, put("message", "slot", "record", "volume", value="cd" * 16)),
        (PROPOSE, put("message", "slot", "record", "voters", value=[])),
        (PROPOSE, put("message", "slot", "record", "replicas", value=99)),
    ],
)
async def test_impossible_numbers_and_records_are_dropped_and_change_nothing(
    message: ms.BrainMessage, change: Callable[[dict[str, Any]], object]
) -> None:
    rig = Rig()
    assert rig.hears(changed(message, change)) == []
    assert rig.handlers.dropped["a malformed brain message"] == 1
    assert (rig.state.epoch, rig.state.voted_for, rig.state.slot) == (5, None, HELD)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (put("v", value=2), "vote of version 2"),
        (put("message", "kind", value="conjure"), "conjure of version 1"),
        (put("message", "surprise", value=1), "vote of version 1"),
        (put("message", "stamp", "surprise", value=1), "vote of version 1"),
    ],
)
async def test_a_newer_senders_message_is_answered_and_not_acted_on(change: Any, what: str) -> None:
    rig = Rig()
    assert rig.hears(changed(VOTE, change)) == [ms.NotUnderstood(VOLUME, ME, N2, what, ms.VERSION)]
    assert (rig.state.epoch, rig.state.voted_for) == (5, None)
    assert rig.hears(ms.encode(VOTE)) != [], "it lives on"


async def test_a_newer_record_is_answered_too() -> None:
    rig = Rig()
    raw = changed(PROPOSE, put("message", "slot", "record", "surprise", value=1))
    assert rig.hears(raw) == [ms.NotUnderstood(VOLUME, ME, N2, "propose of version 1", ms.VERSION)]
    assert rig.state.slot == HELD


async def test_that_one_is_not_understood_is_told_once_and_never_answered() -> None:
    rig = Rig()
    raw = ms.encode(ms.NotUnderstood(VOLUME, N2, ME, "vote of version 1", 0))
    rig.handlers.brain("n2", VOLUME, raw, 1)
    (told,) = [order.explain for order in rig.node.take() if isinstance(order, Decided)]
    assert told.kind == "misunderstood"
    assert told.outcome == "n2 does not understand vote of version 1: it speaks version 0, this node 1"
    rig.handlers.brain("n2", VOLUME, raw, 2)
    assert rig.node.take() == []
    from_the_future = changed(ms.NotUnderstood(VOLUME, N2, ME, "x", 0), put("v", value=9))
    assert rig.hears(from_the_future) == [], "two versions could go on like this for ever"


async def test_not_understood_is_said_to_who_spoke_and_of_volumes_that_are_here() -> None:
    rig = Rig()
    assert rig.hears(changed(VOTE, put("v", value=2)), peer="n3") == [], "in another's name"
    assert (
        rig.hears(changed(VOTE, lambda said: (put("v", value=2)(said), put("message", "volume", value="q")(said))))
        == []
    )


async def test_a_stranger_gets_no_vote_and_deposes_nobody() -> None:
    rig = Rig()
    assert rig.hears(ms.encode(ms.Vote(VOLUME, STRANGER, ME, 9, HELD.stamp)), peer="n9") == []
    for message in (
        ms.PreVote(VOLUME, STRANGER, ME, 9, HELD.stamp),
        ms.Committed(VOLUME, STRANGER, ME, 5, Stamp(0, 5, 8)),
    ):
        (answer,) = rig.hears(ms.encode(message), peer="n9")
        assert isinstance(answer, ms.Unknown), "what it would hear were the volume not here"
    assert rig.handlers.dropped[permits.STRANGER] == 3
    assert rig.state.epoch == 5
    brain = rig.node.volumes[VOLUME].brain
    for message in (
        ms.Refused(VOLUME, STRANGER, ME, 9000),
        ms.PreVoteAnswer(VOLUME, STRANGER, ME, 6, True, 9000),
        ms.Accepted(VOLUME, STRANGER, ME, 5, HELD.stamp),
        ms.Erased(VOLUME, STRANGER, ME, 5),
        ms.Offer(VOLUME, STRANGER, ME, 5),
        ms.HandOver(VOLUME, STRANGER, ME, 5, HELD),
        ms.Released(VOLUME, STRANGER, ME, 5, STRANGER),
    ):
        assert rig.hears(ms.encode(message), peer="n9") == []
    assert (rig.state.epoch, rig.state.slot, brain.role) == (5, HELD, "follower")
    assert brain.candidacy.seen_epoch < 9000, "or the next candidacy would stand above an epoch that means nothing"


@pytest.mark.parametrize(
    ("message", "peer"),
    [
        (ms.Vote(VOLUME, N2, Voter("n1", "77" * 8), 6, HELD.stamp), "n2"),
        (ms.Propose(VOLUME, N2, Voter("n1", "77" * 8), 6, PROPOSE.slot), "n2"),
        (ms.HandOver(VOLUME, N2, Voter("n1", "77" * 8), 5, HELD), "n2"),
    ],
)
async def test_i1_what_is_meant_for_an_earlier_incarnation_is_not_answered(message: ms.BrainMessage, peer: str) -> None:
    rig = Rig()
    assert rig.hears(ms.encode(message), peer) == []
    assert (rig.state.epoch, rig.state.voted_for) == (5, None)


async def test_i1_an_earlier_incarnation_of_a_voter_counts_for_nothing() -> None:
    """n2 lost its disk, is another voter by now and has our vote; words of the one before it arrive late."""
    rig = Rig()
    old = Voter("n2", "77" * 8)
    assert rig.hears(ms.encode(ms.Vote(VOLUME, old, ME, 6, HELD.stamp))) == []
    brain = rig.node.volumes[VOLUME].brain
    due = brain.next_deadline_ns(Facts())
    assert due is not None
    rig.node.time_passed(due)
    rig.node.take()
    assert brain.role == "pre-voting"
    rig.hears(ms.encode(ms.PreVoteAnswer(VOLUME, old, ME, 6, True, 5)), now_ns=due)
    assert brain.role == "pre-voting"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_bad(raw: bytes) -> None:
    with contextlib.suppress(ms.BadMessage):
        ms.decode(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([VOTE, PROPOSE]), st.data())
def test_any_value_in_any_place_is_a_message_or_bad(message: ms.BrainMessage, data: st.DataObject) -> None:
    said = json.loads(ms.encode(message))
    where = said
    while True:
        key = data.draw(st.sampled_from(sorted(where)))
        if isinstance(where[key], dict) and data.draw(st.booleans()):
            where = where[key]
        else:
            break
    where[key] = data.draw(JSON)
    try:
        again = ms.decode(json.dumps(said).encode())
    except ms.BadMessage:
        return
    assert ms.decode(ms.encode(again)) == again
