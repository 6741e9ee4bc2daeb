"""What other nodes say over the bus, each in its turn: one that talks without end holds up nobody's I/O.

A message costs a tenth of a millisecond to read and judge, and the bus brings as many as a sender likes. Handled as
they come, a few thousand are a second in which no write is answered and no beat leaves, on every node at once. So

    not for us       every node hears all brains; what does not even contain our name is not read
    an allowance     what a sender says beyond it is refused unread; a small one for volumes in which it has no
                     business, because answers leave by the bus as well and count against *our* allowance elsewhere
    a queue each     bounded by messages and by bytes; the senders take turns
    a turn           2 ms of the loop for all of them, then everybody else's
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from services.replica.allowance import Allowance
from services.replica.handlers import Handlers
from services.replica.shell import Shell
from stoscore.telemetry import get_logger
from stoscore.turns import Shares, Turns
from stoscore.units import MIB, MS

log = get_logger("by_bus")

PER_S = 500
BURST = 10_000
"""The bus is the second way: it has to carry one election of all volumes that two nodes share."""
STRANGERS_PER_S = 100
STRANGERS_BURST = 1000
"""Of volumes that are not here, or that the sender is no member of: who was away for long asks such things."""
WAITING_BYTES_MAX = 16 * MIB
"""Of one sender: a burst of messages with records in them."""
TURN_NS = 2 * MS
SENDERS_MAX = 1024
TOO_MANY = "more messages by the bus than a node may send"

Heard = Callable[[int], None]
"""Handles one message; called with the time."""


class ByBus:
    """`later`: calls back when the loop has seen to everybody else."""

    def __init__(
        self,
        node: str,
        handlers: Handlers,
        shell: Shell,
        now_ns: Callable[[], int],
        later: Callable[[Callable[[], None]], object],
    ):
        self._name = node.encode()
        self._handlers = handlers
        self._shell = shell
        self._now_ns = now_ns
        self._later = later
        self._allowances: dict[str, Allowance] = {}
        self._waiting: Turns[tuple[int, Heard]] = Turns(Shares(1, 1, SENDERS_MAX * BURST, BURST))
        self._waiting_bytes: Counter[str] = Counter()
        self._turn_is_due = False

    def brain(self, sender: str, volume: str, raw: bytes) -> None:
        """A brain's message; only `sender` can have sent it."""
        if self._name in raw:
            known = self._handlers.is_member(sender, volume)
            self._hear(sender, "brain", raw, known, lambda now_ns: self._handlers.brain(sender, volume, raw, now_ns))

    def pair(self, sender: str, raw: bytes) -> None:
        """What `sender` says as one of a pair while its link is down."""
        self._hear(sender, "pair", raw, True, lambda now_ns: self._handlers.pair_by_bus(sender, raw, now_ns))

    def _hear(self, sender: str, what: str, raw: bytes, known: bool, heard: Heard) -> None:
        caller = sender if known else f"{sender} as a stranger"
        full = self._waiting_bytes[caller] + len(raw) > WAITING_BYTES_MAX
        if full or not self._has_room(caller, known) or not self._waiting.offer(caller, (len(raw), heard)):
            self._handlers.refuse(sender, what, "", TOO_MANY)
            return
        self._waiting_bytes[caller] += len(raw)
        self._make_turn_due()

    def _has_room(self, caller: str, known: bool) -> bool:
        now_ns = self._now_ns()
        allowance = self._allowances.get(caller)
        if allowance is None:
            if len(self._allowances) >= 2 * SENDERS_MAX:
                self._allowances.clear()
            per_s, burst = (PER_S, BURST) if known else (STRANGERS_PER_S, STRANGERS_BURST)
            allowance = self._allowances[caller] = Allowance(per_s, burst, now_ns)
        return allowance.take_if_room(1, now_ns)

    def _make_turn_due(self) -> None:
        if not self._turn_is_due and len(self._waiting):
            self._turn_is_due = True
            self._later(self._take_turn)

    def _take_turn(self) -> None:
        self._turn_is_due = False
        now_ns = self._now_ns()
        end_ns = now_ns + TURN_NS
        while now_ns < end_ns and not self._shell.stopped and (following := self._waiting.take()) is not None:
            caller, (size, heard) = following
            self._waiting.done(caller)
            self._waiting_bytes[caller] -= size
            if not self._waiting_bytes[caller]:
                del self._waiting_bytes[caller]
            try:
                heard(now_ns)
            except Exception:
                log.exception("a message by the bus was not understood", extra={"peer": caller})
            now_ns = self._now_ns()
        if not self._shell.stopped:
            self._shell.settle()
            self._make_turn_due()
