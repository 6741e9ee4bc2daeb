"""`python -m benchmarks.cli`: what looking costs in a large cluster, of nodes that only talk (`tests/support/feed.py`).

    python -m benchmarks.cli [--nodes 50] [--volumes 1000] [--times 7] [--out FILE]

Each figure is a whole command, from the start of its process to its end; for `stos top` it is one refresh: all that
is asked, answered and drawn within one interval. The nodes share the machine with the command, so a real cluster's
answers cost it less. Beside it stands the command's own CPU time, which says more where the machine is busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import ROOT
from benchmarks.running import run
from services.cli import cluster, rates, top
from services.cli.cluster import Session
from stoscore.clusters import Access
from tests.support.control_plane import ControlPlane
from tests.support.feed import Feed
from tests.support.feed_certs import Authority
from tests.support.feeds import large

PROGRAM = str(Path(sys.executable).parent / "stos")
OUT = ROOT / "benchmarks" / "results" / "cli.json"
AIMS_S = {"stos --help": 0.25, "stos volume ls": 0.7, "stos top (a refresh)": 1.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cli", description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--volumes", type=int, default=1000)
    parser.add_argument("--times", type=int, default=7, help="of each; the median counts")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    return run("bench-cli", lambda directory: _tell(_look(directory, given), given))


def _look(directory: Path, given: argparse.Namespace) -> dict[str, list[Took]]:
    plane = ControlPlane(directory)
    try:
        plane.start()
        with Feed(plane, *large(given.nodes, given.volumes), Authority("left")):
            return _measure(plane, given.times, given.volumes)
    finally:
        plane.stop()


def _tell(took: dict[str, list[Took]], given: argparse.Namespace) -> int:
    figures = {what: round(statistics.median(one.wall_s for one in each), 3) for what, each in took.items()}
    cpu = {what: round(statistics.median(one.cpu_s for one in each), 3) for what, each in took.items()}
    for what, median_s in figures.items():
        aim = f"  (at most {AIMS_S[what]:g} s)" if what in AIMS_S else ""
        print(f"{what.ljust(24)} {median_s:6.3f} s, {cpu[what]:6.3f} s of CPU{aim}")
    about = {"nodes": given.nodes, "volumes": given.volumes, "times": given.times, "median_s": figures, "cpu_s": cpu}
    given.out.write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    return int(any(figures[what] > aim_s for what, aim_s in AIMS_S.items()))


@dataclass(frozen=True, slots=True)
class Took:
    wall_s: float
    cpu_s: float


def _children_s() -> float:
    """CPU time of all processes that we started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure(plane: ControlPlane, times: int, volumes: int) -> dict[str, list[Took]]:
    identity = plane.identity("user", "looker").directory
    # PYTHON*: without its compiled files, as nobody has it installed, a command takes twice as long.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("STOS_", "PYTHON"))}
    environment = clean | {"STOS_NATS_URLS": ",".join(plane.nats_urls), "STOS_IDENTITY_DIR": str(identity)}

    def command(*arguments: str, lines: int = 1) -> Callable[[], Took]:
        def once() -> Took:
            began, used = time.monotonic(), _children_s()
            done = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True)
            took = Took(time.monotonic() - began, _children_s() - used)
            assert (done.stdout + done.stderr).count("\n") >= lines, done.stdout[:200]
            return took

        return once

    work = {
        "stos --help": command("--help"),
        "stos volume ls": command("volume", "ls", lines=volumes),
        "stos node ls": command("node", "ls"),
        "stos resync ls": command("resync", "ls"),
        "stos volume show": command("volume", "show", "pvc-00042"),
    }
    for once in work.values():
        once()
    took = {what: [once() for _ in range(times)] for what, once in work.items()}
    access = Access(tuple(plane.nats_urls), identity, "of nodes that only talk")
    return took | {"stos top (a refresh)": asyncio.run(_refreshes(access, times, volumes))}


async def _refreshes(access: Access, times: int, volumes: int) -> list[Took]:
    """As `stos top` does it, time after time on one connection."""
    took: list[Took] = []
    async with cluster.connect(access) as session:
        known: dict[str, int] = {}
        before = await top.look(session, known)
        for _ in range(times):
            took.append(await _refresh(session, known, before, volumes))
    return took


async def _refresh(session: Session, known: dict[str, int], before: tuple[float, top.Pages], volumes: int) -> Took:
    # The nodes have a thread of their own in this process.
    began, used = time.monotonic(), time.thread_time()
    now = await top.look(session, known)
    view = rates.busy(before[1], now[1], now[0] - before[0])
    text = top.drawn(view)
    assert len(view["volumes"]) == volumes and text
    return Took(time.monotonic() - began, time.thread_time() - used)


if __name__ == "__main__":
    sys.exit(main())
