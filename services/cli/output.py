"""What the commands print: tables for people, JSON for programs, errors that say what to do next.

Everything that somebody else chose (names, labels, messages from the bus) passes `plain`, so that no control
character reaches the terminal. Results go to stdout, errors to stderr, both as JSON with `-o json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from stoscore.errors import StosError


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("-o", "--output", help="table for people, json for programs")]


def plain(text: object) -> str:
    """The text with everything unprintable written as an escape, on one line."""
    return "".join(char if char.isprintable() else _escape(char) for char in str(text))


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def write(text: str) -> None:
    sys.stdout.write(text + "\n")


def write_json(document: Any) -> None:
    write(json.dumps(document, indent=2))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, as wide as they need: nothing is cut off, so that a line can be searched for."""
    cells = [list(headings), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def fields(pairs: Sequence[tuple[str, object]]) -> str:
    """One thing, one line per property."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {plain(value)}".rstrip() for name, value in pairs)


def report(error: StosError, *, as_json: bool) -> None:
    """Tell the error on stderr."""
    if as_json:
        sys.stderr.write(json.dumps({"error": error.to_wire()}) + "\n")
        return
    sys.stderr.write(f"error: {plain(error.message)}\n")
    if error.next_step:
        sys.stderr.write(f"next: {plain(error.next_step)}\n")


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, known even when it could not be understood."""
    joined = " ".join(arguments)
    return any(form in f" {joined} " for form in (" -o json ", " -ojson ", " --output json ", " --output=json "))
