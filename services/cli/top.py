"""`stos top`: what the volumes and the nodes do right now, refreshed every second."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, command_group, table, write, write_as
from services.cli.screen import draw, screen

if TYPE_CHECKING:
    from stoscore.process_messages import MetricModel, MetricsPage

app = command_group()

PREFIXES = ["stos.volume.", "stos.node.", "stos.resync.remaining", "process.", "stos.loop.lag"]
Pages = Mapping[str, "list[MetricModel]"]


@app.command("top")
def top(
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="seconds between two looks")] = 1.0,
    times: Annotated[int, typer.Option(min=0, help="how often; 0: until Ctrl-C [default on a terminal]")] = 0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what volumes and nodes do now: requests and bytes a second, latency, copies in sync, CPU, loop lag.

    Without a terminal, or with -o json, it looks once; --times says otherwise.

    \b
      stos top
      stos top --every 5
      stos top --times 3 -o json
    """
    live = output is Format.TABLE and sys.stdout.isatty()
    looks = times or (0 if live else 1)
    run(directory, lambda session: _watch(session, every, looks, output, live=live), sampled=False)


async def _watch(session: Session, every_s: float, looks: int, output: Format, *, live: bool) -> None:
    from services.cli.rates import busy

    known: dict[str, int] = {}
    before = await look(session, known)
    with screen(live):
        number = 0
        while not looks or number < looks:
            await _until(before[0] + every_s)
            now = await look(session, known)
            view = busy(before[1], now[1], now[0] - before[0])
            if output is not Format.TABLE:
                write_as(output, view)
            else:
                draw(drawn(view)) if live else write(drawn(view))
            before = now
            number += 1


async def _until(moment_s: float) -> None:
    import asyncio

    await asyncio.sleep(max(0.0, moment_s - time.monotonic()))


async def look(session: Session, known: dict[str, int]) -> tuple[float, Pages]:
    """`known`: how many processes of each role answered before; that many are waited for."""
    from services.cli.asking import ask_all, of_each_role
    from stoscore.process_messages import MetricsPage, MetricsRequest

    samples: dict[str, list[MetricModel]] = {}
    after = 0
    while True:
        request = MetricsRequest(prefixes=PREFIXES, after=after)
        pages: dict[str, MetricsPage] = await ask_all(session.bus, "metrics", request, MetricsPage, known)
        for process, page in pages.items():
            samples.setdefault(process, []).extend(page.samples)
        if not any(page.next for page in pages.values()):
            break
        after = max(page.next for page in pages.values())
    known |= of_each_role(samples)
    return time.monotonic(), samples


def drawn(view: dict[str, Any]) -> str:
    from services.cli.rates import NODE_HEADINGS, VOLUME_HEADINGS, node_row, volume_row

    volumes = table(VOLUME_HEADINGS, [volume_row(one) for one in view["volumes"]])
    nodes = table(NODE_HEADINGS, [node_row(one) for one in view["nodes"]])
    return f"{nodes}\n\n{volumes}"
