"""`stos support-bundle`: one archive with all that somebody needs who helps from afar, without secrets."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.bundle import Bundle
from services.cli.cluster import Directory, Session, find, run
from services.cli.events import since_ms
from services.cli.output import Format, Output, command_group, plain, write, write_as
from services.cli.progress import Told, progress
from stoscore.clusters import Access
from stoscore.errors import StosError
from stoscore.units import MIB, format_size

app = command_group()

EXIT_LACKING = 1
LOG_BYTES = 4 * MIB
"""of the end of each process's log"""
PART_S = 30.0


@app.command("support-bundle")
def support_bundle(
    file: Annotated[
        Path | None, typer.Argument(help="archive to make; it must not exist [default: stos-support-TIME.tar.gz]")
    ] = None,
    since: Annotated[str, typer.Option(help="events: 30s, 15m, 2h, 7d, or a time like 2030-01-31T12:00Z")] = "1d",
    traces: Annotated[int, typer.Option(min=0, max=1000, help="spans of the newest so many traces")] = 50,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Collect what is needed to help from afar: nodes, volumes and their records, events, traces, metrics, settings,
    versions, what `stos doctor` says; of an embedded cluster the ends of its logs as well.

    No data, no keys and no tokens get in: only what anybody who may look can ask for is collected, and what looks like
    a secret is taken out of it. Names of volumes, nodes and addresses are inside. Whoever does not answer is named in
    manifest.json and on stderr. Exits with 0 when everything is there, with 1 when something is missing.

    \b
      stos support-bundle
      stos support-bundle /tmp/ticket-4711.tar.gz --since 2h
      tar -xzOf ticket-4711.tar.gz --wildcards '*/manifest.json'
    """
    access = find(directory)
    since_unix_ms = since_ms(since, time.time())
    path = file or Path(f"stos-support-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz")
    with Bundle(path, _about(access)) as bundle, progress() as told:
        _local(bundle, access)
        try:
            run(directory, lambda session: _collect(session, bundle, since_unix_ms, traces, told), sampled=False)
        except StosError as error:
            bundle.lacks("everything that is asked for over NATS", str(error))
    if output is not Format.TABLE:
        write_as(output, {"name": str(path), "missing": bundle.missing, "files": bundle.files})
    else:
        for one in bundle.missing:
            sys.stderr.write(f"missing: {plain(one['what'])}: {plain(one['why'])}\n")
        redacted = sum(one["redacted"] for one in bundle.files)
        told_secrets = f", {redacted} possible secrets taken out" if redacted else ""
        write(f"{plain(path)}: {len(bundle.files)} files, {format_size(path.stat().st_size)}{told_secrets}")
    if bundle.missing:
        raise typer.Exit(EXIT_LACKING)


def _about(access: Access) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cluster": access.told,
        "stos": version("stos"),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def _local(bundle: Bundle, access: Access) -> None:
    """What an embedded cluster has on this machine; it is there when nothing answers any more."""
    if access.directory is None:
        return
    _file(bundle, "cluster.json", access.directory / "cluster.json")
    for log in sorted((access.directory / "logs").glob("*.log")):
        _file(bundle, f"logs/{log.name}", log)


def _file(bundle: Bundle, name: str, path: Path) -> None:
    try:
        with path.open("rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - LOG_BYTES))
            bundle.add(name, opened.read(LOG_BYTES).decode("utf-8", "replace"))
    except OSError as error:
        bundle.lacks(name, str(error))


async def _collect(session: Session, bundle: Bundle, since_unix_ms: int, traces: int, told: Told) -> None:
    """One part after the other; one that fails or hangs costs only itself."""
    import asyncio

    from services.cli.bundle_parts import parts

    work = parts(session, bundle, since_unix_ms, traces)
    for number, (what, gather) in enumerate(work.items()):
        told(what, number / len(work))
        try:
            async with asyncio.timeout(PART_S):
                await gather()
        except StosError as error:
            bundle.lacks(what, str(error))
        except TimeoutError:
            bundle.lacks(what, f"not answered within {PART_S:.0f} s")
