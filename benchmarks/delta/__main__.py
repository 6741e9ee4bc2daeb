"""`make bench-delta`: what the return of a copy costs, on the wire and in time, beside what it missed.

    python -m benchmarks.delta [--case map tree power nothing one foreground big storm estimate] [--out DIR]

Three nodes with copies of a full volume of 1 GiB and one with the application, TLS on; some cases have volumes of their
own. Bytes are the kernel's counters of the peer links' sockets; after each case all copies are read from disk, every
checksum computed from the data.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.contenders import ROOT
from benchmarks.delta import figures
from benchmarks.delta.arena import Arena, open_arena
from benchmarks.delta.cases import CASES, MISSED_BLOCKS, Cost
from benchmarks.delta.disk import disk_seconds
from benchmarks.delta.estimates import BUDGET_MIB_S, RUNS, estimate
from benchmarks.delta.foreground import foreground
from benchmarks.delta.large import big, one, room_for_big
from benchmarks.delta.link import link_seconds
from benchmarks.delta.storm import storm
from benchmarks.running import plotted, run
from stoscore.errors import StosError
from stoscore.units import GIB, MIB

OUT = ROOT / "benchmarks" / "results"
DISK_BYTES = 8 * GIB
ALONE: dict[str, Callable[[Path, argparse.Namespace], Awaitable[tuple[Cost, float, list[figures.Bound]]]]] = {
    "storm": lambda directory, options: storm(directory),
    "estimate": lambda directory, options: estimate(directory, options.runs, options.budget),
}
"""In a cluster of their own, whose nodes have a recovery budget."""


def main(arguments: Sequence[str]) -> int:
    """0 when every bound held; 1 when one did not, or a case failed; 2 when it can't run here."""
    options = _options(arguments)
    free = shutil.disk_usage(options.dir or tempfile.gettempdir()).free
    if free < DISK_BYTES:
        print(f"bench-delta: {free >> 30} GiB are free and {DISK_BYTES >> 30} GiB are needed", file=sys.stderr)
        return 2
    return run("bench-delta", lambda directory: asyncio.run(_measure(directory / "cluster", options)), options.dir)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-delta", description="Take a copy away, and bring it back.")
    names = [*CASES, "one", "foreground", "big", *ALONE]
    parser.add_argument(
        "--case", "--cases", dest="cases", nargs="+", choices=names, default=names, help="which, in this order"
    )
    parser.add_argument("--runs", type=int, default=RUNS, help=f"returns of the case estimate [{RUNS}]")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_MIB_S, help=f"its nodes' MiB a second [{BUDGET_MIB_S:g}]"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="directory for delta.json, .csv and .png")
    parser.add_argument("--dir", type=Path, help=f"where the cluster is kept meanwhile; {DISK_BYTES >> 30} GiB")
    return parser.parse_args(arguments)


async def _measure(directory: Path, options: argparse.Namespace) -> int:
    results: list[figures.Result] = []
    failed = ""
    wanted = list(options.cases)
    if "big" in wanted and (why := room_for_big(directory.parent)):
        print(f"bench-delta: big is left out: {why}", file=sys.stderr)
        wanted.remove("big")

    def tell(result: figures.Result) -> None:
        results.append(result)
        print(figures.table(results[-1:]), file=sys.stderr, flush=True)

    together = [case for case in wanted if case not in ALONE]
    try:
        if together:
            async with open_arena(directory, size_bytes=MIB if together == ["one"] else GIB) as arena:
                for case in together:
                    tell(await _one(arena, case))
        for case in (case for case in wanted if case in ALONE):
            tell(figures.row(*await ALONE[case](directory, options)))
    except (StosError, TimeoutError) as error:
        failed = str(error)  # what was measured until then is worth keeping
    if results:
        figures.save(options.out, results)
        plotted(lambda: figures.plot(options.out / "delta.png", results))
        print(figures.table(results))
    if failed:
        print(f"gave up: {failed}", file=sys.stderr)
    return 0 if not failed and all(result["holds"] for result in results) else 1


async def _one(arena: Arena, case: str) -> figures.Result:
    if case in CASES:
        cost = await CASES[case](arena)
        if case not in figures.TIME_OF_LINK:
            return figures.judged(cost, await _bare(arena, cost))
        disk = await asyncio.to_thread(disk_seconds, arena.site.cluster.layout.root, MISSED_BLOCKS)
        return figures.judged(cost, await _bare(arena, cost), disk)
    if case == "foreground":
        cost, bounds = await foreground(arena)
    elif case == "big":
        cost, bounds = await big(arena)
    else:
        cost, bounds = await one(arena.site)
    return figures.row(cost, await _bare(arena, cost), bounds)


async def _bare(arena: Arena, cost: Cost) -> float:
    return await asyncio.to_thread(link_seconds, arena.site.identity_dir(arena.nodes[0]), cost.bytes_sent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
