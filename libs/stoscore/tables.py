"""Text for terminals: aligned columns, and nothing that a name chosen by somebody else could do to a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def plain(text: object) -> str:
    """The text with everything unprintable written as an escape, on one line."""
    return "".join(char if char.isprintable() else _escape(char) for char in str(text))


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
