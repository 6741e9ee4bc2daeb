"""What an attacker is assumed to know: everything but keys.

Names, ids, incarnations, epochs, ports and the protocols are no secrets; a defence that rests on one of them
being unknown does not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Scene:
    """The cluster as its enemies see it."""

    cluster: str
    ports: dict[str, int]
    """By the name of the member that listens there."""
    trust_pem: str
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Volume name -> its record, as `stos volume show` tells it."""

    def volume(self, name: str) -> str:
        """The volume's id."""
        return str(self.records[name]["volume"])

    def incarnation(self, name: str, node: str) -> str:
        """Of the volume's voter on that node."""
        (found,) = [voter["incarnation"] for voter in self.records[name]["voters"] if voter["node"] == node]
        return str(found)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attack ended. `won`: it reached its goal."""

    won: bool
    told: str
    """What the attacker saw, for the reader of a failed test."""
