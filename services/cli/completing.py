"""Names for the shell's completion, asked of the cluster while the user waits at the prompt.

Whoever presses Tab wants an answer at once or none: everything has to happen within `WITHIN_S`, nothing is printed, and
no failure is told. A cluster that does not run completes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from services.cli.cluster import find
from stoscore.clusters import connected
from stoscore.limits import PAGE_ENTRIES_MAX, valid_volume_name

if TYPE_CHECKING:
    from stoscore.catalogue import Catalogue

WITHIN_S = 1.5
SHOWN_MAX = 500


def volumes(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, incomplete, _volumes)


def snapshots(context: typer.Context, incomplete: str) -> list[str]:
    """Of the volume that stands before."""
    return _names(context, incomplete, lambda catalogue, _: _snapshots(catalogue, context.params.get("volume")))


def nodes(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, incomplete, _nodes)


async def _volumes(catalogue: Catalogue, incomplete: str) -> list[str]:
    """The catalogue is in order: what comes before is not even asked for."""
    before = incomplete[:-1] if incomplete else ""
    found: list[str] = []
    while len(found) < SHOWN_MAX:
        entries, before = await catalogue.page(before, PAGE_ENTRIES_MAX)
        found += [entry.name for entry in entries]
        if not before or (found and found[-1] > incomplete and not found[-1].startswith(incomplete)):
            break
    return found


async def _snapshots(catalogue: Catalogue, volume: str | None) -> list[str]:
    from stoscore.volumes import Volumes

    rows = await Volumes(catalogue.bus, catalogue).snapshots.listed(volume, timeout_s=WITHIN_S) if volume else []
    return [view.snapshot for row in rows for view in row.views]


async def _nodes(catalogue: Catalogue, incomplete: str) -> list[str]:
    return [entry.node for entry in await catalogue.nodes()]


def _names(context: typer.Context, incomplete: str, ask: Callable[[Catalogue, str], Awaitable[list[str]]]) -> list[str]:
    logging.disable(logging.CRITICAL)
    try:
        found = asyncio.run(_asked(context, incomplete, ask))
    except Exception:
        # Whatever it is, at the prompt it helps nobody; the command itself will tell it.
        return []
    finally:
        logging.disable(logging.NOTSET)
    # zsh evaluates what it is given: nothing but a name gets there.
    return [name for name in found if name.startswith(incomplete) and valid_volume_name(name)][:SHOWN_MAX]


async def _asked(
    context: typer.Context, incomplete: str, ask: Callable[[Catalogue, str], Awaitable[list[str]]]
) -> list[str]:
    from stoscore.catalogue import Catalogue

    given = context.params.get("directory")
    access = find(Path(given) if given else None)
    async with asyncio.timeout(WITHIN_S), connected(access, lambda warning: None) as bus:
        return await ask(Catalogue(bus), incomplete)
