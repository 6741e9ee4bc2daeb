"""Asking every process of the cluster about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from stoscore import subjects
from stoscore.access import OBSERVED, Caller
from stoscore.bus import Bus
from stoscore.messages import Message
from stoscore.volumes.deadline import all_of

WAIT_S = 1.0
"""Nobody knows how many will answer. They answer from memory or a file of their own; one that hangs is left out."""


P = TypeVar("P", bound=Message)


def _own(page: Message, who: Caller) -> bool:
    """It speaks for itself, as the server has proved."""
    return getattr(page, "process", "") == str(who)


async def ask_all(
    bus: Bus, verb: str, request: Message, answer: type[P], known: Mapping[str, int] | None = None
) -> dict[str, P]:
    """role/name -> its answer, of all that answer in time. `known`: role -> how many answered before; when so many
    have, nobody is waited for."""

    async def ask(role: str) -> list[P]:
        enough = (known or {}).get(role)
        subject = subjects.observe(role, verb)
        return await bus.scatter(subject, request, answer, timeout_s=WAIT_S, enough=enough, valid=_own)

    pages = await all_of(*map(ask, OBSERVED))
    return {str(getattr(page, "process", "")): page for found in pages for page in found}


def of_each_role(processes: Iterable[str]) -> dict[str, int]:
    """node/n1, node/n2, csi/a -> {"node": 2, "csi": 1}: so many will answer again."""
    return dict(Counter(process.partition("/")[0] for process in processes))
