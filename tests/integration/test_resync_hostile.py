"""Both ends of a resync, each with a stolen node at the other one: what it can say costs it its link, and nothing else.

In the first half the test plays the primary that leads a real copy, in the second a copy that a real primary brings up
to date. Everything that a node of the volume knows is known: incarnations, epochs, whom the record names.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from services.replica import codec
from services.replica.brain import BeatAnswer, Voter
from services.replica.brain import messages as ms
from services.replica.brain.record import Record, Slot, Stamp
from services.replica.peers import (
    COPY_PACKED,
    JOINED_MANY,
    JOINED_PACKED,
    PACKED_BLOCKS_MAX,
    Frame,
    Link,
    Type,
    pack,
    pack_data,
    pack_ranges,
    pack_u64s,
    split_copy,
    unpack_ranges,
)
from services.replica.replication.messages import first_seq
from services.replica.replication.resync import COMPARES_IN_FLIGHT
from services.replica.store import block_sums
from stoscore.units import BLOCK_BYTES, SECOND
from tests.support.peers import PeerNode, Recorder, until
from tests.support.wired import SIZE, Wired, WiredNode, wired

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy."),
]
BLOCKS = SIZE // BLOCK_BYTES
TEXT = (b"only differing blocks travel, neighbours together\n" * 100)[:BLOCK_BYTES]
ZEROS = bytes(BLOCK_BYTES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wired]:
    async with wired(tmp_path_factory.mktemp("hostile"), "n1", "n2") as found:
        yield found


# ---- a stolen primary ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reign:
    """The played p1 leads a volume of which n1 holds a copy; p2, the third voter, is played as well."""

    volume: str
    victim: WiredNode
    me: Voter
    copy: Voter
    p1: PeerNode
    p2: PeerNode
    epoch: int = 5
    joins: int = 0

    @property
    def link(self) -> Link:
        return self.p1.handler.links[f"to {self.victim.name}"]

    def header(self, kind: Type, body: bytes = b"", **fields: Any) -> bytes:
        common: dict[str, Any] = {
            "volume": bytes.fromhex(self.volume),
            "sender": int(self.me.incarnation, 16),
            "target": int(self.copy.incarnation, 16),
            "epoch": self.epoch,
        }
        return pack(kind, length=len(body), **common | fields) + body

    async def join(self) -> None:
        """On a link that is up, whatever the last attack did to it."""
        handler = self.p1.handler
        await until(lambda: self.p1.network.connected(self.victim.name) and self.link.up)
        self.joins += 1
        self.link.send(self.header(Type.JOIN, id=self.joins))
        await until(lambda: self.joins in handler.ids(Type.JOINED))

    def copy_of(self, ranges: list[tuple[int, int]], sums: bytes, data: bytes, **fields: Any) -> bytes:
        body = pack_ranges(ranges) + sums + data
        return self.header(Type.COPY, body, **{"id": first_seq(self.epoch), "x": 7, "y": len(ranges)} | fields)

    def packed(self, data: bytes, form: bytes, block: int = 3, **fields: Any) -> bytes:
        count = len(data) // BLOCK_BYTES
        more = {"flags": COPY_PACKED, "z": len(data)} | fields
        return self.copy_of([(block, count)], block_sums(data), form, **more)

    def content(self) -> bytes:
        return self.victim.content(self.volume, 0, 16)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reign(cluster: Wired) -> Reign:
    volume, victim = secrets.token_hex(16), cluster.nodes["n1"]
    p1, p2 = await cluster.play("p1"), await cluster.play("p2")
    copy = await victim.create(volume)
    me, other = (Voter(name, secrets.token_hex(8), "data") for name in ("p1", "p2"))
    voters = (copy, me, other)
    record = Record(volume, "vol", SIZE, 2, voters, voters)
    victim.found(record)
    for played in (p1, p2):
        played.network.dial(victim.name, cluster.addresses[victim.name])
    made = Reign(volume, victim, me, copy, p1, p2)
    await until(lambda: p1.network.connected(victim.name) and p2.network.connected(victim.name))
    stamp = Stamp(0, made.epoch, 2)
    body = ms.encode(ms.Propose(volume, me, copy, made.epoch, Slot(stamp, replace(record, primary=me))))
    made.link.send(pack(Type.BRAIN, volume=bytes.fromhex(volume), length=len(body)), body)
    await until(lambda: victim.of(volume).brain.epoch == made.epoch)
    return made


def attacks(reign: Reign) -> dict[str, bytes]:
    """Frames of the copy's own primary that can't be; each on a link of its own."""
    sums, noise = block_sums(TEXT), os.urandom(BLOCK_BYTES)
    good = pack_data([TEXT])
    many = TEXT * (PACKED_BLOCKS_MAX + 1)
    huge = struct.pack("<IBQ", 0xFD2FB528, 0b1110_0000, 1 << 40) + good[6:]
    return {
        "a checksum of something else": reign.copy_of([(3, 1)], block_sums(noise), TEXT),
        "a range beyond the volume": reign.copy_of([(BLOCKS, 1)], sums, TEXT),
        "a range that begins inside": reign.copy_of([(BLOCKS - 1, 2)], sums * 2, TEXT * 2),
        "zeros beyond the volume": reign.copy_of([(BLOCKS - 1, 9)], bytes(72), b""),
        "a range of nothing": reign.copy_of([(3, 0)], b"", b""),
        "less data than sums": reign.copy_of([(3, 2)], sums * 2, TEXT),
        "more data than sums": reign.copy_of([(3, 1)], sums, TEXT * 2),
        "data for zeros": reign.copy_of([(3, 1)], bytes(8), ZEROS),
        "more ranges than there are": reign.copy_of([(3, 1)], sums, TEXT, y=1 << 60),
        "too many blocks": reign.copy_of([(0, 8193)], bytes(8 * 8193), b""),
        "a list without end": reign.header(Type.DIGEST, pack_ranges([(0, 8193)]), id=1, x=0),
        "a tree of nothing": reign.header(Type.DIGEST, pack_ranges([(1 << 20, 1)]), id=1, x=1),
        "a tree without end": reign.header(Type.DIGEST, pack_ranges([(0, 1)]), id=1, x=1 << 60),
        "packed and it is another's": reign.packed(TEXT, pack_data([noise])),
        "packed beyond the volume": reign.packed(TEXT, good, block=BLOCKS),
        "packed and it is cut": reign.packed(TEXT, good[:-3]),
        "packed and there is more": reign.packed(TEXT, good + good),
        "packed and it is nothing": reign.packed(TEXT, b""),
        "packed and it is not": reign.packed(TEXT, TEXT),
        "packed zeros": reign.copy_of([(3, 1)], bytes(8), pack_data([ZEROS]), flags=COPY_PACKED, z=BLOCK_BYTES),
        "packed to another size": reign.packed(TEXT, pack_data([TEXT, TEXT])),
        "declared as another size": reign.packed(TEXT, good, z=2 * BLOCK_BYTES),
        "declared as no size": reign.packed(TEXT, good, z=0),
        "declared without end": reign.packed(TEXT, good, z=(1 << 64) - 1),
        "packed to a terabyte": reign.packed(TEXT, huge),
        "packed and too much": reign.packed(many, pack_data([many])),
        "not said to be packed": reign.packed(TEXT, good, flags=0),
    }


async def test_what_can_not_be_costs_the_primary_its_link_and_the_copy_nothing(reign: Reign) -> None:
    before, handler = reign.content(), reign.p1.handler
    for what, frame in attacks(reign).items():
        await reign.join()
        ended = handler.events.count("down to n1")
        reign.link.send(frame)
        await until(lambda ended=ended: handler.events.count("down to n1") > ended)
        assert reign.content() == before, what
    assert reign.p2.network.connected("n1")
    assert "down to n1" not in reign.p2.handler.events, "nobody else's link ended"
    assert not reign.victim.shell.hosted[reign.volume].failure
    assert handler.ids(Type.COPIED) == []
    assert reign.victim.shell.payloads == {}, "what was refused is not kept"


async def test_what_does_not_count_any_more_is_dropped(reign: Reign) -> None:
    """Older epochs, other incarnations, another generation, a link that did not join."""
    await reign.join()
    before, good = reign.content(), pack_data([TEXT])
    old: list[dict[str, Any]] = [
        {"epoch": reign.epoch - 1},
        {"epoch": reign.epoch + 1},
        {"epoch": 0},
        {"sender": 7},
        {"target": 7},
        {"generation": 1},
    ]
    for fields in old:
        reign.link.send(reign.packed(TEXT, good, **fields))
        reign.link.send(reign.copy_of([(3, 1)], block_sums(TEXT), TEXT, **fields))
    reign.link.send(reign.header(Type.DIGEST, pack_ranges([(0, 16)]), id=99))
    await until(lambda: 99 in reign.p1.handler.ids(Type.DIGESTS))
    assert reign.content() == before
    assert reign.p1.handler.ids(Type.COPIED) == []
    # The other voter has everything right but the link on which the copy was joined.
    reign.p2.handler.links["to n1"].send(reign.packed(TEXT, good))
    reign.link.send(reign.header(Type.DIGEST, pack_ranges([(0, 16)]), id=100))
    await until(lambda: 100 in reign.p1.handler.ids(Type.DIGESTS))
    assert reign.content() == before
    assert reign.victim.shell.payloads == {}


async def test_after_all_that_a_good_copy_is_stored_packed_and_as_it_is(reign: Reign) -> None:
    await reign.join()
    noise = os.urandom(2 * BLOCK_BYTES)
    mixed = TEXT + noise
    reign.link.send(reign.packed(mixed, pack_data([mixed]), block=3, x=31))
    sums = block_sums(TEXT + ZEROS + noise)
    reign.link.send(reign.copy_of([(8, 1), (9, 3)], sums, pack_data([TEXT + noise]), x=32, flags=1, z=3 * BLOCK_BYTES))
    reign.link.send(reign.copy_of([(13, 2)], block_sums(noise), noise, x=33))
    handler = reign.p1.handler
    await until(lambda: {31, 32, 33} <= {frame.x for frame in handler.whole if frame.type == Type.COPIED})
    found = reign.content()
    assert found[3 * BLOCK_BYTES : 6 * BLOCK_BYTES] == mixed
    assert found[8 * BLOCK_BYTES : 12 * BLOCK_BYTES] == TEXT + ZEROS + noise
    assert found[13 * BLOCK_BYTES : 15 * BLOCK_BYTES] == noise


# ---- a stolen copy -----------------------------------------------------------------------------------------


class Copy(Recorder):
    """A played copy that lacks `ranges`."""

    def __init__(self, ranges: list[tuple[int, int]], flags: int = JOINED_MANY | JOINED_PACKED) -> None:
        super().__init__()
        self.ranges, self.flags = ranges, flags
        self.content: dict[int, bytes] = {}
        self.copies: list[Frame] = []
        self.honest = True
        self.dice = secrets.SystemRandom()
        self.late: list[bytes] = []
        self.asked = 0

    def frames(self, link: Link, frames: list[Frame]) -> None:
        super().frames(link, [frame for frame in frames if frame.type not in (Type.COPY, Type.WRITE)])
        for frame in frames:
            if not link.outgoing:
                self._answer(link, frame)

    def _answer(self, link: Link, frame: Frame) -> None:
        head: dict[str, Any] = {
            "volume": frame.volume,
            "sender": frame.target,
            "target": frame.sender,
            "generation": frame.generation,
            "epoch": frame.epoch,
            "id": frame.id,
        }
        if frame.type == Type.BEAT:
            own = self.links.get(f"to {link.peer}")
            if own is not None:
                own.send(*codec.pack_pair(BeatAnswer(frame.id, frame.x, -1, 0, SECOND, 7)))
        elif frame.type == Type.JOIN:
            body = pack_ranges(self.ranges)
            link.send(pack(Type.JOINED, flags=self.flags, length=len(body), **head), body)
        elif frame.type == Type.DIGEST:
            self._digests(link, frame, head)
        elif frame.type == Type.COPY:
            self.copies.append(frame._replace(payload=memoryview(bytes(frame.payload))))
            self._store(frame)
            link.send(pack(Type.COPIED, **head | {"id": 0, "x": frame.x}))
        elif frame.type == Type.FLUSH:
            link.send(pack(Type.FLUSHED, **head))

    def _digests(self, link: Link, frame: Frame, head: dict[str, Any]) -> None:
        """Wrong ones, for there is nothing here; a liar adds answers that nobody asked for, and is out of order."""
        asked = sum(count for _, count in unpack_ranges(frame.payload))
        body = pack_u64s([self.dice.randrange(1 << 64) for _ in range(asked)])
        answer = pack(Type.DIGESTS, length=len(body), x=frame.x, **head) + body
        if self.honest:
            link.send(answer)
            return
        for wrong in ({"x": frame.x + 1}, {"id": 1 << 50}):
            link.send(pack(Type.DIGESTS, length=len(body), **head | {"x": frame.x} | wrong), body)
        link.send(pack(Type.COPIED, **head | {"id": 0, "x": 1 << 40}))
        self.late.append(answer)
        self.asked += asked
        if len(self.late) == COMPARES_IN_FLIGHT or self.asked == BLOCKS:
            for answer in reversed(self.late):
                link.send(answer + answer)
            self.late.clear()

    def _store(self, frame: Frame) -> None:
        ranges, sums, data = split_copy(frame)
        at = 0
        for number, block in enumerate(block for first, count in ranges for block in range(first, first + count)):
            here = bytes(sums[8 * number : 8 * number + 8]) != bytes(8)
            self.content[block] = bytes(data[at : at + BLOCK_BYTES]) if here else ZEROS
            at += BLOCK_BYTES * here


async def returning(cluster: Wired, played: Copy, content: bytes) -> None:
    """n1 and n2 hold the content of a new volume; a third copy of it is played and comes back."""
    third = f"m{len(cluster.played)}"
    node = await cluster.play(third, played)
    volume = await cluster.volume("n1", "n2", played=(third,))
    for name in ("n1", "n2"):
        cluster.nodes[name].shell.hosted[volume].blocks.write(0, block_sums(content), content)
        node.network.dial(name, cluster.addresses[name])


def in_order(content: dict[int, bytes]) -> bytes:
    return b"".join(content[block] for block in sorted(content))


MIXED = (TEXT * 40 + bytes(4 * BLOCK_BYTES)) * 3


@pytest.mark.parametrize("reads_packed", [True, False])
async def test_only_a_copy_that_says_so_gets_packed_data(cluster: Wired, reads_packed: bool) -> None:
    """An older version would end its link at the first such copy, at each return."""
    flags = JOINED_MANY | (JOINED_PACKED if reads_packed else 0)
    count = len(MIXED) // BLOCK_BYTES
    copy = Copy([(0, count)], flags)
    await returning(cluster, copy, MIXED)
    await until(lambda: len(copy.content) == count)
    assert in_order(copy.content) == MIXED
    packed = [frame for frame in copy.copies if frame.flags & COPY_PACKED]
    assert bool(packed) is reads_packed
    for frame in packed:
        assert len(frame.payload) < frame.z // 4


async def test_what_does_not_get_smaller_is_sent_as_it_is(cluster: Wired) -> None:
    noise = os.urandom(2 * len(MIXED))
    count = len(noise) // BLOCK_BYTES
    copy = Copy([(0, count)])
    await returning(cluster, copy, noise)
    await until(lambda: len(copy.content) == count)
    assert in_order(copy.content) == noise
    assert not [frame for frame in copy.copies if frame.flags]


async def test_a_copy_that_lies_about_its_tree_gets_each_block_once(cluster: Wired) -> None:
    """Wrong hashes of everything, in another order, twice, and answers to what nobody asked."""
    content = TEXT * 300
    copy = Copy([(0, BLOCKS)])
    copy.honest = False
    await returning(cluster, copy, content)
    await until(lambda: sum(frame.type == Type.FLUSH for frame in copy.whole) > 0, within_s=60)
    ranges = [piece for frame in copy.copies for piece in split_copy(frame)[0]]
    sent = [block for first, count in ranges for block in range(first, first + count)]
    assert len(sent) == len(set(sent)) <= BLOCKS
    assert in_order({block: copy.content[block] for block in range(300)}) == content
