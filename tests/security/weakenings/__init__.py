"""The weakenings, by name: each takes one defence out of the process that it is called in.

A weakening replaces one thing in the started process and nothing in the code that is shipped: production has no
switch for any of this. An attack that fails against the real cluster and succeeds against the weakened one is known
to bite, and the defence is known to be what stopped it. Where two defences stand behind each other, both names are
given, joined by "+": each alone would have been enough.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

STRANGER = "n9"
"""The node whose identity the attackers of the cases have, or claim to have."""
FOREIGN_ROOT = "STOS_TEST_FOREIGN_ROOT"
"""Variable with the path of the other authority's root certificate."""
_ROOMS = ("bus", "certs", "links", "nats", "tls")
_known: dict[str, Callable[[], None]] = {}


def weakening(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a function under its name, with dashes."""
    _known[function.__name__.replace("_", "-")] = function
    return function


def known() -> dict[str, Callable[[], None]]:
    for room in _ROOMS:
        import_module(f"tests.security.weakenings.{room}")
    return _known
