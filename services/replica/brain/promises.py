"""Promises between two nodes: one lease for all volumes that the one leads and the other votes in (P1, P2).

    leader X                                         promiser Y
      CLAIMS version 7: {v1 at epoch 3, v2 at 5}  ->   keeps those whose epoch equals the one it stores
      <- CONFIRM version 7, revision 2: {v1, v2}
      BEAT 41, version 7                          ->   for the next `lease` I vote for nobody else there
      <- ANSWER 41, version 7, revision 2              X counts from when it *sent* beat 41, less the drift

When Y raises its epoch of a volume it removes the entry and raises `revision` before its vote leaves. An answer
that quotes another (version, revision) than the latest CONFIRM promises nothing: X votes for Z, a late beat of
Y arrives and X must not answer "promised". An idle volume costs nothing: beats are per pair of nodes.

All of it may come over a link, which keeps the order and ends with the process behind it, or over the bus, which does
neither. So CONFIRM and ANSWER name the promiser's process as well: a revision is compared only with one of the same
process, a CONFIRM that was overtaken is dropped, and an answer that fits no CONFIRM makes X announce its claims again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from services.replica.brain.election import Timing
from services.replica.brain.quorum import majority_until

FOREVER_NS = 1 << 62
Entries = dict[str, tuple[int, int]]
"""volume id -> (generation, epoch)"""

_SENT_MAX = 64
"""Beats whose answers are awaited; older ones are worth nothing any more."""


@dataclass(frozen=True, slots=True)
class Claims:
    nonce: int
    version: int
    entries: Entries


@dataclass(frozen=True, slots=True)
class Confirm:
    nonce: int
    version: int
    revision: int
    entries: Entries
    promiser: int
    """The nonce of the promiser's process."""


class Beat(NamedTuple):
    """A tuple, like its answer: each pair of nodes makes ten of both a second."""

    number: int
    nonce: int
    version: int


class BeatAnswer(NamedTuple):
    """`promised_ns`: how long the promise binds by the promiser's settings, which may differ from the leader's."""

    number: int
    nonce: int
    version: int
    revision: int
    promised_ns: int
    promiser: int


PairMessage = Claims | Confirm | Beat | BeatAnswer


class Bound(NamedTuple):
    """What our promises for one volume bind us to."""

    until_ns: int
    """Until when we may vote for nobody else."""
    besides_ns: int
    """The same without the promise to the leader of the epoch that was asked about."""
    to: str
    """The node of the latest promise; "" for none."""
    claimed_by: str
    """The node that claims to lead, in the highest epoch, whether we promised or not; "" for none."""


@dataclass(slots=True)
class _Claimed:
    """What we lead and this peer votes in."""

    entries: Entries = field(default_factory=dict)
    version: int = 0
    promiser: int = -1
    """The process that confirmed."""
    confirmed: tuple[int, int] = (-1, -1)
    covered: Entries = field(default_factory=dict)
    until_ns: int = 0
    next_beat: int = 1
    sent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """beat number -> (when sent, version quoted)"""


@dataclass(slots=True)
class _Promised:
    """What this peer leads and we vote in."""

    nonce: int = 0
    version: int = -1
    entries: Entries = field(default_factory=dict)
    covered: Entries = field(default_factory=dict)
    revision: int = 0
    until_ns: int = 0
    """It never goes back, whichever process of the peer the claims are of: which of two came first nobody can tell.
    *X was started anew and counted on Y's answer. Then a claim of the process before arrived over the bus, and Y forgot
    what it had promised: X claimed a volume, and Y, which covered that, was bound to nothing.*"""


class Promises:
    """All promises of one node, both ways. Returned messages are to be sent to the named peer in order."""

    def __init__(self, timing: Timing, nonce: int):
        self.timing = timing
        self.nonce = nonce
        self._claimed: dict[str, _Claimed] = {}
        self._promised: dict[str, _Promised] = {}
        self.changes = 0
        """Of what is promised to us: as long as it stays, `lease_until` says the same."""
        self._lingering: dict[str, int] = {}
        """Volume -> end of a promise made to a leader process that has been replaced since."""

    # ---- the leader's side ----------------------------------------------------------------------------

    def claim(self, volume: str, generation: int, epoch: int, peers: tuple[str, ...]) -> list[tuple[str, PairMessage]]:
        """We lead: ask these nodes, those of the other members, to promise, and nobody else any more. Who was asked
        before is not asked again: until its next answer it would promise nothing in any volume."""
        gone = tuple(peer for peer in self._claimed_from(volume) if peer not in peers)
        asked = (generation, epoch)
        new = tuple(peer for peer in peers if self._claimed.setdefault(peer, _Claimed()).entries.get(volume) != asked)
        for peer in new:
            claimed = self._claimed[peer]
            claimed.entries[volume] = asked
            claimed.version += 1
        return [*self._announce(new), *self._withdraw(volume, gone)]

    def unclaim(self, volume: str) -> list[tuple[str, PairMessage]]:
        """We stopped leading: the promises for this volume are released."""
        return self._withdraw(volume, self._claimed_from(volume))

    def _claimed_from(self, volume: str) -> tuple[str, ...]:
        return tuple(sorted(peer for peer, claimed in self._claimed.items() if volume in claimed.entries))

    def _withdraw(self, volume: str, peers: tuple[str, ...]) -> list[tuple[str, PairMessage]]:
        self.changes += 1
        for peer in peers:
            claimed = self._claimed[peer]
            del claimed.entries[volume]
            claimed.covered.pop(volume, None)
            claimed.version += 1
        return self._announce(peers)

    def _announce(self, peers: tuple[str, ...]) -> list[tuple[str, PairMessage]]:
        out: list[tuple[str, PairMessage]] = []
        for peer in peers:
            claimed = self._claimed[peer]
            out.append((peer, Claims(self.nonce, claimed.version, dict(claimed.entries))))
        return out

    def announce(self, peer: str) -> list[tuple[str, PairMessage]]:
        """Again: the peer answers as if it had not heard of them."""
        self._claimed.setdefault(peer, _Claimed())
        return self._announce((peer,))

    def link_up(self, peer: str) -> list[tuple[str, PairMessage]]:
        """The link to the peer is new: it may be a new process that knows nothing, and what we confirmed while
        there was no link to it has not arrived. What the peer promised before goes on to count: a new process of its
        keeps silent for that long (P3)."""
        out = self.announce(peer)
        if peer in self._promised:
            out.append((peer, self._confirm(self._promised[peer])))
        return out

    def on_confirm(self, peer: str, confirm: Confirm) -> tuple[str, ...]:
        """Volumes for which it promises nothing any more. One of an older list counts for what is claimed since as it
        was then: were only the newest to count, no lease would hold while volumes are won one after the other, faster
        than a round trip, and they would all be lost again."""
        claimed = self._claimed.get(peer)
        if claimed is None or confirm.nonce != self.nonce or confirm.version > claimed.version:
            return ()
        self.changes += 1
        if confirm.promiser != claimed.promiser:
            claimed.promiser, claimed.until_ns = confirm.promiser, 0  # a new process knows of no promise
        elif (confirm.version, confirm.revision) < claimed.confirmed:
            return ()  # overtaken: it would cover again what has been withdrawn since
        claimed.confirmed = (confirm.version, confirm.revision)
        before = claimed.covered
        claimed.covered = {
            volume: entry for volume, entry in confirm.entries.items() if claimed.entries.get(volume) == entry
        }
        return tuple(volume for volume in before if volume not in claimed.covered)

    def beat(self, peer: str, now_ns: int) -> Beat:
        claimed = self._claimed.setdefault(peer, _Claimed())
        number = claimed.next_beat
        claimed.next_beat += 1
        claimed.sent[number] = (now_ns, claimed.version)
        if len(claimed.sent) > _SENT_MAX:
            del claimed.sent[next(iter(claimed.sent))]
        return Beat(number, self.nonce, claimed.version)

    def fits(self, peer: str, answer: BeatAnswer) -> bool:
        """It quotes what was confirmed, so the peer knows our claims."""
        claimed = self._claimed.get(peer)
        quoted = (answer.promiser, (answer.version, answer.revision))
        return claimed is not None and quoted == (claimed.promiser, claimed.confirmed)

    def on_answer(self, peer: str, answer: BeatAnswer) -> bool:
        """True when it answers a beat of this process: the peer is alive."""
        claimed = self._claimed.get(peer)
        if claimed is None or answer.nonce != self.nonce:
            return False
        sent = claimed.sent.pop(answer.number, None)
        if sent is None:
            return False
        sent_ns, version = sent
        if self.fits(peer, answer) and version == answer.version:
            self.changes += 1
            claimed.until_ns = max(claimed.until_ns, sent_ns + self.timing.counted_ns(answer.promised_ns))
        return True

    def lease_until(self, volume: str, epoch: int, me: str, voters: tuple[str, ...]) -> int:
        """Until when a majority of the voters' nodes promises to `me` in this epoch; we promise ourselves."""
        ends = []
        for node in voters:
            if node == me:
                ends.append(FOREVER_NS)
                continue
            ends.append(self._claimed[node].until_ns if self._covers(node, volume, epoch) else 0)
        return majority_until(ends, len(voters))

    def unpromised(self, volume: str, epoch: int, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Which of these promise nothing for the volume in this epoch, however many beats they answer."""
        return tuple(node for node in nodes if not self._covers(node, volume, epoch))

    def _covers(self, node: str, volume: str, epoch: int) -> bool:
        claimed = self._claimed.get(node)
        return claimed is not None and claimed.covered.get(volume, (0, -1))[1] == epoch

    # ---- the promiser's side --------------------------------------------------------------------------

    def on_claims(
        self, peer: str, claims: Claims, stores: Callable[[str, int, int], bool]
    ) -> tuple[list[tuple[str, PairMessage]], list[str]]:
        """(messages, volumes that this peer no longer leads). `stores(volume, generation, epoch)` says whether
        exactly that epoch is stored here, durably."""
        promised = self._promised.setdefault(peer, _Promised())
        if promised.nonce == claims.nonce and claims.version < promised.version:
            return [], []
        if promised.nonce != claims.nonce:
            for volume in promised.covered:
                self._lingering[volume] = max(self._lingering.get(volume, 0), promised.until_ns)
        lost = sorted(volume for volume in promised.entries if volume not in claims.entries)
        covered = {volume: entry for volume, entry in sorted(claims.entries.items()) if stores(volume, *entry)}
        said = promised.nonce, promised.version, promised.covered
        if said != (claims.nonce, claims.version, covered):
            # Said again only because an answer got lost, it changes nothing: answers under way go on to count.
            promised.revision += 1
        promised.nonce, promised.version = claims.nonce, claims.version
        promised.entries, promised.covered = dict(claims.entries), covered
        return [(peer, self._confirm(promised))], lost

    def _confirm(self, promised: _Promised) -> Confirm:
        return Confirm(promised.nonce, promised.version, promised.revision, dict(promised.covered), self.nonce)

    def stored(
        self, volume: str, generation: int, epoch: int, leads: Callable[[str], bool]
    ) -> list[tuple[str, PairMessage]]:
        """This epoch is durable here now: a claim that came too early can be confirmed, if its node `leads`."""
        out: list[tuple[str, PairMessage]] = []
        for peer, promised in sorted(self._promised.items()):
            claimed = promised.entries.get(volume) == (generation, epoch) and leads(peer)
            if claimed and volume not in promised.covered:
                promised.covered[volume] = (generation, epoch)
                promised.revision += 1
                out.append((peer, self._confirm(promised)))
        return out

    def raised(self, volume: str, epoch: int) -> list[tuple[str, PairMessage]]:
        """Our epoch of the volume rises: promises of lower epochs are withdrawn before the vote leaves. One that
        is still live (a majority elected somebody else meanwhile) goes on to bind our own vote."""
        out: list[tuple[str, PairMessage]] = []
        for peer, promised in sorted(self._promised.items()):
            if volume in promised.covered and promised.covered[volume][1] < epoch:
                self._lingering[volume] = max(self._lingering.get(volume, 0), promised.until_ns)
                del promised.covered[volume]
                promised.revision += 1
                out.append((peer, self._confirm(promised)))
        return out

    def lift(self, volume: str, peer: str, epoch: int) -> list[tuple[str, PairMessage]]:
        """The leader on that node released what we promised it in this epoch, and nothing else (P5)."""
        promised = self._promised.get(peer)
        if promised is None or promised.covered.get(volume, (0, -1))[1] != epoch:
            return []
        del promised.covered[volume]
        promised.revision += 1
        return [(peer, self._confirm(promised))]

    def on_beat(self, peer: str, beat: Beat, now_ns: int) -> BeatAnswer:
        promised = self._promised.setdefault(peer, _Promised())
        if promised.nonce == beat.nonce and promised.version == beat.version:
            promised.until_ns = now_ns + self.timing.lease_ns
        lease_ns = self.timing.lease_ns
        return BeatAnswer(beat.number, beat.nonce, promised.version, promised.revision, lease_ns, self.nonce)

    def promised_until(self, volume: str) -> int:
        """Until when we may vote for nobody else in this volume."""
        ends = [promised.until_ns for promised in self._promised.values() if volume in promised.covered]
        return max([self._lingering.get(volume, 0), *ends])

    def bound(self, volume: str, epoch: int) -> Bound:
        """`epoch`: the one that is stored here."""
        until_ns = besides_ns = self._lingering.get(volume, 0)
        latest, to = -1, ""
        highest, claimed_by = (-1, -1), ""
        for peer, promised in self._promised.items():
            claimed = promised.entries.get(volume)
            if claimed is None:
                continue
            if claimed > highest:
                highest, claimed_by = claimed, peer
            covered = promised.covered.get(volume)
            if covered is None:
                continue
            end_ns = promised.until_ns
            until_ns = max(until_ns, end_ns)
            if covered[1] != epoch:
                besides_ns = max(besides_ns, end_ns)
            if (end_ns, peer) > (latest, to):
                latest, to = end_ns, peer
        return Bound(until_ns, besides_ns, to, claimed_by)

    def forget(self, volume: str) -> None:
        """The volume is gone from this node."""
        self._lingering.pop(volume, None)
        for promised in self._promised.values():
            promised.entries.pop(volume, None)
            promised.covered.pop(volume, None)
