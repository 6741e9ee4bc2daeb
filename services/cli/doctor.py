"""`stos doctor`: looks at a cluster as an expert would, and says what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, command_group, plain, word, write, write_as
from stoscore.errors import StosError

if TYPE_CHECKING:
    from services.cli.checks import Facts, Finding, Process
    from stoscore.certs_messages import IdentityPage
    from stoscore.process_messages import MetricsPage

app = command_group()
T = TypeVar("T")

EXIT_FAILED = 1
"""Something is wrong now; what is only worth a look exits with 0."""
PREFIXES = ["stos.build", "stos.process", "stos.bus", "stos.certificate", "stos.trust", "stos.node", "stos.store"]
PREFIXES += ["stos.loop", "stos.checksum", "stos.attacher", "stos.mount"]


@app.command("doctor")
def doctor(
    everything: Annotated[bool, typer.Option("--all", help="tell what is fine as well")] = False,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Look at the whole cluster: who answers, clocks, NATS, certificates, disks, links, volumes, mounts.

    Exits with 0 when nothing is wrong now, with 1 when something is; each finding says what to do.

    \b
      stos doctor
      stos doctor --all
      stos doctor -o json
    """
    from services.cli.checks import Level, examine

    found = examine(run(directory, gather, sampled=False))
    shown = [finding for finding in found if everything or finding.level is not Level.OK]
    failed = sum(finding.level is Level.FAIL for finding in found)
    if output is not Format.TABLE:
        write_as(output, [asdict(finding) for finding in shown])
    else:
        for finding in shown:
            write(_line(finding))
        warned = sum(finding.level is Level.WARN for finding in found)
        write(f"{failed} wrong, {warned} worth a look, {len(found) - failed - warned} fine")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _line(finding: Finding) -> str:
    about = f" {plain(finding.about)}" if finding.about else ""
    level = word(finding.level.value) + " " * (4 - len(finding.level.value))
    line = f"{level}  {finding.check}{about}: {plain(finding.told)}"
    return f"{line}\n      next: {plain(finding.next_step)}" if finding.next_step else line


async def gather(session: Session) -> Facts:
    """Everything is asked at once; what can't be had is a finding and no end."""
    from services.cli import views
    from services.cli.asking import ask_all
    from services.cli.checks import Facts
    from services.cli.roster import call_roll
    from stoscore import subjects
    from stoscore.certs_messages import IdentityPage, ListIdentities
    from stoscore.messages import NodeStatus
    from stoscore.process_messages import MetricsPage, MetricsRequest

    bus, problems = session.bus, list[str]()
    nodes = await _or(session.catalogue.nodes(), [], "the nodes' addresses", problems)
    asked_s = time.time()
    roll, pages, volumes, identities = await asyncio.gather(
        call_roll(bus, nodes),
        _or(ask_all(bus, "metrics", MetricsRequest(prefixes=PREFIXES), MetricsPage), {}, "the metrics", problems),
        _or(session.volumes.list(), [], "the volumes", problems),
        _or(bus.request(subjects.certs("ls"), ListIdentities(), IdentityPage), None, "the identities", problems),
    )
    known = [f"node/{entry.node}" for entry in nodes]
    return Facts(
        nodes=tuple(nodes),
        statuses={node: status for node, status in roll.items() if isinstance(status, NodeStatus)},
        silent={node: status.message for node, status in roll.items() if isinstance(status, StosError)},
        processes=tuple(_process(page, asked_s, time.time()) for _, page in sorted(pages.items())),
        volumes=tuple(views.volume(entry, status) for entry, status in volumes),
        authority=identities.authority if identities is not None else None,
        overdue=_overdue(identities, known),
        problems=tuple(problems),
    )


async def _or(work: Awaitable[T], otherwise: Any, what: str, problems: list[str]) -> T:
    try:
        return await work
    except StosError as error:
        problems.append(f"{what} can't be asked for: {error.message}")
        return otherwise  # type: ignore[no-any-return]


def _process(page: MetricsPage, asked_s: float, answered_s: float) -> Process:
    """Its clock was read at some moment between our question and now: what lies outside is a difference."""
    from services.cli.checks import Process

    its_s = page.at_unix_ns / 1e9
    apart_s = its_s - answered_s if its_s > answered_s else min(0.0, its_s - asked_s)
    return Process(page.process, tuple(page.samples), apart_s)


def _overdue(page: IdentityPage | None, known: list[str]) -> tuple[str, ...]:
    if page is None:
        return ()
    names = [(f"{one.kind}/{one.name}", one.state) for one in page.identities]
    return tuple(name for name, state in names if state == "overdue" and (name in known or name.startswith("svc/")))
