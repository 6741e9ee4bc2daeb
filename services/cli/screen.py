"""What changes while somebody watches: a terminal is drawn over, anything else gets each new state after the other."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.cluster import Session, run
from services.cli.output import Format, write, write_as
from stoscore.errors import Code, StosError
from stoscore.tables import cut, plain

_CLEAR, _HOME, _END_LINE, _END_SCREEN = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_PASSING = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.NOT_PRIMARY, Code.ABORTED)
"""What may be otherwise at the next look."""

Watch = Annotated[bool, typer.Option("--watch", "-w", help="look again and again, until Ctrl-C")]
Every = Annotated[float, typer.Option("--every", min=0.2, max=3600, help="seconds between two looks of --watch")]
EVERY_S = 2.0
Look = Callable[[Session], Awaitable[Any]]


def tell(
    directory: Path | None,
    look: Look,
    text: Callable[[Any], str],
    output: Format,
    *,
    watch: bool = False,
    every_s: float = EVERY_S,
    sampled: bool = True,
    nothing: str = "",
) -> None:
    """Looks at the cluster and tells the document: as `text` for people. With `watch` until Ctrl-C, and then without
    leaving traces. `nothing`: what people are told, beside the result, when there is nothing to list."""
    if not watch:
        document = run(directory, look, sampled=sampled)
        if output is not Format.TABLE:
            write_as(output, document)
        elif nothing and not document:
            typer.echo(nothing, err=True)
        else:
            write(text(document))
        return
    run(directory, lambda session: _watch(session, look, text, output, every_s), sampled=False)


async def _watch(session: Session, look: Look, text: Callable[[Any], str], output: Format, every_s: float) -> None:
    live = output is Format.TABLE and sys.stdout.isatty()
    before: Any = None
    with screen(live):
        while True:
            began_s = time.monotonic()
            document, problem = await _once(session, look, before)
            if live:
                draw((f"{plain(problem)}\n\n" if problem else "") + (text(document) if document is not None else ""))
            elif problem:
                typer.echo(f"warning: {plain(problem)}", err=True)
            elif document != before:
                _append(document, text, output)
            before = document
            await asyncio.sleep(max(0.0, began_s + every_s - time.monotonic()))


async def _once(session: Session, look: Look, before: Any) -> tuple[Any, str]:
    """A cluster that is away for a moment ends no watch: what was last seen stays, and why there is nothing newer."""
    try:
        return await look(session), ""
    except StosError as error:
        if error.code not in _PASSING:
            raise
        return before, f"{time.strftime('%H:%M:%S')} {error}"


def _append(document: Any, text: Callable[[Any], str], output: Format) -> None:
    """A pipe's reader sees it now, and where one state ends."""
    if output is Format.YAML:
        write("---")
    write(text(document) + "\n") if output is Format.TABLE else write_as(output, document)
    sys.stdout.flush()


@contextmanager
def screen(live: bool) -> Iterator[None]:
    """The cursor comes back whatever happens."""
    if live:
        sys.stdout.write(_HIDE + _CLEAR)
    try:
        yield
    finally:
        if live:
            sys.stdout.write(_SHOW + "\n")
            sys.stdout.flush()


def draw(text: str) -> None:
    """As much as the terminal shows, over what was there."""
    size = shutil.get_terminal_size()
    lines = [cut(line, size.columns) for line in text.splitlines()][: size.lines - 1]
    sys.stdout.write(_HOME + "".join(f"{line}{_END_LINE}\n" for line in lines) + _END_SCREEN)
    sys.stdout.flush()
