"""The attacks, one room for each wire. An attack is a function of the scene and of the attacker's identity directory
(None: it has none) that says whether it reached its goal; nothing of our own client code holds it back."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from tests.security.scene import Outcome, Scene


def run(name: str, scene: Scene, identity: Path | None, arguments: dict[str, Any]) -> Outcome:
    """`name` is room.function."""
    room, _, function = name.partition(".")
    outcome: Outcome = getattr(import_module(f"tests.security.attacks.{room}"), function)(scene, identity, **arguments)
    return outcome
