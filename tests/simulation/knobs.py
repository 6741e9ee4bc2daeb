"""Constants of the production cores that a seed draws: a quiet time of a minute hides what happens after it from a
run of ten, and a comparison of 4,096 blocks never ends in the middle.

None of them is a promise between two nodes, so every value must be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import Any

from services.replica.driver import news, volume
from services.replica.replication import gate, patience, peer, resync, tree
from stoscore.units import MS, SECOND

KNOBS: dict[str, tuple[ModuleType, tuple[Any, ...]]] = {
    "QUIET_NS": (gate, (100 * MS, 300 * MS, 1 * SECOND, 5 * SECOND)),
    "PATIENCE_NS": (patience, (600 * MS, 2 * SECOND)),
    "FAILED_RETRY_NS": (peer, (200 * MS, 2 * SECOND)),
    "FANOUT": (tree, (4, 16, 256)),
    "COMPARE_BLOCKS": (tree, (16, 256, 4096)),
    "COMPARES_IN_FLIGHT": (resync, (1, 4)),
    "COPY_BLOCKS": (resync, (1, 8, 64)),
    "COPIES_IN_FLIGHT": (resync, (1, 2, 8)),
    "DISK_PATIENCE_NS": (volume, (2 * SECOND, 8 * SECOND)),
    "TOLD_AT_ONCE": (news, (1, 2, 16)),
}
"""Name -> (module, values to draw from); the last value is production's."""


def draw(rng: Random) -> dict[str, Any]:
    """Half of all seeds run with production's values, the others with a mixture."""
    if rng.random() < 0.5:
        return {}
    return {name: rng.choice(values) for name, (_, values) in KNOBS.items()}


@contextmanager
def turned(values: Mapping[str, Any]) -> Iterator[None]:
    before = {name: getattr(KNOBS[name][0], name) for name in values}
    try:
        for name, value in values.items():
            setattr(KNOBS[name][0], name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(KNOBS[name][0], name, value)
