"""`stos trace`: what happened, across all processes, from the spans that they keep themselves."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.cluster import TRACES, Directory, Session, run
from services.cli.events import since_ms
from services.cli.output import Format, Output, Tone, Toned, command_group, has_colours, plain, table, write, write_as
from stoscore.errors import invalid, not_found

if TYPE_CHECKING:
    from services.cli.waterfall import Told
    from stoscore.process_messages import TraceSummary

app = command_group()

SPANS_MAX = 100_000
LISTED_MAX = 1000


class Shape(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    HTML = "html"


@app.callback()
def trace() -> None:
    """See what happened, across all processes, without a collector: each process keeps its recent spans itself.

    \b
      stos trace ls --since 10m
      stos trace show 4bf92f
      stos trace show 4bf92f -o html > trace.html
    """


@app.command()
def ls(
    since: Annotated[str, typer.Option(help="such as 30s, 15m, 2h, 7d, or a time like 2030-01-31T12:00Z")] = "1h",
    name: Annotated[str, typer.Option(help="only traces whose first span has this in its name")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="only traces in which something failed")] = False,
    everything: Annotated[bool, typer.Option("--all", help="also what processes ask each other by themselves")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="the newest so many")] = 50,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """List recent traces, newest first: what somebody asked for, what volumes decided, what failed.

    \b
      stos trace ls
      stos trace ls --name csi. --since 1d
      stos trace ls --failed -o json
    """
    since_unix_ms = since_ms(since, time.time())
    found = run(directory, lambda session: summaries_of_all(session, since_unix_ms), sampled=False)
    wanted = [view for view in found if name in view["name"] and (view["errors"] or not failed)]
    views = [view for view in wanted if everything or name or not _is_upkeep(view)][:limit]
    if output is not Format.TABLE:
        write_as(output, views, [view["trace_id"] for view in views])
        return
    if not views:
        typer.echo(f"no such trace is kept; this looked back as far as --since {since}", err=True)
        return
    rows = [_row(view) for view in views]
    write(table(("TRACE", "START", "TOOK", "SPANS", "FAILED", "NAME"), rows))


@app.command()
def show(
    trace_id: Annotated[str, typer.Argument(help="id of the trace, or how it begins: at least four letters")],
    attributes: Annotated[bool, typer.Option("--attributes", "-a", help="with all attributes")] = False,
    directory: Directory = None,
    output: Annotated[
        Shape,
        typer.Option(
            "-o",
            "--output",
            help="table: a waterfall in the terminal, html: the same as a page, json or yaml: the spans, name: the id",
        ),
    ] = Shape.TABLE,
) -> None:
    """Draw one trace: in the terminal, or as one HTML page that needs nothing else.

    \b
      stos trace show 4bf92f
      stos trace show 4bf92f --attributes
      stos trace show 4bf92f -o html > trace.html
    """
    from services.cli.waterfall import arrange

    wanted = trace_id.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{4,32}", wanted):
        raise invalid(f"{trace_id!r} is no trace id", "see `stos trace ls`; logs and events have it as trace_id")
    told, silent = run(directory, lambda session: spans_of(session, wanted), sampled=False)
    ids = sorted({item.span.trace_id for item in told})
    if not ids:
        raise not_found(f"no process keeps spans of trace {wanted}", "see `stos trace ls`; old spans make room")
    if len(ids) > 1:
        raise invalid(f"{len(ids)} traces begin with {wanted}", f"write more of it: {', '.join(ids[:5])}")
    for process in silent:
        typer.echo(f"warning: {plain(process)} did not answer; its spans are missing", err=True)
    if output is Shape.HTML:
        from services.cli.trace_html import render

        write(render(arrange(told)).rstrip())
    elif output is not Shape.TABLE:
        spans = [document(item) for item in sorted(told, key=lambda item: item.span.start_ns)]
        write_as(Format(output), spans, ids)
    else:
        from services.cli.trace_text import draw

        width, colours = shutil.get_terminal_size().columns, has_colours(sys.stdout)
        write("\n".join(draw(arrange(told), width, attributes=attributes, colours=colours)))


async def summaries_of_all(session: Session, since_unix_ms: int) -> list[dict[str, Any]]:
    from services.cli.asking import ask_all
    from stoscore.observing import summaries
    from stoscore.process_messages import TracesPage, TracesRequest
    from stoscore.span_store import read

    pages = await ask_all(
        session.bus, "traces", TracesRequest(since_unix_ms=since_unix_ms, limit=LISTED_MAX), TracesPage
    )
    told = [page.traces for page in pages.values()]
    told.append(summaries(read(session.access.identity_dir / TRACES), since_unix_ms, LISTED_MAX))
    traces: dict[str, list[TraceSummary]] = {}
    for part in told:
        for summary in part:
            traces.setdefault(summary.trace_id, []).append(summary)
    views = [_view(trace_id, parts) for trace_id, parts in traces.items()]
    return sorted(views, key=lambda view: int(view["start_unix_ns"]), reverse=True)


async def spans_of(
    session: Session, wanted: str, known: Mapping[str, int] | None = None
) -> tuple[list[Told], list[str]]:
    """The spans, and the nodes that did not answer. `known`: as for `ask_all`."""
    from services.cli.asking import ask_all
    from services.cli.waterfall import Told
    from stoscore.process_messages import SpansPage, SpansRequest
    from stoscore.span_store import read
    from stoscore.spans import BadSpan, decode

    told: dict[tuple[str, str], Told] = {}
    for span in read(session.access.identity_dir / TRACES, wanted):
        if span.trace_id.startswith(wanted):
            told[span.trace_id, span.span_id] = Told(str(session.bus.me), span)
    after, answered = 0, set[str]()
    while len(told) < SPANS_MAX:
        pages = await ask_all(session.bus, "spans", SpansRequest(trace=wanted, after=after), SpansPage, known)
        answered |= pages.keys()
        for process, page in pages.items():
            for line in page.spans:
                with suppress(BadSpan):
                    span = decode(line)
                    told.setdefault((span.trace_id, span.span_id), Told(process, span))
        unfinished = [page.next for page in pages.values() if page.next > after]
        if not unfinished:
            break
        # What one process has told beyond it is told again, and known by its id.
        after = min(unfinished)
    nodes = {f"node/{entry.node}" for entry in await session.catalogue.nodes()}
    return list(told.values()), sorted(nodes - answered)


def _view(trace_id: str, parts: list[TraceSummary]) -> dict[str, Any]:
    """One trace, from what each process knows of it. The process that has the root knows its name and its time best."""
    rooted = next((part for part in parts if part.root), None)
    first = rooted or min(parts, key=lambda part: part.start_ns)
    start_ns = first.start_ns if rooted else min(part.start_ns for part in parts)
    return {
        "trace_id": trace_id,
        "name": first.root or first.first,
        "start_unix_ns": start_ns,
        "duration_ns": max(part.end_ns for part in parts) - start_ns,
        "spans": sum(part.spans for part in parts),
        "errors": sum(part.errors for part in parts),
        "processes": len(parts),
    }


def document(item: Told) -> dict[str, Any]:
    span = item.span
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "process": item.process,
        "kind": span.kind,
        "start_unix_ns": span.start_ns,
        "duration_ns": span.duration_ns,
        "error": span.error,
        "attributes": span.attributes,
        "links": [{"trace_id": link.trace_id, "span_id": link.span_id, "why": link.why} for link in span.links],
    }


def _row(view: dict[str, Any]) -> tuple[object, ...]:
    start, took = _moment(view["start_unix_ns"]), _took(view)
    failed = Toned(str(view["errors"]), Tone.BAD) if view["errors"] else 0
    return view["trace_id"][:16], start, took, view["spans"], failed, view["name"]


def _is_upkeep(view: dict[str, Any]) -> bool:
    """A question that a process asks of itself and that was answered: whom to trust, who is there."""
    return not view["errors"] and view["name"].partition(" ")[0] in ("request", "scatter", "serve")


def _moment(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).astimezone().strftime("%m-%d %H:%M:%S.%f")[:-3]


def _took(view: dict[str, Any]) -> str:
    from services.cli.waterfall import format_ns

    return format_ns(max(0, int(view["duration_ns"])))
