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
from stoscore.tables import fields, plain, table, yaml

__all__ = ["Format", "Output", "fields", "plain", "report", "table", "wants_json", "write", "write_as", "write_json"]

NAMES = ("name", "node", "trace_id", "check", "volume", "kind")
"""What names a thing, the first that it has."""


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Output = Annotated[
    Format, typer.Option("-o", "--output", help="table for people, json or yaml for programs, name for pipes")
]


def write(text: str) -> None:
    sys.stdout.write(text + "\n")


def write_json(document: Any) -> None:
    write(json.dumps(document, indent=2))


def write_as(output: Format, document: Any) -> None:
    """For programs, in the form that was asked for; `name` is one name a line."""
    if output is Format.YAML:
        write(yaml(document))
    elif output is Format.NAME:
        rows = document if isinstance(document, list) else [document]
        for row in rows:
            write(plain(next((row[key] for key in NAMES if row.get(key)), "") if isinstance(row, dict) else row))
    else:
        write_json(document)


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
