"""Text for terminals: aligned columns, and nothing that a name chosen by somebody else could do to a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_PAINT = re.compile("\x1b\\[[0-9;]*m")


class Tone(StrEnum):
    """What a word means for who reads it, and how a terminal says that (ECMA-48, SGR)."""

    GOOD = "32"
    WARNING = "33"
    BAD = "31"
    HEADING = "1"


@dataclass(frozen=True, slots=True)
class Toned:
    """A word with a tone. Where there are no colours it is the word."""

    word: str
    tone: Tone

    def __str__(self) -> str:
        return self.word


_TONES = {
    Tone.GOOD: ("healthy", "up", "ready", "ok", "valid"),
    Tone.WARNING: ("degraded", "creating", "deleting", "pending", "warn", "catching-up", "joining", "overdue"),
    Tone.BAD: ("unavailable", "damaged", "no answer", "lost", "fail", "failed", "down", "revoked", "denied"),
}
_TONE_OF = {word: tone for tone, words in _TONES.items() for word in words}


def toned(state: str) -> object:
    """A state in the colour that it has everywhere; one that is neither good nor bad has none."""
    return Toned(state, _TONE_OF[state]) if state in _TONE_OF else state


def painted(text: str, tone: Tone) -> str:
    return f"\x1b[{tone.value}m{text}\x1b[0m" if text else text


def cut(line: str, width: int) -> str:
    """The beginning of a line that may be painted, as wide as that."""
    if "\x1b" not in line:
        return line[:width]
    kept, left = "", width
    for part in re.split(f"({_PAINT.pattern})", line):
        told = part if _PAINT.fullmatch(part) else part[:left]
        left -= 0 if told.startswith("\x1b") else len(told)
        kept += told
    return kept


def plain(text: object) -> str:
    """The text with everything unprintable written as an escape, on one line."""
    told = str(text)
    return told if told.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in told)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, colours: bool = False) -> str:
    """Aligned columns, as wide as they need: nothing is cut off, so that a line can be searched for."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    heading = "  ".join(map(str.ljust, headings, widths)).rstrip()
    lines = [_line(row, told, widths, colours=colours) for row, told in zip(rows, cells, strict=True)]
    return "\n".join([painted(heading, Tone.HEADING) if colours else heading, *lines])


def _line(row: Sequence[object], told: Sequence[str], widths: Sequence[int], *, colours: bool) -> str:
    """Colours surround the word and not the blanks behind it."""
    cells = zip(row, told, widths, strict=True)
    return "  ".join(
        _shown(cell, text, colours=colours) + " " * (width - len(text)) for cell, text, width in cells
    ).rstrip()


def _shown(value: object, told: str, *, colours: bool) -> str:
    return painted(told, value.tone) if colours and isinstance(value, Toned) else told


def fields(pairs: Sequence[tuple[str, object]], *, colours: bool = False) -> str:
    """One thing, one line per property."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(
        f"{name.ljust(width)}  {_shown(value, plain(value), colours=colours)}".rstrip() for name, value in pairs
    )


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
