"""A primary and its seals under any order of answers: nothing is written while it is sealed, a Seal covers every write
before it and none after, and whatever is held goes on when nobody is left to be waited for (K4)."""

from __future__ import annotations

from random import Random

import pytest

from services.replica.replication import effects as fx
from services.replica.replication.sealing import Stage
from tests.support.sealing import ROOT, SealingPrimary

PEERS = ("b", "c", "d")


class Played(SealingPrimary):
    def __init__(self, seed: int):
        super().__init__(Random(seed), PEERS, prepares=0.9)
        self.asked = 0
        self.orders = 0
        self.stored: list[int] = []
        """Numbers of the writes in our own store, in order."""
        self.sealing = False
        """Our own disk is at it."""
        self.reports: list[fx.Effect] = []

    def see(self, effect: fx.Effect) -> None:
        match effect:
            case fx.StoreWrite(seq, _, _, _):
                assert not self.sealing, "a write while the store is sealed"
                assert not self.stored or seq > self.stored[-1]
                self.stored.append(seq)
            case fx.SealStore(seq, _, _):
                assert not self.sealing
                assert all(written < seq for written in self.stored)
                self.sealing = True
            case fx.ReportSealed() | fx.ReportNotSealed():
                self.reports.append(effect)

    def root(self, other: int) -> int | None:
        return ROOT if self.dice.random() < 0.8 else self.dice.choice((other, None))

    # ---- what may happen ------------------------------------------------------------------------------

    def write_next(self) -> None:
        self.asked += 1
        self.write(self.asked)

    def order(self) -> None:
        if self.primary.sealing_stage is Stage.IDLE:
            self.orders += 1
            self.take(self.primary.seal("s", self.orders, self.up, 0))

    def finish(self) -> None:
        if self.disk and isinstance(self.disk[0], fx.SealStore):
            self.sealing = False
        super().finish()

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
    deeds = [played.write_next, played.order, played.answer, played.answer, played.finish, played.lose, played.forget]
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
