"""Progress of long work: a bar on a terminal's stderr, nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.cli.output import plain

Told = Callable[[str, float], None]
"""What is being done, and which share of all is done."""


@contextmanager
def progress() -> Iterator[Told]:
    """The bar is gone when the block ends. Without a terminal rich is not even imported."""
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # What is told may hold names that somebody else chose: it is no markup.
    what_column = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), what_column)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, completed=min(share, 1.0), description=plain(what))
