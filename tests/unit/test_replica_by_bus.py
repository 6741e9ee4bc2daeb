"""Who shouts over the bus is heard in turns, and only so much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest

from services.replica.by_bus import (
    BURST,
    PER_S,
    STRANGERS_BURST,
    TURN_NS,
    WAITING_BYTES_MAX,
    ByBus,
)
from services.replica.handlers import Handlers
from services.replica.shell import Shell
from stoscore.units import SECOND

COST_NS = TURN_NS // 20


class Ear:
    """Stands for the handlers, the shell and the loop: notes what it hears, and every message takes its time."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.heard: list[tuple[str, bytes]] = []
        self.refused: Counter[str] = Counter()
        self.settled = 0
        self.stopped = False
        self.due: list[Callable[[], None]] = []
        self.by_bus = ByBus("me", cast(Handlers, self), cast(Shell, self), lambda: self.now_ns, self.due.append)

    def is_member(self, sender: str, volume: str) -> bool:
        return volume == "v"

    def brain(self, sender: str, volume: str, raw: bytes, now_ns: int) -> None:
        self.heard.append((sender, raw))
        self.now_ns += COST_NS
        if raw == b"bad, me":
            raise ValueError(volume)

    def pair_by_bus(self, sender: str, raw: bytes, now_ns: int) -> None:
        self.brain(sender, "", raw, now_ns)

    def refuse(self, sender: str, what: str, volume: str, why: str) -> None:
        self.refused[sender] += 1

    def settle(self) -> None:
        self.settled += 1

    def turn(self) -> int:
        """How many were heard in it."""
        before = len(self.heard)
        (take_turn,) = self.due
        self.due.clear()
        take_turn()
        return len(self.heard) - before

    def turns(self) -> None:
        while self.due:
            self.turn()


def test_a_burst_is_heard_in_turns_and_what_is_beyond_it_is_not_read() -> None:
    ear = Ear()
    for _ in range(2 * BURST):
        ear.by_bus.brain("loud", "v", b"to me")
    assert (len(ear.heard), ear.refused["loud"]) == (0, BURST), "nothing is read before its turn"
    assert ear.turn() == 20
    assert ear.settled == 1
    ear.turns()
    assert len(ear.heard) == BURST
    ear.now_ns += SECOND
    for _ in range(2 * BURST):
        ear.by_bus.pair("loud", b"to me")
    ear.turns()
    allowed = len(ear.heard) - BURST
    assert PER_S <= allowed <= PER_S * ear.now_ns // SECOND


def test_who_speaks_seldom_waits_for_nobody_who_shouts() -> None:
    ear = Ear()
    for _ in range(BURST):
        ear.by_bus.brain("loud", "v", b"to me")
    ear.by_bus.brain("quiet", "v", b"first, me")
    ear.by_bus.pair("quiet", b"second")
    ear.turn()
    assert [raw for sender, raw in ear.heard if sender == "quiet"] == [b"first, me", b"second"]


def test_what_waits_is_bounded_by_bytes_and_makes_room_again() -> None:
    ear = Ear()
    large = b"me".ljust(WAITING_BYTES_MAX // 4)
    for _ in range(6):
        ear.by_bus.brain("loud", "v", large)
    assert ear.refused["loud"] == 2
    ear.turns()
    ear.by_bus.brain("loud", "v", large)
    ear.turns()
    assert len(ear.heard) == 5


def test_a_message_that_breaks_is_told_and_the_next_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    for raw in (b"bad, me", b"good, me"):
        ear.by_bus.brain("n2", "v", raw)
    ear.turns()
    assert [raw for _, raw in ear.heard] == [b"bad, me", b"good, me"]
    assert "not understood" in caplog.text


def test_a_stopped_node_hears_nothing() -> None:
    ear = Ear()
    ear.by_bus.brain("n2", "v", b"to me")
    ear.stopped = True
    ear.turns()
    assert (ear.heard, ear.settled, ear.due) == ([], 0, [])


def test_what_is_not_for_us_is_not_read_and_costs_its_sender_nothing() -> None:
    ear = Ear()
    for _ in range(2 * BURST):
        ear.by_bus.brain("loud", "v", b"to another")
    ear.by_bus.brain("loud", "v", b"to me")
    ear.turns()
    assert ear.heard == [("loud", b"to me")]
    assert not ear.refused


def test_who_has_no_business_in_a_volume_gets_few_answers_and_loses_nothing_where_it_has() -> None:
    """Each of them is a message of ours by the bus, which counts against our own allowance at all others."""
    ear = Ear()
    for _ in range(BURST):
        ear.by_bus.brain("loud", "another", b"to me")
        ear.by_bus.brain("loud", "v", b"to me, too")
    ear.turns()
    heard = Counter(raw for _, raw in ear.heard)
    assert heard == {b"to me": STRANGERS_BURST, b"to me, too": BURST}
