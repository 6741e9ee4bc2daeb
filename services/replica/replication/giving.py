"""Giving a copy that catches up the snapshots that it lacks (K4): which, when, and what it says to that. What this is
for, and how it goes, is told in `past`.

    brought up to date <── nothing is lacking ──┐
    joined ──> give ── all copied ──> prepare ──> Seal ──> root hash ──> the next one
                 └── it can't, it is silent, we can't read it: passed over, and joined again
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from services.replica.replication.blockmap import BlockMap
from services.replica.replication.effects import Effect, NotGiven, ReportFollows, ReportGiven, Tell
from services.replica.replication.messages import Prepare, Prepared, Rooted, Seal, Sealed
from services.replica.replication.past import RETURNS_MAX, Giving, Moment, Past
from services.replica.replication.peer import Peer
from services.replica.replication.peers import Peers
from services.replica.replication.resync import Resync
from services.replica.replication.sealing import Sealing
from services.replica.replication.window import Window
from services.replica.replication.withheld import Answers, Writes


class Reign(Protocol):
    """The primary, as far as this concerns it."""

    @property
    def peers(self) -> Peers: ...

    @property
    def size_blocks(self) -> int: ...

    @property
    def window(self) -> Window: ...

    @property
    def answers(self) -> Answers: ...

    @property
    def sealing(self) -> Sealing: ...

    def join_again(self, peer: Peer, reason: str) -> list[Effect]:
        """A new beginning: nothing that was said before it is on its way any more, either way."""


class Resyncing(Protocol):
    """How a copy is made equal."""

    def pump(self, peer: Peer) -> list[Effect]:
        """Go on comparing and copying."""

    def bring_up_to_date(self, peer: Peer) -> list[Effect]:
        """To the present."""


class Giver:
    """One reign's."""

    def __init__(self, reign: Reign, resyncing: Resyncing):
        self._reign = reign
        self._peers = reign.peers
        self._resyncing = resyncing
        self._pasts: tuple[Past, ...] = ()
        """What our own copy can give, oldest first."""

    # ---- what a copy lacks ------------------------------------------------------------------------------

    def may_wait(self, peer: Peer) -> bool:
        """Nobody who counts is set back, and no application waits for the past: where writes are not answered until
        there is one copy more, that comes first."""
        counts = self._peers.is_required(peer) or self._copies_wanted
        return peer.takes_past and not peer.takes_none and not counts

    @property
    def _copies_wanted(self) -> bool:
        """Writes are not answered until one copy more is in sync."""
        return self._reign.answers.writes_are is not Writes.OPEN

    def missing(self, peer: Peer) -> list[Past]:
        """The snapshots that it is to be given, oldest first."""
        if not self.may_wait(peer):
            return []
        return [past for past in self._pasts if peer.node in past.nodes and past.moment.seal not in peer.passed]

    def lacks(self, peer: Peer) -> Past | None:
        """The first that it will keep: a layer that its own record does not list goes as soon as it is sealed. *It said
        its root hash, so it was a holder, and dropped the layer.*"""
        return next((past for past in self.missing(peer) if past.moment.seal in peer.told), None)

    def may_lack(self, peer: Peer) -> bool:
        """It has come to the present, and one is being taken without it, or is there and its record has not come to it:
        it comes into the set when it has got that."""
        return (self._reign.sealing.wanted and self.may_wait(peer)) or bool(self.missing(peer))

    # ---- one snapshot for one copy ----------------------------------------------------------------------

    def begin(self, peer: Peer) -> list[Effect]:
        """With the next snapshot that it lacks, or else with the present."""
        past = self.lacks(peer)
        return self.give(peer, past) if past is not None else self._resyncing.bring_up_to_date(peer)

    def give(self, peer: Peer, past: Past) -> list[Effect]:
        """Make it what the volume was, whatever it is now."""
        peer.phase, peer.giving, peer.missed_all = "giving", Giving(past), True
        size, finer = self._reign.size_blocks, peer.takes_levels
        peer.resync = Resync(peer.node, size, BlockMap(), everything=True, of=past.moment, finer=finer)
        self._peers.refresh()
        return [*self._resyncing.pump(peer), ReportFollows(peer.node)]

    def prepare(self, peer: Peer, giving: Giving, now_ns: int) -> list[Effect]:
        """It has every block of that moment."""
        giving.asked_ns = now_ns
        return [Tell((peer.node,), Prepare(peer.join_number))]

    def given(self, peer: Peer, giving: Giving, message: Prepared | Sealed | Rooted, now_ns: int) -> list[Effect]:
        """It seals what it has got, and its root hash says whether that is all."""
        past = giving.past
        if giving.asked_ns is None:
            return []
        giving.asked_ns = now_ns
        match message:
            case Prepared(number, ready) if number == peer.join_number:
                if not ready:
                    return self._pass_over(peer, giving, "it can't make another layer")
                seal = Seal(past.moment.seal, self._reign.window.commit, past.size_blocks, past.moment.snapshot)
                return [Tell((peer.node,), seal)]
            case Rooted(seq, root) if seq == past.moment.seal:
                peer.passed.add(seq)
                peer.giving = None
                if root == past.root:
                    return [ReportGiven(peer.node, past.moment), *self.begin(peer)]
                return [NotGiven(peer.node, past.moment.snapshot, "its root hash is another"), *self.begin(peer)]
        return []

    # ---- set back, passed over --------------------------------------------------------------------------

    def go_back(self, peer: Peer) -> list[Effect]:
        """It has come to the present, or is about to, and is given a snapshot first."""
        peer.returns += 1
        return self._reign.join_again(peer, "it is given a snapshot first")

    def _pass_over(self, peer: Peer, giving: Giving, reason: str) -> list[Effect]:
        """It goes on without that snapshot."""
        moment = giving.past.moment
        peer.passed.add(moment.seal)
        return [NotGiven(peer.node, moment.snapshot, reason), *self._reign.join_again(peer, reason)]

    def unreadable(self, node: str, moment: Moment) -> list[Effect]:
        """Our own copy can't give it."""
        peer = self._peers.get(node)
        if peer is None or peer.giving is None or peer.giving.past.moment != moment:
            return []
        return self._pass_over(peer, peer.giving, "the snapshot can't be read here")

    def failed(self, peer: Peer, reason: str) -> list[Effect]:
        """Its store has, perhaps while it was given one."""
        if peer.giving is None:
            return []
        peer.takes_none = True
        return [NotGiven(peer.node, peer.giving.past.moment.snapshot, reason)]

    # ---- what changes meanwhile -------------------------------------------------------------------------

    def keep(self, pasts: Iterable[Past]) -> list[Effect]:
        """By the committed record these are ready, and held here."""
        self._pasts = tuple(pasts)
        listed, out = {past.moment for past in self._pasts}, list[Effect]()
        for peer in list(self._peers.values()):
            if peer.giving is not None and peer.giving.past.moment not in listed:
                out += self._reign.join_again(peer, "the snapshot was dropped")
            elif _is_parked(peer):
                out += self._resyncing.pump(peer)
        return out

    def told(self, nodes: Iterable[str]) -> list[Effect]:
        """These members have stored a record with the snapshots that we know. Who has got nothing of the present yet
        goes back at once, the others when they have come to it."""
        known, out = {past.moment.seal for past in self._pasts}, list[Effect]()
        for peer in [peer for node in nodes if (peer := self._peers.get(node)) is not None]:
            peer.told |= known
            begins = peer.phase == "syncing" and peer.resync is not None and not peer.resync.has_begun
            if _is_parked(peer):
                out += self._resyncing.pump(peer)
            elif begins and self.lacks(peer) is not None and peer.returns < RETURNS_MAX:
                out += self.go_back(peer)
        return out

    def hurry(self) -> list[Effect]:
        """Whoever waits, or is set back, is needed now."""
        out: list[Effect] = []
        for peer in list(self._peers.values()) if self._copies_wanted else ():
            if peer.giving is not None:
                out += self._reign.join_again(peer, "writes wait for it")
            elif _is_parked(peer):
                out += self._resyncing.pump(peer)
        return out

    def time_passed(self, peer: Peer, giving: Giving, now_ns: int) -> list[Effect]:
        if giving.deadline_ns is None or now_ns < giving.deadline_ns:
            return []
        return self._pass_over(peer, giving, "it makes no layer of the snapshot")


def _is_parked(peer: Peer) -> bool:
    """It has come to the present, and may lack a snapshot."""
    return peer.phase == "syncing" and peer.resync is not None and peer.resync.done()
