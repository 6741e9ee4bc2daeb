"""`stos events`: what was done, refused and decided, by whom and why."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, command_group, plain, write, write_as
from stoscore.errors import invalid
from stoscore.units import MS

app = command_group()

SEEN_MAX = 4096
"""Events of the past that are remembered, so that one that is told live at the same time is shown once."""
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)


class Kind(StrEnum):
    AUDIT = "audit"
    DECISION = "decision"


@app.command("events")
def events(
    kind: Annotated[Kind | None, typer.Option(help="only these [default: both]")] = None,
    since: Annotated[str, typer.Option(help="such as 30s, 15m, 2h, 7d, or a time like 2030-01-31T12:00Z")] = "1h",
    reporter: Annotated[str, typer.Option(help="only what this node says, or svc:NAME")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what happens from now on")] = False,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Show events: audit (privileged acts and refusals) and the decisions of the volumes' brains, oldest first.

    What a decision rested on is in -o json; `stos volume why` tells one volume's as a story.

    \b
      stos events --since 15m
      stos events --kind audit --follow
      stos events --kind decision --reporter n1 -o json
    """
    since_unix_ms = since_ms(since, time.time())
    kinds = [kind] if kind else list(Kind)

    async def work(session: Session) -> None:
        live = await _listen(session, kinds, reporter) if follow else None
        kept = await past(session, kinds, since_unix_ms, reporter)
        if live is None:
            _show_all(kept, output)
            if not kept and output is Format.TABLE:
                typer.echo(f"nothing is known; this looked back as far as --since {since}", err=True)
            return
        for event in kept:
            _show(event, output)
        seen = {(event["reporter"], event["body"]) for event in kept[-SEEN_MAX:]}
        while True:
            event = await live.get()
            if (event["reporter"], event["body"]) not in seen:
                _show(event, output)

    run(directory, work)


def since_ms(text: str, now_s: float) -> int:
    """Unix milliseconds. Raises StosError INVALID_ARGUMENT."""
    match = _DURATION.fullmatch(text)
    if match:
        return max(0, int((now_s - int(match[1]) * _UNIT_S[match[2]]) * 1000))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"{text!r} is no time", "write 30s, 15m, 2h, 7d, or a time like 2030-01-31T12:00Z") from None
    return int((moment if moment.tzinfo else moment.astimezone()).timestamp() * 1000)


async def past(session: Session, kinds: list[Kind], since_unix_ms: int, reporter: str) -> list[dict[str, Any]]:
    from stoscore import history

    found = [
        _event(kept.at_unix_ms, kind.value, kept.reporter, kept.body)
        for kind in kinds
        async for kept in history.read(session.bus, kind.value, since_unix_ms=since_unix_ms, reporter=reporter)
    ]
    return sorted(found, key=lambda event: int(event["at_unix_ms"]))


async def _listen(session: Session, kinds: list[Kind], reporter: str) -> asyncio.Queue[dict[str, Any]]:
    from stoscore.subjects import EVENTS

    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    wanted = {kind.value for kind in kinds}

    def arrived(subject: str, data: bytes, headers: dict[str, str]) -> None:
        said_by, _, kind = subject.removeprefix(f"{EVENTS}.").rpartition(".")
        if kind in wanted and reporter in ("", said_by):
            heard.put_nowait(_event(time.time_ns() // MS, kind, said_by, data.decode("utf-8", "replace")))

    await session.bus.subscribe(f"{EVENTS}.>", arrived)
    return heard


def _event(at_unix_ms: int, kind: str, reporter: str, body: str) -> dict[str, Any]:
    return {"at_unix_ms": at_unix_ms, "kind": kind, "reporter": reporter, "body": body}


def _show_all(found: list[dict[str, Any]], output: Format) -> None:
    if output is not Format.TABLE:
        write_as(output, [document(event) for event in found])
        return
    for event in found:
        write(_line(event))


def _show(event: dict[str, Any], output: Format) -> None:
    """One line an event; as a document of its own in YAML."""
    if output is Format.YAML:
        write("---")
        write_as(output, document(event))
    else:
        write(_line(event) if output is Format.TABLE else json.dumps(document(event)))
    sys.stdout.flush()


def _content(event: dict[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(event["body"])
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {"unreadable": event["body"][:200]}


def document(event: dict[str, Any]) -> dict[str, Any]:
    """As it was told; `reporter` and `at_unix_ms` are the server's word, not the event's own."""
    own = {key: value for key, value in _content(event).items() if key != "v"}
    return {**own, "kind": event["kind"], "reporter": event["reporter"], "at_unix_ms": event["at_unix_ms"]} | (
        {"decision": own["kind"]} if "kind" in own else {}
    )


def _line(event: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(event["at_unix_ms"] / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    content = _content(event)
    if event["kind"] == Kind.AUDIT:
        words = [content.get("who"), content.get("outcome"), content.get("action"), content.get("target")]
        count = content.get("count", 1)
        words += [f"×{count}"] if count != 1 else []
    else:
        words = [content.get("name") or content.get("volume"), content.get("kind"), content.get("outcome")]
    told = " ".join(str(word) for word in words if word not in (None, ""))
    reason = content.get("reason") or content.get("unreadable") or ""
    return plain(f"{moment}  {event['reporter']:14} {told}{f': {reason}' if reason else ''}")
