"""Requests, and what is told without being asked."""

from __future__ import annotations

import json
from typing import Any

from tests.security.weakenings import weakening


@weakening
def answer_anybody() -> None:
    """The answering side does not look at the caller's role."""
    from dataclasses import replace

    from stoscore import bus_answering
    from stoscore.access import KIND

    original = bus_answering.rule_for

    def rule(subject: str) -> Any:
        found = original(subject)
        return replace(found, roles=frozenset(KIND)) if found is not None else None

    bus_answering.rule_for = rule  # type: ignore[attr-defined]


@weakening
def answer_anywhere() -> None:
    """The answering side does not look at whether the reply subject is the caller's."""
    from stoscore import bus_answering

    bus_answering._is_own_inbox = lambda reply, caller: True  # type: ignore[assignment]


@weakening
def serve_who_shouts() -> None:
    """Requests are worked on as they come, and all of them wait, whoever sends how many."""
    from stoscore import bus_answering
    from stoscore.turns import Shares, Turns

    class Queue(Turns[Any]):
        def __init__(self, shares: Shares):
            most = 1 << 30
            super().__init__(Shares(shares.running_max, shares.running_max, most, most))

        def offer(self, caller: str, item: Any) -> bool:
            return super().offer("anybody", item)

    bus_answering.Turns = Queue  # type: ignore[misc]


@weakening
def read_loosely() -> None:
    """A request that breaks the rules is taken all the same."""
    from stoscore import bus_answering
    from stoscore.errors import StosError

    original = bus_answering.decode_request

    def read(kind: Any, data: bytes) -> Any:
        try:
            return original(kind, data)
        except StosError:
            return kind.model_construct(**json.loads(data))

    bus_answering.decode_request = read  # type: ignore[attr-defined]


@weakening
def trust_any_signer() -> None:
    """A trust state counts whoever signed it."""
    from stoscore import identity, trust

    def believe(signed: Any, *_: Any, **__: Any) -> Any:
        return trust.TrustState.model_validate_json(signed.state_json)

    identity.verify_trust = believe  # type: ignore[attr-defined]
