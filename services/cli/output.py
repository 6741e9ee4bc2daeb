"""How the commands report: results as `stoscore.printing` has it, errors on stderr with what to do next, both as JSON
with `-o json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from stoscore.errors import StosError
from stoscore.printing import Format, Output, write, write_as, write_json
from stoscore.tables import fields, plain, table

__all__ = ["Format", "Output", "fields", "plain", "report", "table", "wants_json", "write", "write_as", "write_json"]


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
