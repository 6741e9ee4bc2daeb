"""Many seeds over several processes: what each did, what all of them reached, and how long the rest will take."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.coverage import Coverage
from tests.simulation.shrink import shrink, told
from tests.simulation.workers import Failed, Workers
from tests.simulation.world import Violation, World

TELL_EVERY_S = 15.0
"""Between two lines of progress where there is no terminal to draw on."""
STORY_CPU_S = 300


@dataclass(frozen=True, slots=True)
class Result:
    """One seed. `violation`: what was wrong, or ""."""

    seed: int
    violation: str
    operations: int
    writes: int
    reads: int
    flushes: int
    elections: int
    faults: int
    cpu_s: float
    coverage: Coverage
    undecided: bool = False
    """A volume was set aside in the end, because nobody but an operator could decide (S3)."""


def run_seed(seed: int) -> Result:
    """A seed's garbage is a few megabytes. Looking for it while it lives takes a tenth of the time; when the seed is
    done it is all that was made since, and none of it lives."""
    gc.disable()
    try:
        result = _run_seed(seed)
        gc.collect(0)
        return result
    finally:
        gc.enable()


def _run_seed(seed: int) -> Result:
    started = time.process_time()
    world, violation = World(seed), ""
    try:
        world.run()
    except Violation as found:
        violation = found.what
    registers, checker = world.registers, world.checker
    return Result(
        seed,
        violation,
        world.operations,
        registers.writes,
        registers.reads,
        registers.flushes,
        checker.elections,
        len(world.plan.faults),
        time.process_time() - started,
        world.coverage,
        bool(world.undecided),
    )


@dataclass(slots=True)
class Total:
    """What all seeds together did."""

    seeds: int = 0
    operations: int = 0
    elections: int = 0
    cpu_s: float = 0.0
    violations: list[Result] = field(default_factory=list)
    undecided: list[int] = field(default_factory=list)
    """Seeds."""
    coverage: Coverage = field(default_factory=Coverage)

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.operations += result.operations
        self.elections += result.elections
        self.cpu_s += result.cpu_s
        self.coverage.add(result.coverage)
        if result.violation:
            self.violations.append(result)
        if result.undecided:
            self.undecided.append(result.seed)

    def merge(self, other: Total) -> None:
        self.seeds += other.seeds
        self.operations += other.operations
        self.elections += other.elections
        self.cpu_s += other.cpu_s
        self.violations += other.violations
        self.undecided += other.undecided
        self.coverage.add(other.coverage)


def jobs_default() -> int:
    return min(len(os.sched_getaffinity(0)), 8)


def results(seeds: Sequence[int], jobs: int) -> Iterator[Result]:
    """In no particular order."""
    with Workers(run_seed, jobs) as workers:
        for found in workers.results(seeds):
            yield _nothing(found) if isinstance(found, Failed) else found


def _nothing(failed: Failed) -> Result:
    return Result(failed.seed, failed.why, 0, 0, 0, 0, 0, 0, 0.0, Coverage())


def story(seed: int, length: int = 60) -> str:
    """What goes wrong with it, as small as it gets. In a process of its own, for it may be that it does not end."""
    with Workers(lambda seed: _story(seed, length), 1, cpu_s=STORY_CPU_S) as workers:
        (found,) = workers.results([seed])
    return f"seed {seed}: {found.why}" if isinstance(found, Failed) else found


def _story(seed: int, length: int) -> str:
    try:
        World(seed).run()
    except Violation as violation:
        return told(shrink(violation), length)
    return f"seed {seed} went well this time"


def run(seeds: Sequence[int], jobs: int, *, keep_going: bool) -> Total:
    """With progress on the terminal, or now and then a line without one."""
    total = Total()
    for result in shown(results(seeds, jobs), len(seeds), total):
        total.add(result)
        if result.violation and not keep_going:
            break
    return total


def shown(found: Iterable[Result], count: int, total: Total) -> Iterator[Result]:
    if sys.stdout.isatty():
        yield from _drawn(found, count, total)
    else:
        yield from _told(found, count, total)


def _drawn(found: Iterable[Result], count: int, total: Total) -> Iterator[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("seeds", total=count)
        for result in found:
            yield result
            progress.update(task, advance=1, description=_standing(total))


def _told(found: Iterable[Result], count: int, total: Total) -> Iterator[Result]:
    started = told = time.monotonic()
    for result in found:
        yield result
        if result.violation:
            print(f"VIOLATION with seed {result.seed}: {result.violation}", flush=True)
        now = time.monotonic()
        if now - told >= TELL_EVERY_S:
            told = now
            left_s = (now - started) / total.seeds * (count - total.seeds)
            print(f"{total.seeds} of {count} {_standing(total)}, {_duration(left_s)} left", flush=True)


def _standing(total: Total) -> str:
    wrong = len(total.violations)
    return f"seeds, {wrong} violation{'' if wrong == 1 else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
