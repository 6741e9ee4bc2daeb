"""A primary's own rotten blocks: fetched from a peer, healed, and only then read again.

    a read, or a copy for a peer, meets blocks that do not match their checksum
        --Fetch--> a peer --Fetched--> Heal --> healed: go on     some left: ask the next peer     nobody left: EIO

Whom to ask is said by the primary, the best first: a member that is in sync and has no write of these blocks under way
gives their committed content (`settled`); any other that follows may still hold exactly what the checksum says, and
then it does not matter how it came by it (`store/cure.py`). What waits is asked for again when a peer is silent, lost,
or could not tell because of a write that was under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from errno import EIO

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import Answer, AnswerRead, Damage, Effect, Heal, Release, SendCopy, Tell
from services.replica.replication.messages import Done, Fetch, Fetched
from stoscore.units import MS

FETCH_BLOCKS = 256
"""Blocks of one fetch, 1 MiB: both ends handle it in one turn of the loop."""
HEALS_MAX = 64
"""How often one read is healed for: a read of 32 MiB, every block of it rotten, twice."""
WOUNDS_MAX = 1024
PATIENCE_NS = 2000 * MS
LOST_PAUSE_NS = 1000 * MS
"""So long nobody is asked again for a block that nobody had, unless another copy begins to follow. *Rotten on all
copies: each that was asked found its own rot and asked the primary for the block, which asked them, for ever.*"""
UNSETTLED_MAX = 8
"""How often one peer is asked again because of writes under way: a hot block may never be seen settled."""

Waits = AnswerRead | SendCopy


@dataclass(frozen=True, slots=True)
class Source:
    node: str
    settled: bool


@dataclass(slots=True)
class Wound:
    """Some blocks that do not match, and who waits for them."""

    number: int
    blocks: BlockMap
    waits: list[Waits] = field(default_factory=list)
    source: Source = Source("", False)
    asked_ns: int = 0
    tried: set[str] = field(default_factory=set)
    unsettled: int = 0

    def ranges(self) -> tuple[Range, ...]:
        return tuple(self.blocks.ranges())


Sources = Callable[[Sequence[Range]], list[Source]]


class Healing:
    """Every wound of one primary."""

    def __init__(self, me: str, sources: Sources):
        self._me = me
        self._sources = sources
        self._wounds: dict[int, Wound] = {}
        self._lost: dict[int, int] = {}
        """Block that nobody had -> when it is asked for again."""
        self._number = 0
        self.under_way = False
        self.failed: list[SendCopy] = []
        """Copies that can't be sent, because nobody has the content; the primary takes them away."""

    # ---- what is found --------------------------------------------------------------------------------

    def found(self, blocks: Iterable[int], waits: Waits | None, now_ns: int) -> list[Effect]:
        """`waits`: what to do again when they are healed; None: a scrub saw them."""
        rotten = BlockMap()
        for block in sorted(blocks)[:FETCH_BLOCKS]:
            rotten.add(block, 1)
        if self._is_lost(rotten, now_ns):
            return self._give_up([waits] if waits is not None else [])
        known = next((wound for wound in self._wounds.values() if _holds(wound.blocks, rotten)), None)
        if known is not None:
            known.waits += [waits] if waits is not None else []
            return []
        if len(self._wounds) >= WOUNDS_MAX or (isinstance(waits, AnswerRead) and waits.heals >= HEALS_MAX):
            return self._give_up([waits] if waits is not None else [])
        self._number += 1
        wound = self._wounds[self._number] = Wound(self._number, rotten, [waits] if waits is not None else [])
        self.under_way = True
        return self._ask(wound, now_ns)

    def written(self, block: int, count: int) -> list[Effect]:
        """A write of these blocks was ordered: that heals them, and who waits reads what was written. What a peer has
        been asked for may be older or newer than what we hold. *A read waited for a peer that never answered; the block
        was written and read many times meanwhile, and the read failed.*"""
        out: list[Effect] = []
        for wound in list(self._wounds.values()):
            if any(at < block + count and block < at + length for at, length in wound.blocks.ranges()):
                wound.source = Source(wound.source.node, False)
                wound.blocks.discard(block, count)
                out += self._let_go(wound)
                if not wound.blocks:
                    del self._wounds[wound.number]
        self.under_way = bool(self._wounds)
        return out

    def another_follows(self) -> None:
        """It may have what nobody else had."""
        self._lost.clear()

    def _is_lost(self, blocks: BlockMap, now_ns: int) -> bool:
        return bool(self._lost) and any(
            self._lost.get(at, 0) > now_ns for block, count in blocks.ranges() for at in range(block, block + count)
        )

    # ---- asking ---------------------------------------------------------------------------------------

    def _ask(self, wound: Wound, now_ns: int) -> list[Effect]:
        ranges = wound.ranges()
        source = next((source for source in self._sources(ranges) if source.node not in wound.tried), None)
        if source is None:
            del self._wounds[wound.number]
            self.under_way = bool(self._wounds)
            self._lost = {block: again_ns for block, again_ns in self._lost.items() if again_ns > now_ns}
            self._lost |= {at: now_ns + LOST_PAUSE_NS for block, n in ranges for at in range(block, block + n)}
            return [Damage(self._me, "rotten", ranges, ""), *self._give_up(wound.waits)]
        wound.source, wound.asked_ns = source, now_ns
        return [Tell((source.node,), Fetch(wound.number, ranges))]

    def _ask_next(self, wound: Wound, now_ns: int) -> list[Effect]:
        wound.tried.add(wound.source.node)
        wound.unsettled = 0
        return self._ask(wound, now_ns)

    def fetched(self, node: str, message: Fetched, now_ns: int) -> list[Effect]:
        wound = self._wounds.get(message.number)
        if wound is None or wound.source.node != node:
            return [Release(message.token)]
        if not message.ranges:
            return [Release(message.token), *self._ask_next(wound, now_ns)]
        return [Heal(wound.number, message.ranges, message.token, wound.source.settled)]

    def healed(self, number: int, blocks: Iterable[int], now_ns: int) -> list[Effect]:
        """These match now."""
        wound = self._wounds.get(number)
        if wound is None:
            return []
        done = BlockMap((block, 1) for block in blocks if block in wound.blocks)
        for block, count in done.ranges():
            wound.blocks.discard(block, count)
        out: list[Effect] = []
        if done:
            out.append(Damage(self._me, "rotten", tuple(done.ranges()), wound.source.node))
        out += self._let_go(wound)
        if not wound.blocks:
            del self._wounds[number]
            self.under_way = bool(self._wounds)
            return out
        if not wound.source.settled and wound.unsettled < UNSETTLED_MAX:
            wound.unsettled += 1
            return out + self._ask(wound, now_ns)
        return out + self._ask_next(wound, now_ns)

    @staticmethod
    def _let_go(wound: Wound) -> list[Effect]:
        """What waits for none of the blocks that are left goes on. *A scrub found two rotten blocks, and a read of one
        of them waited with it. That one was healed, the other was rotten on all copies, and both reads failed.*"""
        waits, wound.waits = wound.waits, []
        out: list[Effect] = []
        for wait in waits:
            if any(at in wound.blocks for block, count in _wanted(wait) for at in range(block, block + count)):
                wound.waits.append(wait)
            else:
                out.append(_again(wait))
        return out

    def _give_up(self, waits: Iterable[Waits]) -> list[Effect]:
        """Never the wrong content: the read fails, and what a peer lacks stays lacking."""
        out: list[Effect] = []
        for wait in waits:
            if isinstance(wait, AnswerRead):
                out.append(Answer(wait.link, Done(wait.session, wait.request, EIO)))
            else:
                self.failed.append(wait)
        return out

    # ---- who can't be asked any more ------------------------------------------------------------------

    def lost(self, node: str, now_ns: int) -> list[Effect]:
        """It does not follow any more."""
        asked = [wound for wound in self._wounds.values() if wound.source.node == node]
        return [effect for wound in asked for effect in self._ask_next(wound, now_ns)]

    def next_deadline_ns(self) -> int | None:
        return min((wound.asked_ns + PATIENCE_NS for wound in self._wounds.values()), default=None)

    def time_passed(self, now_ns: int) -> list[Effect]:
        late = [wound for wound in self._wounds.values() if now_ns >= wound.asked_ns + PATIENCE_NS]
        return [effect for wound in late for effect in self._ask_next(wound, now_ns)]

    def excuse(self, now_ns: int) -> None:
        for wound in self._wounds.values():
            wound.asked_ns = now_ns

    def stop(self) -> None:
        """Another epoch: a frontend sends its reads again, and who lacks a copy is compared again."""
        self._wounds.clear()
        self.under_way = False


def _holds(blocks: BlockMap, others: BlockMap) -> bool:
    return all(at in blocks for block, count in others.ranges() for at in range(block, block + count))


def _wanted(waits: Waits) -> Sequence[Range]:
    return ((waits.block, waits.count),) if isinstance(waits, AnswerRead) else waits.ranges


def _again(waits: Waits) -> Effect:
    return waits._replace(heals=waits.heals + 1) if isinstance(waits, AnswerRead) else waits
