"""An audit that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass

from stoscore.audit import Outcome


@dataclass(frozen=True, slots=True)
class Told:
    who: str
    action: str
    outcome: Outcome
    target: str
    reason: str


class HeardTrail:
    """Implements `services.replica.trail.Trail`."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def record(self, *, who: str, action: str, outcome: Outcome, target: str = "", reason: str = "") -> None:
        self.told.append(Told(who, action, outcome, target, reason))

    def reasons(self, action: str, who: str | None = None) -> list[str]:
        return [told.reason for told in self.told if told.action == action and who in (None, told.who)]
