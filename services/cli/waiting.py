"""Waiting until a volume has all its copies in sync, and telling how far that is."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from services.cli.cluster import Session
from services.cli.progress import progress
from stoscore.units import format_size

PAUSE_S = 0.5
Wait = Annotated[
    bool,
    typer.Option("--wait", help="until all copies are in sync, however long; Ctrl-C ends the waiting, not the work"),
]


async def until_in_sync(session: Session, name: str) -> None:
    """Raises StosError NOT_FOUND when the volume goes away meanwhile."""
    from services.cli import views

    with progress() as told:
        while True:
            entry, survey = await session.volumes.survey(name)
            view = views.volume(entry, survey.serving or survey.newest)
            view["nodes"] = views.replicas(survey)
            if is_whole(view):
                return
            told(*how_far(view))
            await asyncio.sleep(PAUSE_S)


def is_whole(view: dict[str, Any]) -> bool:
    """As `stos volume show -o json` has it."""
    return view["health"] == "healthy" and not view["joining"]


def how_far(view: dict[str, Any]) -> tuple[str, float]:
    """In words, and as a share of all copies' data. A copy that catches up counts by what it has been sent."""
    resyncs = [one for node in view["nodes"] for one in node.get("resyncs", ())]
    left = sum(one["bytes_left"] for one in resyncs)
    parts = [one["bytes_sent"] / max(one["bytes_sent"] + one["bytes_left"], 1) for one in resyncs]
    share = min((len(view["in_sync"]) + sum(parts)) / max(view["copies"], 1), 1.0)
    words = f"{view['name']}: {len(view['in_sync'])} of {view['copies']} copies in sync"
    return (f"{words}, {format_size(left)} left" if left else words), share
