"""`stos dev`: an embedded cluster on this machine, and the demonstration that runs on one."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from services.dev.cluster import Cluster
from stoscore.errors import invalid
from stoscore.printing import Format, Output, command_group, table, write, write_as
from stoscore.tables import toned

DIRECTORY = Path(".stos/dev")
DEMO_DIRECTORY = Path(".demo")

app = command_group()


@app.callback()
def dev() -> None:
    """Run a cluster on this machine: real processes, certificates and NATS, all in one directory.

    \b
      stos dev up                start one in .stos/dev, or start that one again
      stos dev status            what runs, and where the logs are
      stos dev kill n1           see what its volumes do
      stos dev start n1
      stos dev stop              volumes and identities stay for the next `up`
    """


Dir = Annotated[Path, typer.Option("--dir", envvar="STOS_DIR", help="Directory of the cluster.")]
Name = Annotated[str, typer.Argument(help="A node (n1, app), a process (placement-1) or a service (placement).")]


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def up(
    directory: Dir = DIRECTORY,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", help="Nodes that hold copies: 3 for a new cluster.", show_default=False),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Start a cluster, or start this directory's cluster again. It stays up after the command.

    \b
      stos dev up
      stos dev up --nodes 5 --dir /tmp/five
    """
    cluster = Cluster(directory)
    started = cluster.up(nodes, _say)
    if output is not Format.TABLE:
        _write_status(_status(cluster), output)
        return
    typer.echo(f"{len(started.processes)} processes run in {cluster.layout.root}")
    typer.echo(f"nodes: {', '.join(started.nodes)}, and app without copies")
    if directory != DIRECTORY:
        typer.echo(f"for the stos command: export STOS_DIR={directory}")


@app.command()
def status(directory: Dir = DIRECTORY, output: Output = Format.TABLE) -> None:
    """Which processes run, and where their logs are.

    \b
      stos dev status
      stos dev status -o json
    """
    found = _status(Cluster(directory))
    if output is not Format.TABLE:
        _write_status(found, output)
        return
    rows = [
        (one["name"], toned("up" if one["alive"] else "down"), one["pid"] if one["alive"] else "-", one["log"])
        for one in found["processes"]
    ]
    write(table(("PROCESS", "STATE", "PID", "LOG"), rows))


@app.command()
def kill(
    name: Name,
    directory: Dir = DIRECTORY,
    number: Annotated[str, typer.Option("--signal", help="KILL, TERM, STOP, CONT, or a number.")] = "KILL",
) -> None:
    """Send a signal to a node or a service: SIGKILL if nothing else is said.

    \b
      stos dev kill n1
      stos dev kill placement --signal TERM
      stos dev kill n2 --signal STOP          it hangs, until --signal CONT
    """
    hit = Cluster(directory).kill(name, parse_signal(number))
    typer.echo(f"sent {parse_signal(number).name} to {', '.join(hit)}")


@app.command()
def start(name: Name, directory: Dir = DIRECTORY) -> None:
    """Start a node or a service that is down.

    \b
      stos dev start n1
    """
    started = Cluster(directory).start(name)
    typer.echo(f"started {', '.join(started)}" if started else f"{name} is running")


@app.command()
def stop(directory: Dir = DIRECTORY) -> None:
    """Stop every process of the cluster. Volumes and identities stay for the next `up`.

    \b
      stos dev stop
    """
    stubborn = Cluster(directory).stop(_say)
    if stubborn:
        _say(f"did not end by themselves: {', '.join(stubborn)}")
    typer.echo("stopped")


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the cluster, the logs and summary.json go.")
    ] = DEMO_DIRECTORY,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster's directory for a look.")] = False,
) -> None:
    """A volume is made through CSI, used, loses its primary twice, and is checked on disk.

    \b
      stos dev demo
      stos dev demo --dir /tmp/demo --keep
    """
    # The demo brings gRPC, the bus and the display with it; the other commands start faster without.
    from services.dev.demo.run import run

    held = run(directory, keep=keep)
    sys.stdout.flush()
    raise typer.Exit(0 if held else 1)


def parse_signal(text: str) -> signal.Signals:
    """KILL, SIGKILL, kill or 9. Raises StosError INVALID_ARGUMENT."""
    try:
        if text.isdecimal():
            return signal.Signals(int(text))
        return signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"]
    except (KeyError, ValueError):
        raise invalid(f"{text!r} is no signal", "write KILL, TERM, STOP, CONT or a number") from None


def _status(cluster: Cluster) -> dict[str, Any]:
    known = cluster.state()
    return {
        "dir": str(cluster.layout.root),
        "nodes": list(known.nodes),
        "ports": known.ports,
        "csi": {part: str(cluster.layout.csi_socket(part)) for part in ("controller", "node")},
        "processes": [asdict(process) for process in cluster.status()],
    }


def _write_status(found: dict[str, Any], output: Format) -> None:
    write_as(output, found, [process["name"] for process in found["processes"]])
