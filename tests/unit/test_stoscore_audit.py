"""Audit events: folded, bounded, told again until they have arrived, and never in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from stoscore import audit as module
from stoscore.audit import KINDS_MAX, MESSAGE_ID, Audit, Folding
from stoscore.errors import unavailable
from stoscore.messages import AuditEvent, Message


def event(**changes: Any) -> AuditEvent:
    fields = {"who": "node/n1", "action": "nats.publish", "outcome": "refused", "reason": "r", "at_unix_ms": 1}
    return AuditEvent.model_validate(fields | {"reporter": "svc:nats"} | changes)


def test_what_is_alike_is_told_once_a_second() -> None:
    folding = Folding()
    first = event(target="a")
    assert folding.add(first, 0.0) == first
    assert [folding.add(event(target=f"t{n}"), 0.1) for n in range(500)] == [None] * 500
    assert folding.due(0.9) == []
    (folded,) = folding.due(1.0)
    assert (folded.count, folded.target) == (500, "t499")
    assert folding.add(event(), 1.5) is None  # still within the next second
    assert [told.count for told in folding.due(2.0)] == [1]
    assert folding.due(3.0) == []
    assert not folding
    assert folding.add(first, 3.1) == first


def test_what_does_not_end_is_told_ever_less_often() -> None:
    """An hour of it must not fill the stream in which the other events are kept."""
    folding, told, missed = Folding(), 1, 0
    assert folding.add(event(), 0.0)
    for tenth in range(1, 36_000):
        missed += folding.add(event(), tenth / 10) is None
        due = folding.due(tenth / 10)
        told += len(due)
        missed -= sum(item.count for item in due)
    assert 100 < told < 150
    assert missed < 400
    assert len(folding.due(4000.0)) == 1
    assert folding.due(5000.0) == []
    assert folding.add(event(), 5000.0)


def test_what_differs_is_told_by_itself() -> None:
    folding = Folding()
    for changes in ({}, {"who": "node/n2"}, {"action": "x"}, {"reason": "s"}, {"outcome": "failed"}):
        assert folding.add(event(**changes), 0.0) is not None


def test_what_was_done_to_another_target_is_another_event() -> None:
    folding = Folding()
    for target in ("n1/a", "n1/b"):
        assert folding.add(event(outcome="done", target=target), 0.0) is not None
    assert folding.add(event(outcome="done", target="n1/a"), 0.0) is None


def test_a_flood_of_different_ones_is_counted() -> None:
    folding = Folding()
    told = [folding.add(event(reason=str(number)), 0.0) for number in range(KINDS_MAX + 100)]
    assert len([item for item in told if item]) == KINDS_MAX + 1
    (many,) = folding.due(1.0)
    assert (many.who, many.count) == ("many", 99)
    assert len(folding._folds) == 1


@dataclass
class Wire:
    """A bus that can be away, or break right after it took something."""

    connected: bool = True
    breaks: bool = False
    sent: list[tuple[str, AuditEvent, str]] = field(default_factory=list)

    def send(self, subject: str, payload: bytes | Message, headers: Mapping[str, str] | None = None) -> bool:
        assert isinstance(payload, AuditEvent)
        assert headers is not None
        self.sent.append((subject, payload, headers[MESSAGE_ID]))
        return True

    async def flush(self) -> None:
        if self.breaks:
            raise unavailable("gone")


@dataclass
class Owner:
    kind: str = "node"
    name: str = "n1"


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def record(audit: Audit, reason: str = "r", who: str = "csi/csi") -> None:
    audit.record(who=who, action="vol.delete", target="n1/v", outcome="refused", reason=reason)


async def test_it_is_published_under_the_reporters_own_subject() -> None:
    for owner, subject in [
        (Owner(), "stos.v1.events.n1.audit"),
        (Owner("svc", "nats"), "stos.v1.events.svc:nats.audit"),
    ]:
        wire = Wire()
        audit = Audit(wire, owner)
        record(audit)
        await until(lambda wire=wire: wire.sent)
        assert wire.sent[0][0] == subject
        assert wire.sent[0][1].reporter in ("n1", "svc:nats")
        await audit.close()


async def test_what_happens_while_nats_is_away_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    wire = Wire(connected=False)
    audit = Audit(wire, Owner())
    for number in range(5):
        record(audit, reason=str(number))
    await asyncio.sleep(0.1)
    assert wire.sent == []
    wire.connected = True
    await until(lambda: len(wire.sent) == 5)
    assert [event.reason for _, event, _ in wire.sent] == list("01234")
    await audit.close()


async def test_what_may_not_have_arrived_is_sent_again_under_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    wire = Wire(breaks=True)
    audit = Audit(wire, Owner())
    record(audit)
    await until(lambda: len(wire.sent) > 1)
    wire.breaks = False
    await until(lambda: not audit._queue)
    assert len({key for _, _, key in wire.sent}) == 1
    await audit.close()


async def test_the_memory_for_it_is_bounded() -> None:
    audit = Audit(Wire(connected=False), Owner())
    for number in range(module.QUEUE_MAX * 2):
        audit._tell(event(reason=str(number)))
    assert len(audit._queue) == module.QUEUE_MAX
    assert audit._queue[-1][1].reason == str(module.QUEUE_MAX * 2 - 1)
    await audit.close()


async def test_a_user_reports_nothing() -> None:
    wire = Wire()
    audit = Audit(wire, Owner("user", "admin"))
    record(audit)
    await audit.close()
    assert wire.sent == []


async def test_the_end_tells_what_is_left() -> None:
    wire = Wire()
    audit = Audit(wire, Owner())
    for _ in range(7):
        record(audit)
    await audit.close()
    assert [event.count for _, event, _ in wire.sent] == [1, 6]


async def test_what_others_wrote_is_shown_harmless(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire()
    audit = Audit(wire, Owner())
    record(audit, reason="line\nforged\x1b[2J" + "x" * 2000, who="\x00" * 500)
    await audit.close()
    (event,) = [event for _, event, _ in wire.sent]
    assert event.reason.startswith("line?forged?[2J")
    assert len(event.reason) == 512
    assert event.who == "?" * 128
    assert all("\n" not in item.getMessage() for item in caplog.records)
