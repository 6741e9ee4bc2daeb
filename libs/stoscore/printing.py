"""What the commands print: text for people, JSON or YAML for programs, names alone for pipes.

Everything that somebody else chose (names, labels, messages from the bus) passes `plain`, so that no control
character reaches the terminal. Results go to stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from stoscore import tables
from stoscore.tables import Toned, painted, plain, toned, yaml

NAMES = ("name", "node", "trace_id", "check", "volume", "kind")
"""What names a thing, the first that it has."""
SENTENCE_MAX = 400
"""Characters, in the list of a group's commands."""


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Output = Annotated[
    Format, typer.Option("-o", "--output", help="table for people, json or yaml for programs, name for pipes")
]


class CommandGroup(TyperGroup):
    """Its help says each command's whole first sentence, on as many lines as it takes: half of one says nothing."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(SENTENCE_MAX)) for name, command in found if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def command_group() -> typer.Typer:
    """Where the commands of one service are registered. All of them look alike, and none imports rich for its help."""
    return typer.Typer(cls=CommandGroup, rich_markup_mode=None, add_completion=False, no_args_is_help=True)


def has_colours(stream: TextIO) -> bool:
    """A terminal has, unless its user does not want them (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tables.table(headings, rows, colours=has_colours(sys.stdout))


def fields(pairs: Sequence[tuple[str, object]]) -> str:
    return tables.fields(pairs, colours=has_colours(sys.stdout))


def word(state: str) -> str:
    """For what is no table."""
    tone = toned(state)
    return painted(state, tone.tone) if isinstance(tone, Toned) and has_colours(sys.stdout) else state


def write(text: str) -> None:
    sys.stdout.write(text + "\n")


def write_as(output: Format, document: Any, names: Sequence[str] | None = None) -> None:
    """For programs, in the form that was asked for. `name` is one name a line; `names` says them where the document
    does not."""
    if output is Format.YAML:
        write(yaml(document))
    elif output is Format.NAME:
        for name in _names(document) if names is None else names:
            write(plain(name))
    else:
        write(json.dumps(document, indent=2))


def _names(document: Any) -> list[str]:
    rows = document if isinstance(document, list) else [document]
    return [
        str(next((row[key] for key in NAMES if row.get(key)), "")) if isinstance(row, dict) else str(row)
        for row in rows
    ]
