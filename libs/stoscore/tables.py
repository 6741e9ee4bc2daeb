"""Text for terminals: aligned columns, and nothing that a name chosen by somebody else could do to a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def plain(text: object) -> str:
    """The text with everything unprintable written as an escape, on one line."""
    told = str(text)
    return told if told.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in told)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


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


def yaml(document: Any) -> str:
    """JSON's values as YAML blocks. Every string is quoted, so none is taken for a number, a date or "no"."""
    return "\n".join(_yaml(document, ""))


def _yaml(value: Any, indent: str) -> list[str]:
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            name = key if isinstance(key, str) and key.isidentifier() else json.dumps(str(key))
            lines += _nested(f"{indent}{name}:", item, indent)
        return lines
    if isinstance(value, list) and value:
        return [line for item in value for line in _nested(f"{indent}-", item, indent)]
    return [f"{indent}{json.dumps(value)}"]


def _nested(head: str, item: Any, indent: str) -> list[str]:
    if isinstance(item, dict | list) and item:
        return [head, *_yaml(item, indent + "  ")]
    return [f"{head} {json.dumps(item)}"]
