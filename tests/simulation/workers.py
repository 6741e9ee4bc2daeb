"""Seeds over several processes, and nobody waits for ever: a process that dies, raises or does not end is named with
the seed that it was at.

A `multiprocessing.Pool` promises none of that. An answer that can't be read back ends the thread that reads answers, a
process that dies takes its seed with it, and both leave whoever wants the results waiting.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
CPU_S = 120
"""Of one seed, which takes about one second. Whoever needs more is in a loop, is killed, and says where he was."""
FORK = multiprocessing.get_context("fork")
"""A worker inherits what is patched while it is made."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A seed that nothing was found out about: its process did not live to say it, or raised."""

    seed: int
    why: str


class Worker(Generic[T]):
    """One process, and its seed."""

    def __init__(self, judge: Callable[[int], T], cpu_s: int, others: Iterable[Worker[T]]):
        self._pipe, theirs = FORK.Pipe()
        inherited = [self._pipe, *(other._pipe for other in others)]
        self._process = FORK.Process(target=_serve, args=(theirs, judge, cpu_s, inherited), daemon=True)
        self._process.start()
        theirs.close()
        self.seed = 0

    def fileno(self) -> int:
        return self._pipe.fileno()

    def judge(self, seed: int) -> None:
        self.seed = seed
        self._pipe.send(seed)

    def found(self) -> T | Failed:
        """Raises EOFError when the process is dead."""
        fine, found = self._pipe.recv()
        return found if fine else Failed(self.seed, found)

    def died(self) -> Failed:
        self._process.join()
        code = self._process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return Failed(self.seed, f"its process {how}")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Workers(Generic[T]):
    """They are there from the beginning, and end with the context."""

    def __init__(self, judge: Callable[[int], T], jobs: int, *, cpu_s: int = CPU_S):
        self._judge = judge
        self._cpu_s = cpu_s
        self._idle: list[Worker[T]] = []
        self._busy: list[Worker[T]] = []
        for _ in range(jobs):
            self._idle.append(self._new())

    def _new(self) -> Worker[T]:
        return Worker(self._judge, self._cpu_s, [*self._idle, *self._busy])

    def __enter__(self) -> Workers[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in (*self._idle, *self._busy):
            worker.end()

    def results(self, seeds: Iterable[int]) -> Iterator[T | Failed]:
        """What was found out about each, in no particular order."""
        left = iter(seeds)
        while True:
            while self._idle and (seed := next(left, None)) is not None:
                worker = self._idle.pop()
                self._busy.append(worker)
                worker.judge(seed)
            if not self._busy:
                return
            for worker in _ready(self._busy):
                self._busy.remove(worker)
                try:
                    found = worker.found()
                except EOFError:
                    found = worker.died()
                    worker.end()
                    worker = self._new()
                self._idle.append(worker)
                yield found


def _ready(busy: list[Worker[T]]) -> list[Worker[T]]:
    ready = wait(busy)
    return [worker for worker in busy if worker in ready]


def _serve(pipe: Connection, judge: Callable[[int], T], cpu_s: int, inherited: list[Connection]) -> None:
    for other in inherited:
        other.close()  # or nobody would notice that the process that asks is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.register(signal.SIGXCPU, file=2, chain=True)
    gc.freeze()  # what was there before stays: nobody looks for garbage in it
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    while True:
        try:
            seed = pipe.recv()
        except EOFError:
            return
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + cpu_s, most))
        try:
            answer = True, judge(seed)
        except Exception:
            answer = False, traceback.format_exc()
        pipe.send(answer)
