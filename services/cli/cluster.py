"""A command's connection to its cluster (`stoscore.clusters` says to which), with what most commands need of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from services.cli.lazy import command_line
from stoscore.clusters import Access, connected, find
from stoscore.units import MIB

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
TRACES = "traces"
TRACE_BYTES = 2 * MIB


@dataclass(frozen=True, slots=True)
class Session:
    """An open connection to one cluster."""

    access: Access
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
        yield Session(access, bus, catalogue, Volumes(bus, catalogue))


def run(directory: Path | None, work: Callable[[Session], Awaitable[T]], *, sampled: bool = True) -> T:
    """Run `work` with a session and give its result. `sampled` False, for what only looks: it leaves no trace."""
    access = find(directory)

    async def in_session() -> T:
        async with connect(access) as session:
            with _traced(access, sampled=sampled):
                return await work(session)

    return asyncio.run(in_session())


@contextmanager
def _traced(access: Access, *, sampled: bool) -> Iterator[None]:
    """A command is the root of its trace, and keeps its own spans beside its identity as every process does."""
    from stoscore import telemetry

    if sampled:
        telemetry.keep(access.identity_dir / TRACES, TRACE_BYTES)
    try:
        with telemetry.span(command_line(), sampled=sampled):
            yield
    finally:
        telemetry.shutdown()
