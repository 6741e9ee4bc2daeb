"""`stos volume`: create, find, use and remove volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import completing
from services.cli.cluster import Directory, Session, run
from services.cli.export import client_files, export, unexport
from services.cli.output import Format, Output, command_group, fields, plain, table, toned, write, write_as
from services.cli.screen import EVERY_S, Every, Watch, tell
from services.cli.waiting import Wait, until_in_sync
from stoscore.errors import Code, StosError, invalid, unavailable
from stoscore.units import format_size, parse_size

if TYPE_CHECKING:
    from stoscore.messages import CatalogueEntry, RecordModel, ReplicaStatus

app = command_group()

Name = Annotated[str, typer.Argument(help="name or id of the volume", autocompletion=completing.volumes)]
Node = Annotated[
    str | None, typer.Option(help="where to use it [default: a node without a copy]", autocompletion=completing.nodes)
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="seconds until giving up")]
MODES = "hard (every one), soft (a majority), alwayson (one) or a number"
BELOW = "suspend (wait) or error (fail)"
CLOSE_S = 3.0
"""A frontend that can't be closed by then is fenced by the detach that follows."""


@app.callback()
def volume() -> None:
    """Create, find, use and remove volumes.

    \b
      stos volume create data --size 1GiB
      stos volume connect data
      stos volume show data
      stos volume disconnect data
      stos volume rm data
    """


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="letters, digits, '-', '_' and '.'")],
    size: Annotated[
        str | None,
        typer.Option(help="such as 1GiB, 512Mi or 10G; rounded up to a whole MiB [default: that of the source]"),
    ] = None,
    from_snapshot: Annotated[
        str | None, typer.Option("--from-snapshot", help="VOLUME/SNAPSHOT: begin as that, without copying it")
    ] = None,
    clone: Annotated[
        str | None,
        typer.Option("--clone", help="begin as what this volume holds now", autocompletion=completing.volumes),
    ] = None,
    replicas: Annotated[int, typer.Option(help="copies besides the primary one, 0 to 5")] = 2,
    zone: Annotated[list[str] | None, typer.Option(help="only nodes in this zone (repeatable)")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE (repeatable)")] = None,
    failure_mode: Annotated[str, typer.Option(help="copies that a write needs: " + MODES)] = "alwayson",
    on_unavailable: Annotated[str, typer.Option(help="while there are fewer, writes: " + BELOW)] = "suspend",
    wait: Wait = False,
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a volume. The same command again gives the same volume, and goes on where one was interrupted.

    An even number of copies gets a witness, a voter without data, so that a majority decides when half of
    the copies are gone.

    \b
      stos volume create data --size 1GiB
      stos volume create scratch --size 10G --replicas 0
      stos volume create db --size 100GiB --zone a --zone b --label app=db
      stos volume create ledger --size 10GiB --failure-mode 2 --on-unavailable error
      stos volume create restored --from-snapshot data/monday
      stos volume create trial --clone data --replicas 0
    """
    from services.cli.beginning import Beginning

    beginning = Beginning.parse(size, from_snapshot, clone)
    labels = _labels(label or [])
    from stoscore.volumes.naming import parse_failure_mode, parse_on_unavailable

    mode, below = parse_failure_mode(failure_mode), parse_on_unavailable(on_unavailable)

    async def work(session: Session) -> tuple[CatalogueEntry, ReplicaStatus]:
        size_bytes, source = await beginning.found(session, name)
        status = await session.volumes.create(
            name,
            size_bytes,
            replicas=replicas,
            zones=zone or [],
            labels=labels,
            failure_mode=mode,
            on_unavailable=below,
            source=source,
            timeout_s=timeout,
        )
        if wait:
            await until_in_sync(session, name)
            _, served = await session.volumes.get(name, timeout_s=timeout)
            status = served or status
        return await session.catalogue.by_name(name), status

    from services.cli import views

    entry, status = run(directory, work)
    view = views.volume(entry, status)
    if output is not Format.TABLE:
        write_as(output, view)
        return
    write(f"volume {plain(view['name'])}: {format_size(view['size_bytes'])}, {_told_copies(view)}")


@app.command()
def ls(
    watch: Watch = False, every: Every = EVERY_S, directory: Directory = None, output: Output = Format.TABLE
) -> None:
    """List all volumes, those that nobody serves included.

    \b
      stos volume ls
      stos volume ls --watch
      stos volume ls -o json
    """

    async def look(session: Session) -> list[dict[str, Any]]:
        from services.cli import views

        return [views.volume(entry, status) for entry, status in await session.volumes.list()]

    def text(rows: list[dict[str, Any]]) -> str:
        headings = ("NAME", "SIZE", "HEALTH", "IN SYNC", "PRIMARY", "EPOCH", "ATTACHED", "ID")
        return table(headings, [_row(row) for row in rows])

    nothing = "there are no volumes: `stos volume create NAME --size 1GiB` makes one"
    tell(directory, look, text, output, watch=watch, every_s=every, nothing=nothing)


@app.command()
def show(
    name: Name,
    watch: Watch = False,
    every: Every = EVERY_S,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Show one volume and what each of its nodes says of it.

    \b
      stos volume show data
      stos volume show data --watch
      stos volume show data -o json
    """

    async def look(session: Session) -> dict[str, Any]:
        from services.cli import views

        entry, survey = await session.volumes.survey(name)
        view = views.volume(entry, survey.serving or survey.newest)
        return {**view, "nodes": views.replicas(survey)}

    tell(directory, look, _shown, output, watch=watch, every_s=every)


@app.command()
def expand(
    name: Name,
    size: Annotated[str, typer.Argument(help="at least so much: such as 2GiB; rounded up to a whole MiB")],
    wait: Wait = False,
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a volume larger while it is used. Nothing shrinks: a size that it has already changes nothing.

    NBD clients learn the size when they connect again; a file system on it grows by its own command. Volumes of
    Kubernetes are grown by their claim, which does all of it.

    \b
      stos volume expand data 2GiB
      stos volume expand data 2GiB --wait
    """
    try:
        size_bytes = parse_size(size)
    except ValueError as error:
        raise invalid(str(error)) from None

    async def work(session: Session) -> RecordModel:
        record = await session.volumes.expand(name, size_bytes, timeout_s=timeout)
        if wait:
            await until_in_sync(session, name)
        return record

    record = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"name": record.name, "volume": record.volume, "size_bytes": record.size_bytes})
    else:
        write(f"volume {plain(record.name)}: {format_size(record.size_bytes)}")


@app.command("set")
def set_policy(
    name: Name,
    replicas: Annotated[int | None, typer.Option(help="copies besides the primary one, 0 to 5")] = None,
    failure_mode: Annotated[str | None, typer.Option(help="copies that a write needs: " + MODES)] = None,
    on_unavailable: Annotated[str | None, typer.Option(help="while there are fewer, writes: " + BELOW)] = None,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Change a volume's policy while it is in use. What is not named stays as it is.

    New copies are made, and surplus ones removed, after the command has returned, unless it is told to --wait;
    `stos volume show` tells how far they are. With failure mode hard, writes wait from the moment that one more copy is
    asked for until it is in sync.

    \b
      stos volume set data --replicas 3 --wait
      stos volume set data --failure-mode soft --on-unavailable suspend
    """
    if replicas is None and failure_mode is None and on_unavailable is None:
        raise invalid("nothing to change", "name --replicas, --failure-mode or --on-unavailable")
    from services.cli import views
    from stoscore.volumes.naming import copies_of, parse_failure_mode, parse_on_unavailable

    mode = None if failure_mode is None else parse_failure_mode(failure_mode)
    below = None if on_unavailable is None else parse_on_unavailable(on_unavailable)

    async def work(session: Session) -> RecordModel:
        record = await session.volumes.set_policy(
            name, replicas=replicas, failure_mode=mode, on_unavailable=below, timeout_s=timeout
        )
        if wait:
            await until_in_sync(session, name)
        return record

    record = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"name": record.name, "volume": record.volume, **views.policy(record)})
    else:
        told = f"{copies_of(record.replicas)} copies, failure mode {record.failure_mode}"
        write(f"volume {plain(record.name)}: {told}, on-unavailable {record.on_unavailable}")


@app.command()
def rm(name: Name, timeout: Timeout = 30.0, directory: Directory = None, output: Output = Format.TABLE) -> None:
    """Remove a volume and its data. Removing what does not exist succeeds; one in use is refused.

    \b
      stos volume disconnect data
      stos volume rm data
    """
    removed = run(directory, lambda session: session.volumes.delete(name, timeout_s=timeout))
    if output is not Format.TABLE:
        write_as(output, {"name": name, "removed": removed})
    else:
        write(f"volume {plain(name)} is removed" if removed else f"there was no volume {plain(name)}")


@app.command()
def connect(
    name: Name,
    node: Node = None,
    force: Annotated[bool, typer.Option("--force", help="fence the node that uses it now, though it lives")] = False,
    reason: Annotated[str, typer.Option(help="why, for the record; needed with --force")] = "",
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Attach a volume to a node, open its NBD frontend there and print the URI for any NBD client.

    Only one node may use a volume at a time. The same command again gives the same frontend. A node that has been
    dead for half a second loses the volume to the next one that asks; one that lives keeps it, unless --force fences
    it: from then on its reads and writes fail.

    \b
      stos volume connect data
      nbdinfo "$(stos volume connect data)"
      stos volume connect data --node n1 -o json
      stos volume connect data --node n2 --force --reason "n1 hangs, ticket 4711"
    """
    if force and not reason.strip():
        raise invalid("--force fences a node that may be writing", 'say why with --reason "…", for the record')

    async def work(session: Session) -> dict[str, Any]:
        where = node or await _best_node(session, name, timeout)
        attached = await session.volumes.attach(name, where, force=reason if force else "", timeout_s=timeout)
        opened = await session.volumes.open_frontend(name, where, attached=attached, timeout_s=timeout)
        return {
            "volume": attached.record.volume,
            "name": attached.record.name,
            "node": opened.node,
            "socket": opened.socket,
            "uri": opened.uri,
            "attach_epoch": attached.attach_epoch,
        }

    view = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, view)
    else:
        write(plain(view["uri"]))


@app.command()
def why(
    name: Name,
    since: Annotated[str, typer.Option(help="how far back: a number and s, m, h or d")] = "1h",
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Tell what a volume's voters decided, and why: who stood and for what reason, who voted, who was let go.

    \b
      stos volume why data
      stos volume why data --since 10m -o json
    """
    from services.cli import story, views
    from services.cli.why import decisions

    chapters = run(directory, lambda session: decisions(session, name, since))
    if output is not Format.TABLE:
        write_as(output, [views.chapter(chapter) for chapter in chapters])
    elif chapters:
        write("\n".join(plain(line) for line in story.as_text(name, chapters).split("\n")))
    else:
        write(f"volume {plain(name)}: nothing was decided within {since}")


@app.command("move-primary")
def move_primary(
    name: Name,
    to: Annotated[
        str | None,
        typer.Option("--to", help="node of the copy [default: any that is in sync]", autocompletion=completing.nodes),
    ] = None,
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Hand a volume over to another of its copies: a pause of milliseconds, and nothing fails.

    \b
      stos volume move-primary data
      stos volume move-primary data --to n2
    """
    status = run(directory, lambda session: session.volumes.move_primary(name, to, timeout_s=timeout))
    if output is not Format.TABLE:
        write_as(output, {"name": name, "primary": status.node, "epoch": status.epoch})
    else:
        write(f"volume {plain(name)} is served by {plain(status.node)} (epoch {status.epoch})")


@app.command()
def override(
    name: Name,
    on: Annotated[
        str,
        typer.Option("--on", help="node of the copy that goes on", autocompletion=completing.nodes, show_default=False),
    ],
    lost: Annotated[
        list[str],
        typer.Option("--lost", help="node that is gone, and fenced; once for each", autocompletion=completing.nodes),
    ] = [],  # noqa: B006
    reason: Annotated[str, typer.Option(help="why, for the record")] = "",
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="even if that copy is known to lack acknowledged writes")
    ] = False,
    timeout: Timeout = 60.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Go on with one copy of a volume whose majority is lost for good. The last resort: data may be lost.

    While a majority may still come back, wait: the volume resumes by itself and loses nothing. Where it never will,
    one copy can go on alone, in a new generation. All that others acknowledged after it was last in touch is lost.
    With --lost you say that these nodes are fenced: powered off, or cut from the network. They have to stay so until
    their directories of the volume are gone, or until they can reach the copy that goes on while it serves: then they
    throw their copies away, and new ones are made by themselves. A majority of them that came back while that copy is
    away would go on in the old generation. The volume is attached to nobody afterwards: check the file system on it
    before it is used.

    All nodes are asked first. It is refused while the volume is served, while a majority answers of which one may lead,
    while any node that has, or is to have, another copy is neither named nor answers, when one that is named answers
    with its copy, and, without --accept-loss, when another node has a newer record than the copy named.

    \b
      stos volume show data
      stos volume override data --on n1 --lost n2 --lost n3 --reason "fire in rack 4, ticket 4711"
      stos volume connect data
    """
    if not reason.strip():
        raise invalid("an override gives copies up for good", 'say why with --reason "…", for the record')

    async def work(session: Session) -> ReplicaStatus:
        return await session.volumes.override(name, on, lost, reason, accept_loss=accept_loss, timeout_s=timeout)

    status = run(directory, work)
    generation = status.record.generation if status.record is not None else 0
    if output is not Format.TABLE:
        write_as(output, {"name": name, "primary": status.node, "generation": generation, "given_up": sorted(lost)})
    else:
        write(f"volume {plain(name)} goes on with the copy on {plain(status.node)} (generation {generation})")


@app.command()
def disconnect(name: Name, timeout: Timeout = 30.0, directory: Directory = None, output: Output = Format.TABLE) -> None:
    """Close a volume's frontend and detach the volume. Nothing to do is no error.

    \b
      stos volume disconnect data
    """

    async def work(session: Session) -> str | None:
        _, status = await session.volumes.get(name, timeout_s=timeout)
        attachment = status.record.attachment if status is not None and status.record is not None else None
        if attachment is not None:
            await _close(session, name, attachment.node)
        await session.volumes.detach(name, timeout_s=timeout)
        return attachment.node if attachment is not None else None

    node = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"name": name, "node": node, "disconnected": node is not None})
    elif node is None:
        write(f"volume {plain(name)} was not connected")
    else:
        write(f"volume {plain(name)} is disconnected from {plain(node)}")


app.command()(export)
app.command()(unexport)
app.command("client-files")(client_files)


async def _best_node(session: Session, name: str, timeout_s: float) -> str:
    from services.cli.roster import call_roll, frontend_node

    entry, status = await session.volumes.get(name, timeout_s=timeout_s)
    if status is None or status.record is None:
        raise unavailable(f"no copy of volume {entry.name} serves now", f"see `stos volume show {entry.name}`")
    return frontend_node(status.record, await call_roll(session.bus, await session.catalogue.nodes()))


async def _close(session: Session, name: str, node: str) -> None:
    """A node that is gone has no frontend left to close."""
    try:
        await session.volumes.close_frontend(name, node, timeout_s=CLOSE_S)
    except StosError as error:
        if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.NOT_FOUND):
            raise


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise invalid(f"{pair!r} is no label", "write KEY=VALUE, such as --label app=db")
        labels[key] = value
    return labels


def _told_copies(view: dict[str, Any]) -> str:
    """3 copies on n1 (primary), n2, n3"""
    data = [voter["node"] for voter in view["voters"] if voter["kind"] == "data"]
    witnesses = [voter["node"] for voter in view["voters"] if voter["kind"] == "witness"]
    places = ", ".join(f"{node} (primary)" if node == view["primary"] else node for node in data)
    told = f"{len(data)} {'copy' if len(data) == 1 else 'copies'} on {places}"
    return told + (f", witness on {', '.join(witnesses)}" if witnesses else "")


def _row(view: dict[str, Any]) -> tuple[object, ...]:
    return (
        view["name"],
        format_size(view["size_bytes"]),
        toned(view["health"]),
        f"{len(view['in_sync'])}/{view['copies']}",
        view["primary"] or "-",
        "-" if view["epoch"] is None else view["epoch"],
        view["attached"] or "-",
        view["volume"],
    )


def _shown(view: dict[str, Any]) -> str:
    attached = f"{view['attached']} (attach epoch {view['attach_epoch']})" if view["attached"] else "-"
    head = fields(
        [
            ("name", view["name"]),
            ("id", view["volume"]),
            ("size", f"{format_size(view['size_bytes'])} ({view['size_bytes']} bytes)"),
            ("copies", _told_copies(view)),
            ("health", toned(view["health"])),
            ("in sync", ", ".join(view["in_sync"]) or "-"),
            *([("joining", ", ".join(view["joining"]))] if view["joining"] else []),
            ("attached", attached),
            ("policy", f"failure mode {view['failure_mode']}, on-unavailable {view['on_unavailable']}"),
            *((f"label {key}", value) for key, value in sorted(view["labels"].items())),
        ]
    )
    rows = [_node_row(node) for node in view["nodes"]]
    return head + "\n\n" + table(("NODE", "ROLE", "SERVING", "EPOCH", "ALLOCATED", "NOTES"), rows)


def _resync_note(resync: dict[str, Any]) -> str:
    note = f"{resync['node']} {resync['phase']}, {format_size(resync['bytes_left'])} left"
    estimate = resync["estimate"]
    if estimate is None:
        return note
    return f"{note}, about {format_size(estimate['bytes'])} in {estimate['ms'] / 1000:.1f} s"


def _node_row(node: dict[str, Any]) -> tuple[object, ...]:
    if "error" in node:
        return (node["node"], toned("no answer"), "-", "-", "-", node["error"]["message"])
    notes = [_resync_note(resync) for resync in node["resyncs"]]
    if node["rotten_blocks"]:
        lost = f", {node['lost_blocks']} lost" if node["lost_blocks"] else ""
        blocks = "1 rotten block" if node["rotten_blocks"] == 1 else f"{node['rotten_blocks']} rotten blocks"
        notes.append(f"{blocks} found, {node['healed_blocks']} healed{lost}")
    if node["unclean"] and not node["failure"]:
        notes.insert(0, "stopped uncleanly")
    if node["failure"]:
        notes.insert(0, f"its disk failed: {node['failure']}")
    if node["over"]:
        notes.insert(0, f"of generation {node['generation']}, which is over")
    serving = "yes" if node["serving"] and not node["over"] else "no"
    allocated = format_size(node["allocated_bytes"])
    return (node["node"], toned(node["role"]), serving, node["epoch"], allocated, "; ".join(notes) or "-")
