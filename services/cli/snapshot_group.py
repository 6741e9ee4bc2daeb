"""`stos snapshot group`: several volumes at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import completing
from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, plain, write, write_as
from services.cli.screen import tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stoscore.messages import GroupClaim, SnapshotView

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="name of the group snapshot: up to 64 of a-z, 0-9 and '-'")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="seconds until giving up")]


@app.callback()
def group() -> None:
    """Take, show and remove snapshots of several volumes at one moment.

    \b
      stos snapshot group create nightly data logs
      stos snapshot group show nightly
      stos snapshot group rm nightly
    """


@app.command()
def create(
    name: Name,
    volumes: Annotated[
        list[str], typer.Argument(help="names or ids of the volumes", autocompletion=completing.volumes)
    ],
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Take snapshots of several volumes, all of one moment; the same command again gives the same ones.

    Writes to all of the volumes wait at the same time, for some tens of milliseconds, so that a write is in the
    snapshots only with every write that was answered before it, to whichever of the volumes. If that can't be had,
    nothing is left.

    \b
      stos snapshot group create nightly data logs
      stos volume create restored --from-snapshot data/SNAPSHOT
    """

    async def work(session: Session) -> dict[str, Any]:
        claim, views = await session.volumes.groups.take(name, volumes, timeout_s=timeout)
        return _view(claim, views)

    view = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, view)
    else:
        write(_told(view))


@app.command()
def show(name: Name, directory: Directory = None, output: Output = Format.TABLE) -> None:
    """Show which snapshots a group snapshot is made of.

    \b
      stos snapshot group show nightly -o json
    """

    async def look(session: Session) -> dict[str, Any]:
        groups = session.volumes.groups
        claim = await groups.get(name)
        return _view(claim, await groups.of(claim))

    tell(directory, look, _told, output)


@app.command()
def rm(name: Name, timeout: Timeout = 30.0, directory: Directory = None, output: Output = Format.TABLE) -> None:
    """Remove a group snapshot and all its snapshots. Removing what does not exist succeeds.

    \b
      stos snapshot group rm nightly
    """
    from stoscore.volumes.naming import check_snapshot_name

    check_snapshot_name(name)

    async def work(session: Session) -> bool:
        known = await session.volumes.groups.find(name)
        if known is not None:
            await session.volumes.groups.drop(name, known.attempt, timeout_s=timeout)
        return known is not None

    removed = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"name": name, "removed": removed})
    else:
        write(f"group snapshot {plain(name)} is removed" if removed else f"there was no group snapshot {plain(name)}")


def _view(claim: GroupClaim, views: Iterable[SnapshotView]) -> dict[str, Any]:
    return {
        "name": claim.name,
        "created_unix_ms": claim.created_ms,
        "snapshots": [{"volume": view.volume, "name": view.snapshot, "held_by": list(view.holders)} for view in views],
    }


def _told(view: dict[str, Any]) -> str:
    lines = [f"group snapshot {plain(view['name'])}: {len(view['snapshots'])} volumes at one moment"]
    for known in view["snapshots"]:
        held = ", ".join(plain(node) for node in known["held_by"]) or "nobody"
        lines.append(f"  {known['volume']}/{plain(known['name'])}, held by {held}")
    return "\n".join(lines)
