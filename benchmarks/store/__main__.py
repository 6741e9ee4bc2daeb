"""`make bench-store`: what a volume's store costs: memory, the time to open it, and a scrub beside the application.

    python -m benchmarks.store [--only opening memory scrub] [--pairs 5] [--out DIRECTORY]

Each part tells its figures with what is to be reached; `store.json` keeps them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import fio
from benchmarks.contenders import ROOT
from benchmarks.report import machine
from benchmarks.running import run
from benchmarks.store import memory, opening, scrub
from benchmarks.store.figure import Figure

OUT = ROOT / "benchmarks" / "results"
PARTS = ("opening", "memory", "scrub")


def main(arguments: Sequence[str]) -> int:
    """0 when everything is within its limit, 1 when something is not, 2 when it can't run here."""
    parser = argparse.ArgumentParser(prog="bench-store", description="What a volume's store costs.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts [all]")
    parser.add_argument("--pairs", type=int, default=5, help="of rounds without and with the scrub [5]")
    parser.add_argument("--dir", type=Path, help="where the data are kept meanwhile; they need 15 GiB")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for store.json")
    options = parser.parse_args(arguments)
    try:
        fio.check()
    except fio.FioMissing as error:
        print(f"bench-store: {error}", file=sys.stderr)
        return 2
    return run("bench-store", lambda directory: _measure(directory, options), options.dir)


def _measure(directory: Path, options: argparse.Namespace) -> int:
    found: list[Figure] = []
    if "opening" in options.only:
        found += opening.measure(directory / "opening")
    if "memory" in options.only:
        found += asyncio.run(memory.measure(directory / "memory"))
    if "scrub" in options.only:
        found += asyncio.run(scrub.measure(directory / "scrub", options.pairs))
    _save(options.out / "store.json", found)
    for figure in found:
        print(figure)
    return 0 if all(figure.holds for figure in found) else 1


def _save(path: Path, found: Sequence[Figure]) -> None:
    """Parts that were not run now keep what was found before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text())["figures"] if path.exists() else []
    new = [asdict(figure) | {"holds": figure.holds} for figure in found]
    names = {figure["name"] for figure in new}
    kept = [figure for figure in known if figure["name"] not in names]
    path.write_text(json.dumps({"machine": machine(), "figures": [*kept, *new]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
