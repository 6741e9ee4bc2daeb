"""The shell performs a node's orders in order, and tells nobody about what a failed disk did not do."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from services.replica.brain import HardState, Slot, Stamp, Voter
from services.replica.brain import messages as brain_messages
from services.replica.brain.election import Timing
from services.replica.brain.record import Record
from services.replica.driver import Data, Node, Order
from services.replica.frontends import Frontends
from services.replica.handlers import Handlers
from services.replica.hosted import Hosted
from services.replica.peers import Frame, FrameReader, Link, PeerNetwork, Type
from services.replica.replication import effects as fx
from services.replica.replication import messages as ms
from services.replica.replication.replica import Share
from services.replica.shell import Shell
from services.replica.store import StoreError
from tests.support.replicas import CLEAN

VOLUME = "ab" * 16
ME, OTHER = Voter("n1", "11" * 8), Voter("n2", "22" * 8)
RECORD = Record(VOLUME, "data", 1 << 20, 1, (ME, OTHER), (ME, OTHER))


class FullDisk:
    """A store whose disk takes nothing any more."""

    size_blocks = 256
    unclean = False
    marked: frozenset[int] = frozenset({0})

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
    peer = "n2"

    def __init__(self) -> None:
        self.types: list[int] = []

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


async def test_nothing_is_answered_after_a_failed_store() -> None:
    """[StoreWrite, Answer(Done), CommitTail] with a full disk: the client must not hear "done", and the tail must
    not forget the write."""
    loop = asyncio.get_running_loop()
    node = Node("n1", Timing(), 1, lambda volume: CLEAN, 0)
    shell = Shell(node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), loop)
    disk = FullDisk()
    hosted = Hosted(VOLUME, ME.incarnation, cast(Any, disk), loop, cast(Any, None))
    hosted.run = lambda work, told: work()  # type: ignore[method-assign]
    shell.add(hosted)
    state = HardState(ME, 5, ME, Slot(Stamp(0, 5, 2), RECORD), 500_000_000)
    node.open(VOLUME, state, 0, marked=frozenset({0}), unclean=False, fresh=True)
    link = Sent()
    number = shell.link_number(cast(Link, link))
    token = shell.hold(bytes(8), bytes(4096))
    orders: list[Order] = [
        Data(VOLUME, 5, effect, 5)
        for effect in (
            fx.StoreWrite(7, 0, 1, token),
            fx.Answer(number, ms.Done(1, 2, 0)),
            fx.Answer(number, ms.Copied(3)),
            fx.CommitTail(7),
        )
    ]
    node._orders.extend(orders)
    shell.perform()
    assert hosted.failure == "no space left on device"
    assert link.types == []
    assert disk.committed == []
    assert disk.unclean
    assert node.volumes[VOLUME].brain.failure == "no space left on device"
    assert not node.volumes[VOLUME].brain.silent, "its hard state can be stored, so it votes"


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
    handlers = Handlers(node, cast(Frontends, None))
    handlers.shell = shell
    state = HardState(ME, 0, None, Slot(Stamp(0, 0, 1), RECORD), 500_000_000)
    node.open(VOLUME, state, 0, marked=frozenset(), unclean=False, fresh=True)
    asked = brain_messages.PreVote(VOLUME, OTHER, ME, 1, Stamp(0, 0, 1))
    raw = brain_messages.encode(asked)
    handlers.brain("n3", raw, 1)
    assert handlers.dropped["brain message in another's name"] == 1
    assert node.take() == []
    for bad in (b"", b"{", b"[]", raw[:-3], raw.replace(b'"epoch":1', b'"epoch":"x"')):
        handlers.brain("n2", bad, 1)
    assert handlers.dropped["malformed brain message"] == 5
    assert node.take() == []
    handlers.brain("n2", raw, 1)
    assert node.take() != []


async def test_data_of_a_stranger_or_another_incarnation_is_not_answered() -> None:
    node = Node("n1", Timing(), 1, lambda volume: CLEAN, 0)
    loop = asyncio.get_running_loop()
    shell = Shell(node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), loop)
    handlers = Handlers(node, cast(Frontends, None))
    handlers.shell = shell
    shell.add(Hosted(VOLUME, ME.incarnation, cast(Any, FullDisk()), loop, cast(Any, None)))
    state = HardState(ME, 5, None, Slot(Stamp(0, 5, 2), RECORD), 500_000_000)
    node.open(VOLUME, state, 0, marked=frozenset(), unclean=False, fresh=True)
    raw = bytes.fromhex(VOLUME)
    me, other = int(ME.incarnation, 16), int(OTHER.incarnation, 16)
    for sender, target in ((other, me + 1), (other + 1, me), (0, 0)):
        frame = Frame(Type.JOIN, 0, raw, sender, target, 0, 0, 5, 1, 0, 0, 0, memoryview(b""))
        handlers.frames(cast(Link, Sent()), [frame])
    assert handlers.dropped["data of another incarnation"] == 3
    stranger = Sent()
    stranger.peer = "n9"
    handlers.frames(cast(Link, stranger), [Frame(Type.JOIN, 0, raw, other, me, 0, 0, 5, 1, 0, 0, 0, memoryview(b""))])
    assert handlers.dropped["data of a stranger"] == 1
    shell.stop()
