"""`make bench-failover`: how long an application waits when its volume's primary is lost, as a distribution.

    python -m benchmarks.failover [--kills 300] [--handovers 100] [--pauses 50] [--cuts 50] [--out DIRECTORY]

Three nodes with copies and one with the application; 4 KiB random writes at depth 4 over NBD, each with unique
content, and a reader beside them. It runs in a network namespace of its own (root), because of the cuts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import ROOT
from benchmarks.failover import faults, figures
from benchmarks.failover.arena import Arena, open_arena
from benchmarks.running import plotted, run
from stoscore.errors import StosError

INSIDE = "--inside"
OUT = ROOT / "benchmarks" / "results"
KINDS: dict[str, faults.Fault] = {
    "kill": faults.kill,
    "handover": faults.hand_over,
    "pause": faults.pause,
    "cut": faults.cut,
}
_EVERY_S = 15.0


def main(arguments: Sequence[str]) -> int:
    """0 when everything held; 1 when a figure did not, or a round failed; 2 when it can't run here."""
    options = _options(arguments)
    missing = _what_is_missing()
    if missing:
        print(f"bench-failover: {missing}", file=sys.stderr)
        return 2
    if not options.inside:
        return _in_a_namespace(arguments)
    return run("bench-failover", lambda directory: asyncio.run(_measure(directory / "cluster", options)), options.dir)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-failover", description="Lose the primary, many times.")
    for name, count in (("kills", 300), ("handovers", 100), ("pauses", 50), ("cuts", 50)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"rounds [{count}]")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for failover.json, .csv and .png")
    parser.add_argument("--dir", type=Path, help="where the cluster is kept meanwhile; it needs 2 GiB")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _what_is_missing() -> str:
    if os.geteuid() != 0:
        return "it needs root, for a network namespace of its own"
    programs = {"unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "nft": "nftables"}
    absent = [f"{name} (Debian: {package})" for name, package in programs.items() if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def _in_a_namespace(arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "benchmarks.failover", INSIDE, *arguments]
    script = 'ip link set lo up && exec "$@"'
    return subprocess.call(["unshare", "--net", "sh", "-c", script, "sh", *command], cwd=ROOT)


async def _measure(directory: Path, options: argparse.Namespace) -> int:
    rounds = {"kill": options.kills, "handover": options.handovers, "pause": options.pauses, "cut": options.cuts}
    gaps: dict[str, list[float]] = {kind: [] for kind in rounds}
    failed = ""
    async with open_arena(directory) as arena:
        arena.load.start()
        try:
            for kind, count in rounds.items():
                await _repeat(arena, kind, count, gaps[kind])
            await arena.settled()
        except (StosError, TimeoutError) as error:
            # What was measured until then is worth keeping, and so is the verdict over the writes.
            failed = str(error)
        await arena.load.stop()
        wrong = await arena.load.wrong_blocks()
        load = arena.load
        found = figures.summary(
            gaps,
            lost_writes=len(wrong),
            io_errors=load.io_errors,
            writes=load.completed,
            reads=load.reader.reads,
        )
    figures.save(options.out, found, gaps)
    drawn = {kind: values for kind, values in gaps.items() if values}
    plotted(lambda: figures.plot(options.out / "failover.png", drawn))
    print(figures.table(found))
    for line in wrong[:5]:
        print(line)
    if failed:
        print(f"gave up: {failed}", file=sys.stderr)
    return 0 if not failed and figures.held(found) else 1


async def _repeat(arena: Arena, kind: str, count: int, gaps: list[float]) -> None:
    started, told = time.monotonic(), 0.0
    for number in range(count):
        gaps.append(await KINDS[kind](arena, number))
        now = time.monotonic()
        if now - told >= _EVERY_S or number + 1 == count:
            told = now
            left_s = (now - started) / (number + 1) * (count - number - 1)
            worst = max(gaps)
            print(
                f"{kind} {number + 1}/{count}: last {gaps[-1]:.0f} ms, worst {worst:.0f} ms, {left_s:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
