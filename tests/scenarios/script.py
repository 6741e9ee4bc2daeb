"""A scenario file: a title, what it is about, who takes part, what befalls them, and below the line what came of it.

    The primary's process dies
    ==========================

    Prose: what a reader should know.

        nodes         n1 n2 n3 n4
        copies        n1 n2 n3
        used on       n4

        at 0.5 s      n1 is killed
        at 3.0 s      the end

    What happens
    ------------

        (written by `python -m tests.scenarios --rewrite`)

The indented lines above "What happens" are the script. Times count from the moment at which the volume is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stoscore.units import MS, SECOND

GOLDEN = Path(__file__).parent / "golden"
HEADING = "What happens\n------------\n"
_SETTING = re.compile(r" {4}(?P<name>[a-z -]+?)(?: {2,}|: )(?P<value>\S.*)")
_STEP = re.compile(r" {4}at (?P<at>\d+\.\d+) s +(?P<what>\S.*)")


class BadScript(Exception):
    """A line that no scenario has."""


@dataclass(frozen=True, slots=True)
class Step:
    at_ns: int
    what: str


@dataclass(frozen=True, slots=True)
class Script:
    """`settings`: name -> value, as written."""

    name: str
    settings: dict[str, str]
    steps: tuple[Step, ...]

    @property
    def end_ns(self) -> int:
        return self.steps[-1].at_ns


def names() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.txt"))


def text(name: str) -> str:
    return (GOLDEN / f"{name}.txt").read_text()


def told(name: str) -> str:
    """What the file says that happens."""
    return text(name).partition(HEADING)[2].strip("\n")


def rewrite(name: str, happens: str) -> None:
    path = GOLDEN / f"{name}.txt"
    head = path.read_text().partition(HEADING)[0].rstrip("\n")
    path.write_text(f"{head}\n\n{HEADING}\n{happens}\n")


def read(name: str) -> Script:
    """Raises BadScript."""
    settings: dict[str, str] = {}
    steps: list[Step] = []
    for line in text(name).partition(HEADING)[0].splitlines():
        if not line.startswith("    "):
            continue
        if found := _STEP.fullmatch(line):
            steps.append(Step(int(float(found["at"]) * 1000) * MS, found["what"]))
        elif found := _SETTING.fullmatch(line):
            settings[found["name"].strip()] = found["value"]
        else:
            raise BadScript(f"{name}: can't read {line!r}")
    if not steps or steps[-1].what != "the end" or sorted(steps, key=lambda step: step.at_ns) != steps:
        raise BadScript(f"{name}: its steps rise and close with 'at N.N s  the end'")
    return Script(name, settings, tuple(steps))


def seconds(value: str) -> int:
    """ "1.5 s" in nanoseconds."""
    return int(float(value.removesuffix(" s")) * 1000) * SECOND // 1000
