"""The window: writes that are not yet at or below the commit point, oldest first.

    request --> seq --> every peer that receives, and our own store behind its gate, at the same time
        --acked by all of the required set--> settled: answered, or the answer withheld
        --nothing older left--> the commit point moves over it

Everything at or below `commit` is on every copy in sync, so what may differ between two of them lies above it (T2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import (
    Answer,
    CommitTail,
    Effect,
    MarkRegions,
    StoreWrite,
    StoreWriteMany,
    StoreZero,
    Tell,
)
from services.replica.replication.flushes import Flushes
from services.replica.replication.gate import Gate, Op, op_of
from services.replica.replication.healing import Healing
from services.replica.replication.messages import (
    SEQ_BITS,
    Copy,
    Done,
    DoneMany,
    Flush,
    Io,
    Request,
    RequestMany,
    Write,
    WriteMany,
    Zero,
    first_seq,
)
from services.replica.replication.peer import Peer
from services.replica.replication.peers import SELF_BIT, Peers
from services.replica.replication.sealing import Sealing
from services.replica.replication.sessions import Sessions
from services.replica.replication.withheld import Answers, Withheld, Writes

_WRITE, _OPEN = Io.WRITE, Writes.OPEN


class Reign(Protocol):
    """The primary, as far as this concerns it."""

    @property
    def now_ns(self) -> int: ...

    @property
    def peers(self) -> Peers: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def flushes(self) -> Flushes: ...

    @property
    def answers(self) -> Answers: ...

    @property
    def healing(self) -> Healing: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def sealing(self) -> Sealing: ...

    @property
    def moving(self) -> bool:
        """The volume is about to be led elsewhere."""

    def rewritten(self, ranges: Iterable[Range], now_ns: int) -> list[Effect]:
        """A write of these was ordered, and some may have been rotten."""

    def drained(self) -> list[Effect]:
        """Nothing is under way any more, and a session, a seal or a move has waited for that."""


@dataclass(slots=True)
class Entry:
    """A write that is not yet at or below the commit point, and the requests that it answers."""

    seq: int
    link: int
    session: int
    requests: tuple[int, ...]
    fua: bool
    since_ns: int
    ranges: tuple[Range, ...]
    acked: int = 0
    settled: bool = False
    """Everybody required has it: answered, or its answer is withheld."""


class Window:
    """One reign's."""

    def __init__(self, reign: Reign, epoch: int, commit: int):
        self._reign = reign
        self._peers = reign.peers
        self._gate = reign.gate
        self._flushes = reign.flushes
        self._answers = reign.answers
        self._healing = reign.healing
        self._epoch = epoch
        self.entries: dict[int, Entry] = {}
        """By sequence number."""
        self._beside = 0
        """Requests of the entries beyond the first of each."""
        self._next_seq = first_seq(epoch) + 1
        self.commit = commit

    # ---- numbers ------------------------------------------------------------------------------------

    def take_seq(self) -> int:
        seq = self._next_seq
        assert seq >> SEQ_BITS == self._epoch, "an epoch has room for 2**40 writes"
        self._next_seq = seq + 1
        return seq

    @property
    def last_seq(self) -> int:
        """The newest that was taken."""
        return self._next_seq - 1

    def as_of(self, ranges: Iterable[Range]) -> int:
        """Every write of these at or below is in our own store, and none above: a copy of them is noted under this
        number, and has to be named in a tail for as long as the newest write that it holds (T2). *Write 1 waited for
        its mark, write 2, elsewhere, did not. B joined, was copied what 2 had written, as of 0, and was in sync;
        0 was committed, so B forgot the copy. We died, B led: C lacked 2, in a block that no tail named.*"""
        waiting = self._gate.first_waiting_seq(ranges)
        return self._next_seq - 1 if waiting is None else waiting - 1

    def cleaning_flush(self, ticket: int) -> Flush:
        """The sync that ends a catching up, or an unclean take-over."""
        return Flush(ticket, self.commit, cleans=True, settled=self._next_seq - 1)

    # ---- on its way ---------------------------------------------------------------------------------

    def write(self, link: int, request: Request, now_ns: int) -> list[Effect]:
        seq, block, count = self.take_seq(), request.block, request.count
        ranges = ((block, count),)
        self.entries[seq] = Entry(seq, link, request.session, (request.request,), request.fua, now_ns, ranges)
        message: Write | Zero
        if request.io is _WRITE:
            message = Write(seq, self.commit, block, count, request.token)
        else:
            message = Zero(seq, self.commit, block, count)
        return self._put(message, ranges, now_ns)

    def write_many(self, link: int, many: RequestMany, now_ns: int) -> list[Effect]:
        """All under one number."""
        session, _, asks, token = many
        self._beside += len(asks) - 1
        requests, blocks, counts = zip(*asks, strict=True)
        ranges = tuple(zip(blocks, counts, strict=True))
        seq = self.take_seq()
        self.entries[seq] = Entry(seq, link, session, requests, False, now_ns, ranges)
        return self._put(WriteMany(seq, self.commit, ranges, token), ranges, now_ns)

    def _put(self, message: Write | WriteMany | Zero, ranges: tuple[Range, ...], now_ns: int) -> list[Effect]:
        """To everybody that receives writes, and into our own store as soon as its regions are marked."""
        seq, commit, peers = message.seq, message.commit, self._peers
        out: list[Effect] = []
        for peer in peers.away:
            for block, count in ranges:
                peer.missed.add(block, count)
        if peers.receivers:
            for peer in peers.receiving:
                if not peer.unacked and not peer.owes():
                    # Patience begins when it is asked for something, not when it was last heard.
                    peer.heard_ns = max(peer.heard_ns, now_ns)
                peer.unacked[seq] = ranges
                peer.commit_sent = commit
                if peer.scrub is not None:
                    for block, count in ranges:
                        peer.scrub.written(block, count)
            out.append(Tell(peers.receivers, message))
        op = op_of(message)
        passes, missing = self._gate.submit(op, now_ns)
        if passes:
            out += self.store(op)
        elif missing:
            out.append(MarkRegions(missing))
        if self._healing.under_way:
            out += self._reign.rewritten(ranges, now_ns)
        return out

    def store(self, op: Op) -> list[Effect]:
        """It has passed the gate."""
        message = op.message
        assert not isinstance(message, Copy), "a primary stores no copies"
        out: list[Effect] = []
        if isinstance(message, Write):
            out.append(StoreWrite(message.seq, message.block, message.count, message.token))
        elif isinstance(message, WriteMany):
            out.append(StoreWriteMany(message.seq, message.ranges, message.token))
        else:
            out.append(StoreZero(message.seq, message.block, message.count))
        entry = self.entries[op.seq]
        entry.acked |= SELF_BIT
        mask = self._peers.mask
        if entry.acked & mask != mask:
            return out
        return out + self._check(entry) + self.advance()

    # ---- confirmed ----------------------------------------------------------------------------------

    def acked(self, peer: Peer, seqs: tuple[int, ...]) -> list[Effect]:
        """It has stored them. The commit point does not move yet (`advance`)."""
        out: list[Effect] = []
        entries, unacked, bit = self.entries, peer.unacked, peer.bit
        mask, clean = self._peers.mask, not peer.unclean
        for seq in seqs:
            if unacked.pop(seq, None) is None:
                continue
            entry = entries.get(seq)
            if entry is not None and clean:
                entry.acked |= bit
                if entry.acked & mask == mask and not entry.settled:
                    out += self._check(entry)
        return out

    def caught_up(self, peer: Peer) -> list[Effect]:
        """It holds everything: what it was not sent, it was copied."""
        out: list[Effect] = []
        for entry in list(self.entries.values()):
            if entry.seq not in peer.unacked:
                entry.acked |= peer.bit
                out += self._check(entry)
        return out

    def recheck(self) -> list[Effect]:
        """Who is needed has changed."""
        return [effect for entry in list(self.entries.values()) for effect in self._check(entry)]

    def _check(self, entry: Entry) -> list[Effect]:
        mask = self._peers.mask
        if entry.settled or entry.acked & mask != mask:
            return []
        entry.settled = True
        answers, link, session, requests = self._answers, entry.link, entry.session, entry.requests
        if answers.writes_are is not _OPEN:
            held = [Withheld(link, session, request, entry.fua) for request in requests]
            return [effect for answer in held for effect in answers.give(answer)]
        if len(requests) > 1:
            return [Answer(link, DoneMany(session, requests))]
        if entry.fua:
            return self._flushes.begin(link, session, requests[0], self.commit, self._reign.now_ns)
        return [Answer(link, Done(session, requests[0], 0))]

    def let_go(self) -> list[Effect]:
        """Enough copies are in sync, or the policy is another: who came in since holds what was withheld, synced."""
        answers, out = self._answers, list[Effect]()
        for answer in answers.take():
            if answer.fua and answers.writes_are is _OPEN:
                link, session, request, _ = answer
                out += self._flushes.begin(link, session, request, self.commit, self._reign.now_ns)
            else:
                out += answers.give(answer)
        return out

    def advance(self) -> list[Effect]:
        """Move the commit point over what is confirmed, oldest first."""
        entries = self.entries
        commit = 0
        while entries:
            entry = entries[next(iter(entries))]
            if not entry.settled:
                break
            commit = entry.seq
            self._beside -= len(entry.requests) - 1
            del entries[commit]
        if not commit:
            return []
        self.commit = commit
        out: list[Effect] = [CommitTail(commit)]
        reign = self._reign
        if not entries and (reign.sessions.opening is not None or reign.sealing.holds or reign.moving):
            out += reign.drained()
        return out

    # ---- what is under way --------------------------------------------------------------------------

    @property
    def unanswered(self) -> int:
        """Requests."""
        return len(self.entries) + self._beside

    def ranges_of(self, seqs: set[int]) -> list[Range]:
        """Where those of these that are still under way write."""
        found = BlockMap()
        for seq in seqs & self.entries.keys():
            found.update(BlockMap(self.entries[seq].ranges))
        return list(found.ranges())

    def owed_since_ns(self, bit: int) -> int | None:
        """Since when the oldest waits for this member."""
        owed = next((entry for entry in self.entries.values() if not entry.acked & bit), None)
        return owed.since_ns if owed is not None else None

    def excuse(self, now_ns: int) -> None:
        for entry in self.entries.values():
            entry.since_ns = now_ns
