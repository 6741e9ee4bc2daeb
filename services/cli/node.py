"""`stos node`: the nodes of the cluster, their space and what they hold."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import completing
from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, command_group, fields, table, toned, write, write_as
from services.cli.screen import EVERY_S, Every, Watch, tell
from stoscore.units import format_size

app = command_group()


@app.callback()
def node() -> None:
    """See the nodes of the cluster, their space and what they hold.

    \b
      stos node ls
      stos node show n1
      stos node join-token n4    let another one in
    """


@app.command()
def ls(
    watch: Watch = False, every: Every = EVERY_S, directory: Directory = None, output: Output = Format.TABLE
) -> None:
    """List the nodes, those that do not answer included.

    \b
      stos node ls
      stos node ls --watch
      stos node ls -o json
    """

    async def look(session: Session) -> list[dict[str, Any]]:
        from services.cli import views
        from services.cli.roster import call_roll

        entries = await session.catalogue.nodes()
        roll = await call_roll(session.bus, entries)
        return [views.node(entry, roll[entry.node]) for entry in sorted(entries, key=lambda entry: entry.node)]

    def text(rows: list[dict[str, Any]]) -> str:
        headings = ("NODE", "ZONE", "STATE", "CAPACITY", "PROMISED", "USED", "COPIES", "PRIMARIES", "FRONTENDS")
        return table(headings, [_row(row) for row in rows])

    tell(directory, look, text, output, watch=watch, every_s=every)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="name of the node", autocompletion=completing.nodes)],
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Show one node: its space, its peers, its copies and its frontends.

    \b
      stos node show n1
      stos node show n1 -o json
    """

    async def work(session: Session) -> dict[str, Any]:
        from services.cli import views
        from services.cli.roster import call_roll, node_entry

        entry = await node_entry(session.catalogue, name)
        return views.node(entry, (await call_roll(session.bus, [entry]))[entry.node])

    view = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, view)
    else:
        write(_shown(view))


@app.command("join-token")
def join_token(
    name: Annotated[str, typer.Argument(help="name of the new node")],
    valid_s: Annotated[int, typer.Option(help="seconds in which it must be used", min=1)] = 3600,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a one-time join token for a node. It is a secret: give it to that node and to nobody else.

    \b
      stos node join-token n4 > n4.token           on the node: STOS_JOIN_TOKEN_FILE=n4.token
      stos node join-token n4 --valid-s 600 -o json
    """

    async def work(session: Session) -> str:
        from stoscore import subjects
        from stoscore.enrolment import IssuedToken, IssueToken
        from stoscore.envelope import make_request

        request = make_request(IssueToken, kind="node", name=name, valid_s=valid_s)
        return (await session.bus.request(subjects.certs("token"), request, IssuedToken)).token

    token = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"node": name, "token": token})
    else:
        write(token)


def _row(view: dict[str, Any]) -> tuple[object, ...]:
    if not view["up"]:
        return (view["node"], view["zone"] or "-", toned("no answer"), "-", "-", "-", "-", "-", "-")
    return (
        view["node"],
        view["zone"] or "-",
        toned("up"),
        format_size(view["capacity_bytes"]),
        format_size(view["provisioned_bytes"]),
        format_size(view["used_bytes"]),
        len(view["replicas"]),
        sum(1 for replica in view["replicas"] if replica["serving"]),
        len(view["frontends"]),
    )


def _shown(view: dict[str, Any]) -> str:
    pairs: list[tuple[str, object]] = [
        ("node", view["node"]),
        ("zone", view["zone"] or "-"),
        ("address", view["address"]),
    ]
    if not view["up"]:
        return fields([*pairs, ("state", f"no answer: {view['error']['message']}")])
    peers = [f"{peer} ({'up' if up else 'down'})" for peer, up in sorted(view["peers"].items())]
    pairs += [
        ("state", toned("up")),
        ("version", view["version"]),
        ("capacity", format_size(view["capacity_bytes"])),
        ("promised", format_size(view["provisioned_bytes"])),
        ("used", format_size(view["used_bytes"])),
        ("peers", ", ".join(peers) or "-"),
    ]
    turned_away = view["strangers"] | view["dropped"]
    if turned_away:
        pairs.append(("refused", ", ".join(f"{count} {why}" for why, count in sorted(turned_away.items()))))
    copies = [
        (replica["name"] or "-", toned(replica["role"]), replica["epoch"], format_size(replica["allocated_bytes"]))
        for replica in view["replicas"]
    ]
    frontends = [(one["name"], one["clients"], one["socket"], _exported(one)) for one in view["frontends"]]
    parts = [fields(pairs)]
    if copies:
        parts.append(table(("VOLUME", "ROLE", "EPOCH", "ALLOCATED"), copies))
    if frontends:
        parts.append(table(("FRONTEND", "CLIENTS", "SOCKET", "EXPORTED"), frontends))
    return "\n\n".join(parts)


def _exported(frontend: dict[str, Any]) -> str:
    remote = frontend["remote"]
    if remote is None:
        return "-"
    if remote["error"]:
        return f"not yet: {remote['error']}"
    return f"{remote['address']} to {', '.join(remote['clients'])} ({len(remote['connected'])} connected)"
