"""A command's connection to its cluster (`stoscore.clusters` says to which), with what most commands need of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stoscore.clusters import Access, connected, find

if TYPE_CHECKING:
    from stoscore.bus import Bus
    from stoscore.catalogue import Catalogue
    from stoscore.volumes import Volumes

__all__ = ["Access", "Directory", "Session", "connect", "find", "run"]

Directory = Annotated[
    Path | None,
    typer.Option("--dir", envvar="STOS_DIR", help="directory of the embedded cluster [default: .stos/dev]"),
]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """An open connection to one cluster."""

    bus: Bus
    catalogue: Catalogue
    volumes: Volumes


@asynccontextmanager
async def connect(access: Access) -> AsyncGenerator[Session, None]:
    """A session; raises StosError UNAVAILABLE when the cluster does not answer."""
    from stoscore.catalogue import Catalogue
    from stoscore.volumes import Volumes

    async with connected(access, lambda problem: typer.echo(f"warning: {problem}", err=True)) as bus:
        catalogue = Catalogue(bus)
        yield Session(bus, catalogue, Volumes(bus, catalogue))


def run(directory: Path | None, work: Callable[[Session], Awaitable[T]]) -> T:
    """Run `work` with a session and give its result."""
    access = find(directory)

    async def in_session() -> T:
        async with connect(access) as session:
            return await work(session)

    return asyncio.run(in_session())
