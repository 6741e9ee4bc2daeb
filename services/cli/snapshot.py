"""`stos snapshot`: what a volume was at a moment: take it, find it, forget it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import completing, snapshot_group
from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, command_group, fields, plain, table, toned, write, write_as
from services.cli.screen import tell
from stoscore.errors import Code, StosError
from stoscore.units import format_size

if TYPE_CHECKING:
    from stoscore.messages import SnapshotView

app = command_group()

Volume = Annotated[str, typer.Argument(help="name or id of the volume", autocompletion=completing.volumes)]
Name = Annotated[str, typer.Argument(help="name of the snapshot", autocompletion=completing.snapshots)]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="seconds until giving up")]
app.add_typer(snapshot_group.app, name="group")
PAGE = 32
"""Volumes that are asked at once."""


@app.callback()
def snapshot() -> None:
    """Take, find and remove snapshots of volumes.

    \b
      stos snapshot create data monday
      stos snapshot ls data
      stos volume create restored --from-snapshot data/monday
      stos snapshot rm data monday
    """


@app.command()
def create(
    volume: Volume,
    name: Annotated[str, typer.Argument(help="up to 64 of a-z, 0-9 and '-'")],
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Take a snapshot of a volume, in use or not. The same command again gives the same snapshot.

    It has every write that was answered before the command began. A file system that is mounted is in it as after a
    power loss: its journal makes it whole. It takes no space but for what is written to the volume afterwards.

    \b
      stos snapshot create data monday
      stos snapshot create data "before-$(date +%Y%m%d)" -o json
    """
    from stoscore.volumes.naming import check_snapshot_name
    from stoscore.volumes.snapshots import copies_of

    check_snapshot_name(name)

    async def work(session: Session) -> dict[str, Any]:
        entry, status = await session.volumes.get(volume, timeout_s=timeout)
        copies = copies_of(status.record if status is not None else None)
        return _view(entry.name, await session.volumes.snapshots.take(entry.volume, name, timeout_s=timeout), copies)

    view = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, view)
    else:
        write(f"snapshot {plain(view['name'])} of volume {plain(view['volume_name'])}: {_told(view)}")


@app.command()
def ls(
    volume: Annotated[
        str | None,
        typer.Argument(help="name or id of a volume [default: all of them]", autocompletion=completing.volumes),
    ] = None,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """List the snapshots of a volume, or of all volumes, oldest first.

    \b
      stos snapshot ls
      stos snapshot ls data -o json
    """

    async def look(session: Session) -> list[dict[str, Any]]:
        if volume is not None:
            rows = await session.volumes.snapshots.listed(volume)
        else:
            rows, after = await session.volumes.snapshots.page("", PAGE)
            while after:
                more, after = await session.volumes.snapshots.page(after, PAGE)
                rows += more
        return [_view(row.entry.name, view, row.copies) for row in rows for view in row.views]

    def text(rows: list[dict[str, Any]]) -> str:
        headings = ("VOLUME", "SNAPSHOT", "SIZE", "TAKEN", "STATE", "HELD BY")
        return table(headings, [_row(row) for row in rows])

    nothing = "there are no snapshots: `stos snapshot create VOLUME NAME` takes one"
    tell(directory, look, text, output, nothing=nothing)


@app.command()
def show(volume: Volume, name: Name, directory: Directory = None, output: Output = Format.TABLE) -> None:
    """Show one snapshot: when it was taken, and which nodes' copies have it.

    A copy that was away when it was taken, or is new, is given it when it catches up. One that was in sync and could
    not take part gets it the next time that it comes back.

    \b
      stos snapshot show data monday
      stos snapshot show data monday -o yaml
    """

    async def look(session: Session) -> dict[str, Any]:
        for row in await session.volumes.snapshots.listed(volume):
            for view in row.views:
                if view.snapshot == name:
                    return _view(row.entry.name, view, row.copies)
        raise StosError(
            Code.NOT_FOUND,
            f"volume {volume} has no snapshot {name[:64]!r}",
            next_step=f"see `stos snapshot ls {volume}`",
        )

    tell(directory, look, _shown, output)


@app.command()
def rm(
    volume: Volume, name: Name, timeout: Timeout = 30.0, directory: Directory = None, output: Output = Format.TABLE
) -> None:
    """Remove a snapshot. What was made from it stays whole; its space comes back in the background.

    Removing what does not exist succeeds.

    \b
      stos snapshot rm data monday
    """
    from stoscore.volumes.naming import check_snapshot_name

    check_snapshot_name(name)

    async def work(session: Session) -> bool:
        known = {view.snapshot: view for view in await session.volumes.snapshots.of(volume, timeout_s=timeout)}
        if name in known:
            await _refuse_of_group(session, known[name])
            await session.volumes.snapshots.drop(volume, name, timeout_s=timeout)
        return name in known

    removed = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"name": name, "volume_name": volume, "removed": removed})
    else:
        told = f"snapshot {plain(name)} of volume {plain(volume)}"
        write(f"{told} is removed" if removed else f"there was no {told}")


async def _refuse_of_group(session: Session, view: SnapshotView) -> None:
    """What a group is made of, or is just being made of, goes with the group."""
    from stoscore.volumes.groups import parts_of

    group, attempt = parts_of(view.group)
    claim = await session.volumes.groups.find(group) if group else None
    if claim is not None and claim.attempt == attempt:
        raise StosError(
            Code.FAILED_PRECONDITION,
            f"snapshot {view.snapshot} is part of the group snapshot {group}",
            next_step=f"stos snapshot group rm {group}",
        )


def _view(volume_name: str, view: SnapshotView, copies: int) -> dict[str, Any]:
    from stoscore.volumes.groups import parts_of

    return {
        "name": view.snapshot,
        "volume": view.volume,
        "volume_name": volume_name,
        "size_bytes": view.size_bytes,
        "created_unix_ms": view.created_ms,
        "state": _state(view),
        "held_by": list(view.holders),
        "copies": copies,
        "root": view.root,
        "group": parts_of(view.group)[0],
    }


def _state(view: SnapshotView) -> str:
    """pending (not sealed everywhere yet), ready, or lost (nobody has it any more)."""
    if not view.ready:
        return "pending"
    return "ready" if view.holders else "lost"


def _told(view: dict[str, Any]) -> str:
    held = f", held by {plain(_held(view))}" if view["held_by"] else ""
    return f"{format_size(view['size_bytes'])}, {view['state']}{held}"


def _held(view: dict[str, Any]) -> str:
    """How many of the volume's copies have it, and whose."""
    if not view["held_by"]:
        return "-"
    share = f"{len(view['held_by'])}/{view['copies']}: " if view["copies"] else ""
    return share + ", ".join(view["held_by"])


def _row(view: dict[str, Any]) -> tuple[object, ...]:
    return (
        view["volume_name"],
        view["name"],
        format_size(view["size_bytes"]),
        _moment(view["created_unix_ms"]),
        toned(view["state"]),
        _held(view),
    )


def _shown(view: dict[str, Any]) -> str:
    return fields(
        [
            ("name", view["name"]),
            ("volume", f"{view['volume_name']} ({view['volume']})"),
            ("size", f"{format_size(view['size_bytes'])} ({view['size_bytes']} bytes)"),
            ("taken", _moment(view["created_unix_ms"])),
            ("state", toned(view["state"])),
            ("held by", _held(view)),
            ("root hash", view["root"] or "-"),
            ("group", view["group"] or "-"),
        ]
    )


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
