"""A primary that seals, whose disk and peers a test plays: what each owes is answered in the order of the questions,
and who answers next is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Ack,
    Io,
    Prepare,
    Prepared,
    Request,
    Rooted,
    Seal,
    Sealed,
    ToPrimary,
    Write,
)
from tests.support.replicas import LINK, serving

ROOT = 7


class SealingPrimary:
    """`prepares`: how likely it is that a copy can make another layer."""

    def __init__(self, dice: Random, peers: Iterable[str], prepares: float):
        self.dice = dice
        self.now_ns = 0
        self.prepares = prepares
        self.primary = serving(peers)
        self.up = set(self.primary.peers)
        self.owed: dict[str, list[ToPrimary]] = {peer: [] for peer in self.primary.peers}
        self.disk: list[fx.Effect] = []

    def see(self, effect: fx.Effect) -> None:
        """What a test looks at, beside what is played here."""

    def root(self, other: int) -> int | None:
        """What a copy hashes; `other`: what it would be of another content."""
        return ROOT

    def take(self, effects: Iterable[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Tell(peers, message):
                    for peer in peers:
                        self._owe(peer, message)
                case fx.PrepareSeal() | fx.SealStore() | fx.HashSeal():
                    self.disk.append(effect)
            self.see(effect)

    def _owe(self, peer: str, message: object) -> None:
        match message:
            case Write(seq, _, _, _, _):
                self.owed[peer].append(Ack((seq,)))
            case Prepare(number):
                self.owed[peer].append(Prepared(number, self.dice.random() < self.prepares))
            case Seal(seq, _, _, _):
                assert not [owed for owed in self.owed[peer] if isinstance(owed, Ack)], "a write is on its way"
                self.owed[peer] += [Sealed(seq), Rooted(seq, self.root(ROOT + 1))]

    def write(self, number: int) -> None:
        """Of one block somewhere; its token is its number."""
        request = Request(1, number, Io.WRITE, self.dice.randrange(64), 1, False, number)
        self.take(self.primary.request(LINK, request, self.now_ns))

    def answer(self) -> None:
        """One of the peers."""
        owing = [peer for peer in sorted(self.up) if self.owed[peer]]
        if owing:
            peer = self.dice.choice(owing)
            self.take(self.primary.receive(peer, self.owed[peer].pop(0), self.now_ns))

    def finish(self) -> None:
        """What our own disk is at."""
        if not self.disk:
            return
        match self.disk.pop(0):
            case fx.PrepareSeal(number):
                failure = "" if self.dice.random() < self.prepares else "no space"
                self.take(self.primary.seal_prepared(number, failure, self.now_ns))
            case fx.SealStore(seq, _, _):
                self.take(self.primary.sealed(seq, self.now_ns))
            case fx.HashSeal(seq, _, _):
                self.take(self.primary.hashed(seq, self.root(ROOT), self.now_ns))
