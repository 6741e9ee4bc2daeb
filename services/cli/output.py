"""How the commands report: results as `stoscore.printing` has it, errors on stderr with what to do next, both as JSON
with `-o json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from stoscore.errors import StosError
from stoscore.printing import (
    Format,
    Output,
    command_group,
    fields,
    has_colours,
    table,
    word,
    write,
    write_as,
)
from stoscore.tables import Tone, Toned, painted, plain, toned

__all__ = [
    "Format",
    "Output",
    "Tone",
    "Toned",
    "command_group",
    "fields",
    "has_colours",
    "plain",
    "report",
    "table",
    "toned",
    "wants_json",
    "word",
    "write",
    "write_as",
]


def report(error: StosError, *, as_json: bool) -> None:
    """Tell the error on stderr."""
    if as_json:
        sys.stderr.write(json.dumps({"error": error.to_wire()}) + "\n")
        return
    begins = painted("error:", Tone.BAD) if has_colours(sys.stderr) else "error:"
    sys.stderr.write(f"{begins} {plain(error.message)}\n")
    if error.next_step:
        sys.stderr.write(f"next: {plain(error.next_step)}\n")


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, known even when it could not be understood."""
    joined = " ".join(arguments)
    return any(form in f" {joined} " for form in (" -o json ", " -ojson ", " --output json ", " --output=json "))
