"""Where privileged acts and refusals are told: what is needed of `stoscore.audit.Audit`."""

from __future__ import annotations

from typing import Protocol

from stoscore.audit import Outcome


class Trail(Protocol):
    def record(self, *, who: str, action: str, outcome: Outcome, target: str = "", reason: str = "") -> None:
        """`who`: the identity that was proved (node/n1), or the address of a stranger. `action`: link.open, nbd.open.
        `reason`: few different ones, because what is alike is counted together. Never waits."""
