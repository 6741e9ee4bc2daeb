"""Promises, over any order of arrival: as long as a leader counts on a voter, that voter votes for nobody else.

X leads and Y votes. A message is delivered in its turn, or much later, twice or never. Both processes are started anew
at any moment; Y is silent then for as long as a promise of its process before may bind (P3).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from services.replica.brain import Beat, BeatAnswer, Claims, Confirm, PairMessage, Promises
from stoscore.units import MS
from tests.support.voters import LEASE, TIMING

VOLUMES = ("u", "v")
STEP = LEASE // 16


@dataclass
class Model:
    now_ns: int = LEASE
    processes: int = 2
    x: Promises = field(default_factory=lambda: Promises(TIMING, 1))
    y: Promises = field(default_factory=lambda: Promises(TIMING, 2))
    silent_until_ns: int = 0
    stored: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VOLUMES, 0))
    """Y's durable epochs."""
    led: dict[str, int] = field(default_factory=dict)
    """Volume -> the epoch in which X leads it."""
    on_the_way: deque[tuple[str, PairMessage]] = field(default_factory=deque)
    late: deque[tuple[str, PairMessage]] = field(default_factory=deque)

    def says(self, messages: list[tuple[str, PairMessage]]) -> None:
        self.on_the_way.extend(messages)

    def exchange(self, most: int) -> None:
        """In order, with what is answered."""
        for _ in range(min(most, len(self.on_the_way))):
            self.arrives(*self.on_the_way.popleft())

    def delay(self, *, copies: bool) -> None:
        self.late.extend(self.on_the_way)
        if not copies:
            self.on_the_way.clear()

    def catches_up(self, which: int, *, again: bool) -> None:
        if self.late:
            self.late.rotate(-which)
            peer, message = self.late[0] if again else self.late.popleft()
            self.arrives(peer, message)

    def arrives(self, peer: str, message: PairMessage) -> None:
        (self.arrives_at_x if peer == "x" else self.arrives_at_y)(message)

    def _nonce(self) -> int:
        self.processes += 1
        return self.processes

    def start_x(self) -> None:
        self.x = Promises(TIMING, self._nonce())
        self.led.clear()
        self.says(self.x.link_up("y"))

    def start_y(self) -> None:
        self.y = Promises(TIMING, self._nonce())
        self.silent_until_ns = self.now_ns + LEASE
        self.says(self.y.link_up("x"))

    def _leads(self, volume: str) -> bool:
        return self.led.get(volume) == self.stored[volume]

    def wins(self, volume: str) -> None:
        """By the vote of others; Y hears of it by what X proposes."""
        epoch = max(self.stored[volume], self.led.get(volume, 0)) + 1
        if volume in self.led:
            self.says(self.x.unclaim(volume))
        self.led[volume] = epoch
        self.says(self.x.claim(volume, 0, epoch, ("y",)))

    def proposes(self, volume: str) -> None:
        if self.led.get(volume, 0) > self.stored[volume]:
            self.stored[volume] = self.led[volume]
            self.says(self.y.raised(volume, self.stored[volume]))
            self.says(self.y.stored(volume, 0, self.stored[volume], lambda _: self._leads(volume)))

    def votes_for_another(self, volume: str) -> None:
        if self.now_ns >= max(self.silent_until_ns, self.y.promised_until(volume)):
            self.stored[volume] += 1
            self.says(self.y.raised(volume, self.stored[volume]))

    def beats(self) -> None:
        self.says([("y", self.x.beat("y", self.now_ns))])

    def arrives_at_x(self, message: PairMessage) -> None:
        match message:
            case Confirm():
                self.x.on_confirm("y", message)
            case BeatAnswer() if self.x.on_answer("y", message) and not self.x.fits("y", message):
                self.says(self.x.announce("y"))

    def arrives_at_y(self, message: PairMessage) -> None:
        match message:
            case Claims():
                answers, _ = self.y.on_claims("x", message, lambda volume, _, epoch: self.stored[volume] == epoch)
                self.says(answers)
            case Beat():
                self.says([("x", self.y.on_beat("x", message, self.now_ns))])

    def holds(self) -> None:
        for volume, epoch in self.led.items():
            until_ns = self.x.lease_until(volume, epoch, "x", ("x", "y", "z"))
            bound_ns = max(self.silent_until_ns, self.y.promised_until(volume))
            assert until_ns <= max(self.now_ns, bound_ns), (
                f"X counts on Y until {until_ns}, which is bound to {bound_ns}"
            )


OPERATIONS = (*["exchange"] * 3, *["beat"] * 2, "win", "propose", "vote", "wait", "delay", "late", "start")


def play(dice: Random) -> None:
    model = Model()
    for _ in range(60):
        operation, which, flag = dice.choice(OPERATIONS), dice.randrange(4), dice.random() < 0.5
        volume = VOLUMES[which % 2]
        match operation:
            case "exchange":
                model.exchange(which + 1 if flag else 16)
            case "beat":
                model.beats()
            case "win":
                model.wins(volume)
                if flag:
                    model.proposes(volume)
            case "propose":
                model.proposes(volume)
            case "vote":
                model.votes_for_another(volume)
            case "wait":
                model.now_ns += STEP if flag else MS
            case "delay":
                model.delay(copies=flag)
            case "late":
                model.catches_up(which, again=flag)
            case "start" if which == 3:
                model.start_y()
            case "start" if which:
                model.start_x()
        model.holds()


def test_whom_a_leader_counts_on_votes_for_nobody_else() -> None:
    for seed in range(3000):
        try:
            play(Random(seed))
        except AssertionError as wrong:
            raise AssertionError(f"seed {seed}: {wrong}") from wrong
