"""What a person sees: a live picture on a terminal, plain lines everywhere else.

The picture is drawn four times a second by rich's own thread from what the scenario and the watch last left
here; it asks nobody anything, so looking does not slow down what is looked at.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.dev.demo.summary import Findings
from services.dev.demo.watch import Seen
from stoscore.units import BLOCK_BYTES, format_size

PLAIN_VARIABLE = "STOS_DEMO_PLAIN"
_REFRESH_PER_S = 4
_RATES_SHOWN = 40
_NOTES_SHOWN = 6
_BARS = " ▁▂▃▄▅▆▇█"
_ROLE_STYLE = {"primary": "bold green", "replica": "green", "catching-up": "yellow", "taking-over": "yellow"}


def plain_wanted(environment: Mapping[str, str], terminal: bool) -> bool:
    return not terminal or environment.get(PLAIN_VARIABLE, "") not in ("", "0")


@dataclass(slots=True)
class Scene:
    """What is shown. The scenario changes it, the view reads it."""

    nodes: tuple[str, ...] = ()
    down: set[str] = field(default_factory=set)
    seen: Mapping[str, Seen] = field(default_factory=dict)
    writes: Callable[[], int] = lambda: 0
    """How many NBD writes the recorder has completed so far."""
    errors: Callable[[], int] = lambda: 0
    copied_bytes: int = 0
    files_bytes: int = 0


class View(Protocol):
    """Where the scenario tells what it does."""

    scene: Scene

    def step(self, title: str) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self) -> None: ...


def open_view() -> View:
    """The one that fits where the output goes."""
    return PlainView() if plain_wanted(os.environ, sys.stdout.isatty()) else LiveView()


class PlainView:
    """One line for everything, with the seconds since the start."""

    def __init__(self) -> None:
        self.scene = Scene()
        self._started_s = time.monotonic()

    def step(self, title: str) -> None:
        self._print(f"== {title}")

    def say(self, line: str) -> None:
        self._print(f"   {line}")

    def close(self) -> None:
        sys.stdout.flush()

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._started_s:6.1f}s {text}", flush=True)


class LiveView:
    """The steps so far, the nodes with their roles, the write rate and what is catching up."""

    def __init__(self) -> None:
        self.scene = Scene()
        self._started_s = time.monotonic()
        self._steps: list[str] = []
        self._notes: deque[str] = deque(maxlen=_NOTES_SHOWN)
        self._rates: deque[float] = deque(maxlen=_RATES_SHOWN)
        self._last = (self._started_s, 0)
        self._live = Live(
            get_renderable=self._render,
            refresh_per_second=_REFRESH_PER_S,
            redirect_stderr=False,
            transient=True,
        )
        self._live.start()

    def step(self, title: str) -> None:
        self._steps.append(title)
        self._notes.clear()

    def say(self, line: str) -> None:
        self._notes.append(line)

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> Group:
        elapsed_s = time.monotonic() - self._started_s
        done: list[RenderableType] = [Text(f"  ✓ {title}", style="dim") for title in self._steps[:-1]]
        current: list[RenderableType] = [Text(f"  ▶ {title}", style="bold") for title in self._steps[-1:]]
        notes: list[RenderableType] = [Text(f"      {line}", style="cyan") for line in list(self._notes)]
        parts = [
            *done,
            *current,
            *notes,
            nodes_table(self.scene),
            self._rate_line(),
            *resync_lines(self.scene),
        ]
        return Group(Panel(Group(*parts), title=f"stos demo  {elapsed_s:.0f} s", border_style="blue"))

    def _rate_line(self) -> Text:
        now_s, count = time.monotonic(), self.scene.writes()
        before_s, before = self._last
        if now_s - before_s >= 1 / _REFRESH_PER_S:
            self._rates.append((count - before) / (now_s - before_s))
            self._last = (now_s, count)
        rate = self._rates[-1] if self._rates else 0.0
        line = f"  writes {rate:6.0f}/s {format_size(int(rate * BLOCK_BYTES))}/s  {sparkline(list(self._rates))}"
        if self.scene.files_bytes:
            line += f"  files {format_size(self.scene.copied_bytes)} of {format_size(self.scene.files_bytes)}"
        line += f"  I/O errors {self.scene.errors()}"
        return Text(line)


def sparkline(values: list[float]) -> str:
    """One character per value, scaled to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in values)


def nodes_table(scene: Scene) -> Table:
    """A row per node: whether it lives, and its role and epoch in each volume."""
    seen = dict(scene.seen)
    table = Table(box=None, padding=(0, 2))
    for title in ("node", "", *seen):
        table.add_column(title)
    for node in scene.nodes:
        state = Text("down", style="bold red") if node in scene.down else Text("up", style="green")
        table.add_row(node, state, *(_role(volume, node) for volume in seen.values()))
    return table


def _role(seen: Seen, node: str) -> Text:
    status = seen.statuses.get(node)
    if status is None:
        return Text("")
    in_sync = "" if node in seen.in_sync or seen.primary is None else " (behind)"
    return Text(f"{status.role} e{status.epoch}{in_sync}", style=_ROLE_STYLE.get(status.role, ""))


def resync_lines(scene: Scene) -> list[Text]:
    """A line per replica that is catching up, as its source tells."""
    lines = []
    for name, seen in dict(scene.seen).items():
        primary = seen.primary
        for resync in primary.resyncs if primary else ():
            text = f"  {name}: {resync.node} {resync.phase}, {format_size(resync.bytes_left)} left"
            lines.append(Text(f"{text}, {format_size(resync.bytes_sent)} sent", style="yellow"))
    return lines


def print_outcome(findings: Findings, console: Console | None = None) -> None:
    """The short table at the end: every check, whether it held, and what was found."""
    out = console or Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title="stos demo", box=None, padding=(0, 2))
    for title in ("", "check", "found"):
        table.add_column(title)
    for check in findings.checks:
        mark = Text("ok", style="green") if check.held else Text("FAILED", style="bold red")
        table.add_row(mark, check.what, check.found)
    out.print(table)
    out.print(Text("everything held" if findings.all_held else "NOT everything held", style="bold"))
