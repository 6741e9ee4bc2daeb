"""A primary and its seals under any order of answers: nothing is written while it is sealed, a Seal covers every write
before it and none after, and whatever is held goes on when nobody is left to be waited for (K4)."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

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
from services.replica.replication.sealing import Stage
from tests.support.replicas import LINK, serving

PEERS = ("b", "c", "d")
ROOT = 7


class Played:
    """The primary's disk and its peers: each owes answers, given in the order of its own questions."""

    def __init__(self, seed: int):
        self.dice = Random(seed)
        self.primary = serving(PEERS)
        self.owed: dict[str, list[ToPrimary]] = {peer: [] for peer in PEERS}
        self.disk: list[fx.Effect] = []
        self.up = set(PEERS)
        self.asked = 0
        self.orders = 0
        self.stored: list[int] = []
        """Numbers of the writes in our own store, in order."""
        self.sealing = False
        """Our own disk is at it."""
        self.reports: list[fx.Effect] = []

    def take(self, effects: Iterable[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Tell(peers, message):
                    for peer in peers:
                        self._owe(peer, message)
                case fx.StoreWrite(seq, _, _, _):
                    assert not self.sealing, "a write while the store is sealed"
                    assert not self.stored or seq > self.stored[-1]
                    self.stored.append(seq)
                case fx.SealStore(seq, _, _):
                    assert not self.sealing
                    assert all(written < seq for written in self.stored)
                    self.sealing = True
                    self.disk.append(effect)
                case fx.PrepareSeal() | fx.HashSeal():
                    self.disk.append(effect)
                case fx.ReportSealed() | fx.ReportNotSealed():
                    self.reports.append(effect)

    def _owe(self, peer: str, message: object) -> None:
        match message:
            case Write(seq, _, _, _, _):
                self.owed[peer].append(Ack((seq,)))
            case Prepare(number):
                self.owed[peer].append(Prepared(number, self.dice.random() < 0.9))
            case Seal(seq, _, _, _):
                assert not [owed for owed in self.owed[peer] if isinstance(owed, Ack)], "a write is on its way"
                self.owed[peer] += [Sealed(seq), Rooted(seq, self._root(ROOT + 1))]

    def _root(self, other: int) -> int | None:
        return ROOT if self.dice.random() < 0.8 else self.dice.choice((other, None))

    # ---- what may happen ------------------------------------------------------------------------------

    def write(self) -> None:
        self.asked += 1
        request = Request(1, self.asked, Io.WRITE, self.dice.randrange(64), 1, False, 100 + self.asked)
        self.take(self.primary.request(LINK, request, 0))

    def order(self) -> None:
        if self.primary.sealing_stage is Stage.IDLE:
            self.orders += 1
            self.take(self.primary.seal("s", self.orders, self.up, 0))

    def answer(self) -> None:
        owing = [peer for peer in sorted(self.up) if self.owed[peer]]
        if owing:
            peer = self.dice.choice(owing)
            self.take(self.primary.receive(peer, self.owed[peer].pop(0), 0))

    def finish(self) -> None:
        if not self.disk:
            return
        match self.disk.pop(0):
            case fx.PrepareSeal(number):
                failure = "" if self.dice.random() < 0.9 else "no space"
                self.take(self.primary.seal_prepared(number, failure, 0))
            case fx.SealStore(seq, _, _):
                self.sealing = False
                self.take(self.primary.sealed(seq, 0))
            case fx.HashSeal(seq, _, _):
                self.take(self.primary.hashed(seq, self._root(ROOT), 0))

    def lose(self) -> None:
        if len(self.up) > 1 and self.dice.random() < 0.2:
            peer = self.dice.choice(sorted(self.up))
            self.up.discard(peer)
            self.owed[peer].clear()
            self.take(self.primary.peer_down(peer, "its link ended"))
            self.take(self.primary.require(["a", *sorted(self.up)]))

    def let_go(self) -> None:
        """Whose layer differed was dropped, and the brain lets it go."""
        for peer, state in self.primary.peers.items():
            if state.phase != "live" and peer in self.up:
                self.up.discard(peer)
                self.owed[peer].clear()
                self.take(self.primary.require(["a", *sorted(self.up)]))

    def forget(self) -> None:
        if self.dice.random() < 0.1:
            self.take(self.primary.snapshots([], [], 0))


@pytest.mark.parametrize("seed", range(150))
def test_any_order_of_answers(seed: int) -> None:
    played = Played(seed)
    deeds = [played.write, played.order, played.answer, played.answer, played.finish, played.lose, played.forget]
    for _ in range(120):
        played.dice.choice(deeds)()
        if played.sealing:
            assert played.primary.sealing_stage in (Stage.SEALING, Stage.IDLE, Stage.PREPARING)
    played.let_go()
    while played.disk or any(played.owed[peer] for peer in played.up):
        played.finish()
        played.answer()
        played.let_go()
    assert played.primary.sealing_stage is Stage.IDLE
    assert played.primary.unanswered == 0, "everything that was held went on"
    for report in played.reports:
        if isinstance(report, fx.ReportSealed):
            assert report.root == ROOT and "a" in report.nodes
