"""Blocks that are not what they should be, on copies that are in sync all the same (K3): here, or on a member.

ours does not match its checksum      fetched from whoever has it (`healing`); what waits for it goes on then
a member can't read one of its own    sent again
a member's differs, the scrub sees    sent again (`scrub`)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.catch_up import CatchUp
from services.replica.replication.effects import AnswerRead, Damage, Effect, SendCopy
from services.replica.replication.gate import Gate, ranges_of
from services.replica.replication.healing import Healing, Source
from services.replica.replication.messages import Copy, Fetched
from services.replica.replication.peer import Peer
from services.replica.replication.peers import Peers
from services.replica.replication.scrub import FIRST_NUMBER, Scrub
from services.replica.replication.tree import nodes_over
from services.replica.replication.window import Window
from stoscore.units import REGION_BLOCKS


class Reign(Protocol):
    """The primary, as far as this concerns it."""

    @property
    def me(self) -> str: ...

    @property
    def peers(self) -> Peers: ...

    @property
    def serving(self) -> bool: ...

    @property
    def size_blocks(self) -> int: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def window(self) -> Window: ...

    @property
    def catch_up(self) -> CatchUp: ...

    def drop(self, peer: Peer, reason: str, now_ns: int) -> list[Effect]:
        """Its link lives and it can't be in sync: it may join again after a while."""


class Mending:
    """One reign's."""

    def __init__(self, reign: Reign):
        self._reign = reign
        self.healing = Healing(reign.me, self._sources)

    # ---- our own ----------------------------------------------------------------------------------------

    def rotten(self, blocks: Iterable[int], waits: AnswerRead | SendCopy | None, now_ns: int) -> list[Effect]:
        """They do not match their checksum, and this waits for them."""
        return self._after_healing(self.healing.found(blocks, waits, now_ns), now_ns)

    def fetched(self, node: str, message: Fetched, now_ns: int) -> list[Effect]:
        return self._after_healing(self.healing.fetched(node, message, now_ns), now_ns)

    def healed(self, number: int, blocks: Iterable[int], now_ns: int) -> list[Effect]:
        return self._after_healing(self.healing.healed(number, blocks, now_ns), now_ns)

    def written(self, ranges: Iterable[Range], now_ns: int) -> list[Effect]:
        """A write was ordered."""
        again = [effect for block, count in ranges for effect in self.healing.written(block, count)]
        return self._after_healing(again, now_ns)

    def lost(self, node: str, now_ns: int) -> list[Effect]:
        return self._after_healing(self.healing.lost(node, now_ns), now_ns)

    def time_passed(self, now_ns: int) -> list[Effect]:
        return self._after_healing(self.healing.time_passed(now_ns), now_ns)

    def _sources(self, ranges: Sequence[Range]) -> list[Source]:
        """Who may hold these blocks of ours, the best first."""
        following = [peer for peer in self._reign.peers.values() if peer.receives()]
        found = [Source(peer.node, self.is_settled(peer, ranges)) for peer in following]
        return sorted(found, key=lambda source: not source.settled)

    def is_settled(self, peer: Peer, ranges: Sequence[Range]) -> bool:
        """It holds what is committed of these blocks, and nothing else: it is in sync, and no write of them is on its
        way to it or to our own store."""
        if not self._is_in_sync(peer):
            return False
        under_way = BlockMap(self._under_way(peer))
        return not any(at in under_way for block, count in ranges for at in range(block, block + count))

    def _is_in_sync(self, peer: Peer) -> bool:
        return self._reign.serving and peer.phase == "live" and self._reign.peers.is_required(peer)

    def _under_way(self, peer: Peer) -> list[Range]:
        waiting = self._reign.gate.waiting_ops()
        ours = [ranges_of(op.message) for op in waiting if not isinstance(op.message, Copy)]
        return [where for ranges in (*peer.unacked.values(), *ours) for where in ranges]

    def _after_healing(self, effects: list[Effect], now_ns: int) -> list[Effect]:
        """A copy that waited is sent as of now, if it is still wanted; one that nobody can give is given up."""
        out: list[Effect] = []
        for effect in effects:
            if not isinstance(effect, SendCopy):
                out.append(effect)
            elif self._is_wanted(effect):
                out.append(replace(effect, as_of=self._reign.window.as_of(effect.ranges)))
        failed, self.healing.failed = self.healing.failed, []
        for copy in failed:
            if self._is_wanted(copy):
                out += self._no_copy(self._reign.peers[copy.peer], copy.number, now_ns)
        return out

    def _is_wanted(self, copy: SendCopy) -> bool:
        peer = self._reign.peers.get(copy.peer)
        resync = peer.comparing(copy.number) if peer is not None else None
        return resync is not None and resync.copying(copy.number) == copy.ranges

    def _no_copy(self, peer: Peer, number: int, now_ns: int) -> list[Effect]:
        """Blocks that it lacks are rotten here, and nobody has them. One that is in sync keeps what it has; one that
        catches up begins again later."""
        if peer.scrub is not None and number >= FIRST_NUMBER:
            return [Damage(peer.node, "rotten", peer.scrub.gave_up(number), ""), *self.pump(peer)]
        return self._reign.drop(peer, "blocks that it lacks are rotten here", now_ns)

    # ---- a member's -------------------------------------------------------------------------------------

    def rotten_there(self, peer: Peer, ranges: tuple[Range, ...]) -> list[Effect]:
        """It can't read them; its checksums say nothing about that."""
        if peer.resync is not None:
            peer.resync.force(ranges)
            return self._reign.catch_up.pump(peer)
        if not self._reign.serving or not peer.receives():
            return []
        self._scrub_of(peer).copy(ranges)
        return self.pump(peer)

    def compare(self, region: int, count: int) -> list[Effect]:
        """Are these regions the same on every member that is in sync?"""
        out: list[Effect] = []
        end = min((region + count) * REGION_BLOCKS, self._reign.size_blocks)
        for peer in self._reign.peers.values():
            if not self._is_in_sync(peer):
                continue
            scrub = self._scrub_of(peer)
            nodes = nodes_over(scrub.level, region * REGION_BLOCKS, end)
            scrub.compare(scrub.level, nodes, self._under_way(peer))
            out += self.pump(peer)
        return out

    def _scrub_of(self, peer: Peer) -> Scrub:
        if peer.scrub is None:
            peer.scrub = Scrub(peer.node, self._reign.size_blocks)
        peer.scrub.grew(self._reign.size_blocks)
        return peer.scrub

    def pump(self, peer: Peer) -> list[Effect]:
        """Go on with what is compared with it, or sent again."""
        scrub = peer.scrub
        assert scrub is not None
        out = scrub.pump(self._reign.window.as_of)
        if scrub.done():
            peer.scrub = None
        return out

    def copied_again(self, peer: Peer, number: int) -> list[Effect]:
        if peer.scrub is None:
            return []
        rotten, differing = peer.scrub.copied_blocks(number)
        out: list[Effect] = []
        if rotten:
            out.append(Damage(peer.node, "rotten", rotten, self._reign.me))
        if differing:
            out.append(Damage(peer.node, "differing", differing, self._reign.me))
        return out + self.pump(peer)
