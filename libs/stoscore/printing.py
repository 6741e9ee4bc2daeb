"""What the commands print: text for people, JSON or YAML for programs, names alone for pipes.

Everything that somebody else chose (names, labels, messages from the bus) passes `plain`, so that no control
character reaches the terminal. Results go to stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from stoscore.tables import plain, yaml

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


def write_as(output: Format, document: Any, names: Sequence[str] | None = None) -> None:
    """For programs, in the form that was asked for. `name` is one name a line; `names` says them where the document
    does not."""
    if output is Format.YAML:
        write(yaml(document))
    elif output is Format.NAME:
        for name in _names(document) if names is None else names:
            write(plain(name))
    else:
        write_json(document)


def _names(document: Any) -> list[str]:
    rows = document if isinstance(document, list) else [document]
    return [
        str(next((row[key] for key in NAMES if row.get(key)), "")) if isinstance(row, dict) else str(row)
        for row in rows
    ]
