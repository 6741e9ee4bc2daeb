"""Audit events: every privileged act and every refusal, with who, what and why, kept for `stos events`.

Recording one never waits, and can't be used as a weapon. What is alike is told once a second with a count, and ever
less often while it does not end, or it would push older events out of their stream. What there is no memory for is
counted. What happens while NATS is away waits in a bounded queue. Refusals of the same who, action and reason are
alike, whatever they were aimed at; what was done to another target is another event. An event leaves twice rather
than never: a batch is sent again, under the same message ids, until the server has answered a round trip after it;
the stream keeps each id once.

A user's process has nothing to report (the server lets it publish no event): it only logs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from stoscore import subjects
from stoscore.errors import StosError
from stoscore.messages import AuditEvent, Message
from stoscore.telemetry import get_logger
from stoscore.units import MS

FOLD_S, FOLD_MAX_S = 1.0, 30.0
PATIENCE = 10
"""How often in a row the same is told after each second; then the pauses double."""
KINDS_MAX = 512
"""Different events within one fold; further ones are only counted."""
QUEUE_MAX = 2048
BATCH = 256
RETRY_S = 1.0
CLOSE_S = 2.0
MESSAGE_ID = "Nats-Msg-Id"

Outcome = Literal["done", "refused", "failed"]
Key = tuple[str, str, str, str, str]
_TOO_MANY = "too many different events at once to tell each"

log = get_logger("audit")


class Owner(Protocol):
    """Whose events these are."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...


class Publisher(Protocol):
    """What is needed of `stoscore.bus.Bus`."""

    @property
    def connected(self) -> bool: ...
    def send(self, subject: str, payload: bytes | Message, headers: Mapping[str, str] | None = None) -> bool: ...
    async def flush(self) -> None: ...


@dataclass(slots=True)
class _Fold:
    """What is alike: told when it was first seen, and again with the number of what came since."""

    event: AuditEvent
    tell_at_s: float
    count: int = 0
    told: int = 0
    """how often in a row"""


class Folding:
    """Turns a flood into one event a second. Pure: the time comes in."""

    def __init__(self) -> None:
        self._folds: dict[Key, _Fold] = {}

    def __bool__(self) -> bool:
        """There may be something to tell later."""
        return bool(self._folds)

    def add(self, event: AuditEvent, now_s: float) -> AuditEvent | None:
        """What is to be told now: the event itself, unless one like it was told within the last second."""
        if _key(event) not in self._folds and len(self._folds) >= KINDS_MAX:
            event = event.model_copy(update={"who": "many", "action": "many", "target": "", "reason": _TOO_MANY})
        fold = self._folds.get(_key(event))
        if fold is None:
            self._folds[_key(event)] = _Fold(event, now_s + FOLD_S)
            return event
        fold.event = event
        fold.count += 1
        return None

    def due(self, now_s: float) -> list[AuditEvent]:
        """What was folded until now. What did not come again is forgotten."""
        told = []
        for key, fold in list(self._folds.items()):
            if now_s < fold.tell_at_s:
                continue
            if fold.count:
                told.append(fold.event.model_copy(update={"count": fold.count}))
                fold.told += 1
                pause_s = min(FOLD_S * 2.0 ** max(0, fold.told - PATIENCE), FOLD_MAX_S)
                fold.count, fold.tell_at_s = 0, now_s + pause_s
            else:
                del self._folds[key]
        return told


def _key(event: AuditEvent) -> Key:
    target = "" if event.outcome == "refused" else event.target
    return event.who, event.action, event.outcome, event.reason, target


class Audit:
    """What one process has to report. Every `Bus` has one: `bus.audit`."""

    def __init__(self, bus: Publisher, owner: Owner):
        self._bus = bus
        self._reporter = subjects.reporter(owner.kind, owner.name)
        self._subject = subjects.event(self._reporter, subjects.AUDIT) if owner.kind != "user" else ""
        self._folding = Folding()
        self._queue: deque[tuple[str, AuditEvent]] = deque(maxlen=QUEUE_MAX)
        """With the message id of each. When it is full the oldest go: the latest are about what happens now."""
        self._telling: asyncio.Task[None] | None = None

    def record(self, *, who: str, action: str, outcome: Outcome, target: str = "", reason: str = "") -> None:
        """Never blocks and never raises; to be called in the event loop's thread."""
        event = AuditEvent(
            who=_shown(who, 128),
            action=_shown(action, 64),
            target=_shown(target, 256),
            outcome=outcome,
            reason=_shown(reason, 512),
            at_unix_ms=time.time_ns() // MS,
            reporter=self._reporter,
        )
        told = self._folding.add(event, time.monotonic())
        if told is not None:
            self._tell(told)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell_all(), name="audit")

    def _tell(self, event: AuditEvent) -> None:
        log.log(
            logging.INFO if event.outcome == "done" else logging.WARNING,
            "%s %s %s %s%s",
            event.who,
            event.outcome,
            event.action,
            event.target,
            f": {event.reason}" if event.reason else "",
            extra={"audit": event.model_dump(mode="json", exclude={"v", "reporter"})},
        )
        if self._subject:
            self._queue.append((os.urandom(16).hex(), event))

    async def _tell_all(self) -> None:
        """Until there is nothing left."""
        while self._queue or self._folding:
            for event in self._folding.due(time.monotonic()):
                self._tell(event)
            if not self._queue or not await self._send_batch():
                await asyncio.sleep(RETRY_S / 4 if not self._queue else RETRY_S)

    async def _send_batch(self) -> bool:
        """False when it is not known to have arrived."""
        batch = list(self._queue)[:BATCH]
        if not self._bus.connected:
            return False
        if not all(self._bus.send(self._subject, event, {MESSAGE_ID: key}) for key, event in batch):
            return False
        try:
            await self._bus.flush()
        except StosError as error:
            log.debug("audit events are sent again: %s", error)
            return False
        sent = {key for key, _ in batch}
        while self._queue and self._queue[0][0] in sent:
            self._queue.popleft()
        return True

    async def close(self) -> None:
        """Tell what can be told in a moment."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        for event in self._folding.due(float("inf")):
            self._tell(event)
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._queue and await self._send_batch():
                    pass
        except TimeoutError:
            log.warning("%d audit events could not be told", len(self._queue))


def _shown(text: str, length_max: int) -> str:
    """What somebody else wrote, without control characters and not longer than it may be."""
    return "".join(char if char.isprintable() else "?" for char in text[:length_max])
