"""The shell performs a node's orders in order, and tells nobody about what a failed disk did not do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from services.replica.brain import HardState, Slot, Stamp, Voter
from services.replica.brain import messages as brain_messages
from services.replica.brain.election import Timing
from services.replica.brain.record import Record
from services.replica.driver import Data, Node, Save, ToBrain
from services.replica.frontends import Frontends
from services.replica.handlers import Handlers
from services.replica.health import Health
from services.replica.hosted import Hosted
from services.replica.peers import FrameReader, Link, PeerNetwork, Type
from services.replica.replication import effects as fx
from services.replica.replication import messages as ms
from services.replica.replication.replica import Share
from services.replica.shell import Shell
from services.replica.store import StoreError
from tests.support.replicas import CLEAN
from tests.support.trail import HeardTrail

VOLUME = "ab" * 16
OTHER_VOLUME = "cd" * 16
ME, OTHER = Voter("n1", "11" * 8), Voter("n2", "22" * 8)
RECORD = Record(VOLUME, "data", 1 << 20, 1, (ME, OTHER), (ME, OTHER))


class FullDisk:
    """A store whose disk takes nothing any more."""

    size_blocks = 256
    unclean = False
    marked: frozenset[int] = frozenset({0})
    sealed: tuple[str, ...] = ()
    folds = False

    def __init__(self) -> None:
        self.committed: list[int] = []

    def tail_append(self, seq: int, block: int, count: int) -> None:
        pass

    def tail_commit(self, seq: int) -> None:
        self.committed.append(seq)

    def write(self, block: int, sums: bytes, data: bytes) -> None:
        raise StoreError("no space left on device")

    def set_unclean(self) -> None:
        self.unclean = True


class Sent:
    """A link that keeps the types of the frames sent on it."""

    up = True
    outgoing = False
    peer = "n2"

    def __init__(self) -> None:
        self.types: list[int] = []
        self.charged = 0

    def charge(self, cost: int = 1) -> None:
        self.charged += cost

    def send(self, *parts: bytes) -> bool:
        raw = b"".join(bytes(part) for part in parts)
        reader = FrameReader()
        reader.get_buffer()[: len(raw)] = raw
        self.types += [frame.type for frame in reader.received(len(raw))]
        return True


class Around:
    """Surroundings that nobody looks at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class Nowhere:
    def send(self, peer: str, *parts: bytes) -> bool:
        return False


def new_shell() -> tuple[Node, Shell]:
    node = Node("n1", Timing(), 1, lambda volume: CLEAN, 0)
    return node, Shell(node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), asyncio.get_running_loop())


def host(shell: Shell, volume: str) -> tuple[Hosted, FullDisk]:
    """A replica of this volume, on a disk of its own."""
    disk = FullDisk()
    hosted = Hosted(
        volume, ME.incarnation, cast(Any, disk), asyncio.get_running_loop(), cast(Any, None), Health(100, 1)
    )
    hosted.run = lambda work, told: work()  # type: ignore[method-assign]
    shell.add(hosted)
    state = HardState(ME, 5, ME, Slot(Stamp(0, 5, 2), replace(RECORD, volume=volume)), 500_000_000)
    shell.node.open(volume, state, 0, marked=frozenset({0}), unclean=False, fresh=True)
    return hosted, disk


async def test_nothing_is_answered_after_a_failed_store() -> None:
    """[StoreWrite, Answer(Done), CommitTail] with a full disk: the client must not hear "done", and the tail must
    not forget the write."""
    node, shell = new_shell()
    hosted, disk = host(shell, VOLUME)
    link = Sent()
    number = shell.link_number(cast(Link, link))
    token = shell.hold(bytes(8), bytes(4096))
    store, done, copied = fx.StoreWrite(7, 0, 1, token), fx.Answer(number, ms.Done(1, 2, 0)), ms.Copied(3)
    node.ordered += [
        Data(VOLUME, 5, (store, done), 5),
        Data(VOLUME, 5, (fx.Answer(number, copied), fx.CommitTail(7)), 5),
    ]
    shell.perform()
    assert hosted.failure == "no space left on device"
    assert link.types == []
    assert disk.committed == []
    assert disk.unclean
    assert node.volumes[VOLUME].brain.failure == "no space left on device"
    assert not node.volumes[VOLUME].brain.silent, "its hard state can be stored, so it votes"


async def test_an_order_that_breaks_fails_its_own_copy_and_loses_no_other_volumes_orders(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two volumes in one wake-up. The first one's write names a payload that is not there, which nobody foresaw."""
    node, shell = new_shell()
    broken, broken_disk = host(shell, VOLUME)
    sound, sound_disk = host(shell, OTHER_VOLUME)
    link = Sent()
    number = shell.link_number(cast(Link, link))
    node.ordered += [
        Data(VOLUME, 5, (fx.StoreWrite(7, 0, 1, 999), fx.Answer(number, ms.Done(1, 2, 0))), 5),
        Data(VOLUME, 5, (fx.CommitTail(7),), 5),
        Data(OTHER_VOLUME, 5, (fx.CommitTail(8),), 5),
        Data(OTHER_VOLUME, 5, (fx.Answer(number, ms.Done(1, 3, 0)),), 5),
    ]
    shell.perform()
    assert broken.failure == "Data could not be performed: KeyError: 999"
    assert node.volumes[VOLUME].brain.failure == broken.failure
    assert broken_disk.committed == [] and broken_disk.unclean
    assert not sound.failure and sound_disk.committed == [8]
    assert link.types == [Type.IO_DONE], "the other volume's alone"
    told = caplog.records[0]
    assert told.__dict__["volume"] == VOLUME and told.exc_info is not None


async def test_a_hard_state_that_breaks_is_no_vote_and_a_message_that_breaks_is_lost() -> None:
    node, shell = new_shell()
    hosted, _ = host(shell, VOLUME)
    node.ordered.append(ToBrain(brain_messages.Unknown("no volume", ME, OTHER)))
    shell.perform()
    assert not hosted.failure
    state = node.volumes[VOLUME].brain.state
    hosted.save = cast(Any, None)
    node.ordered.append(Save(VOLUME, 1, state))
    shell.perform()
    assert hosted.failure.startswith("Save could not be performed")
    assert not hosted.votes and node.volumes[VOLUME].brain.silent


async def test_link_numbers_are_never_used_again() -> None:
    node = Node("n1", Timing(), 1, lambda volume: Share((), 0, 0, False), 0)
    shell = Shell(node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), asyncio.get_running_loop())
    first = cast(Link, Sent())
    number = shell.link_number(first)
    assert shell.link_number(first) == number
    assert shell.forget_link(first) == number
    assert shell.link_number(cast(Link, Sent())) > number


async def test_a_brain_message_in_anothers_name_is_dropped() -> None:
    """A node may speak only as itself, whatever way its message came."""
    node = Node("n1", Timing(), 1, lambda volume: CLEAN, 0)
    shell = Shell(node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), asyncio.get_running_loop())
    handlers = Handlers(node, cast(Frontends, None), audit := HeardTrail())
    handlers.shell = shell
    state = HardState(ME, 0, None, Slot(Stamp(0, 0, 1), RECORD), 500_000_000)
    node.open(VOLUME, state, 0, marked=frozenset(), unclean=False, fresh=True)
    asked = brain_messages.PreVote(VOLUME, OTHER, ME, 1, Stamp(0, 0, 1))
    raw = brain_messages.encode(asked)
    handlers.brain("n3", VOLUME, raw, 1)
    handlers.brain("n2", "cd" * 16, raw, 1)
    assert handlers.dropped["a brain message in another's name"] == 2
    assert node.take() == []
    for bad in (b"", b"{", b"[]", raw[:-3], raw.replace(b'"epoch":1', b'"epoch":"x"')):
        handlers.brain("n2", VOLUME, bad, 1)
    assert handlers.dropped["a malformed brain message"] == 5
    assert node.take() == []
    handlers.brain("n2", VOLUME, raw.replace(b"pre-vote", b"?"), 1)
    assert handlers.dropped["a brain message of another version"] == 1
    (told,) = node.take()
    assert isinstance(told, ToBrain) and isinstance(told.message, brain_messages.NotUnderstood)
    handlers.brain("n2", VOLUME, raw, 1)
    assert node.take() != []
    assert [told.who for told in audit.told] == ["node/n3"] + ["node/n2"] * 7
