"""`python -m tests.simulation --seeds 200`, or one of them: `--seed 7 --verbose`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation import campaign
from tests.simulation.decisions import KINDS as DECISIONS
from tests.simulation.faults import BLOWS
from tests.simulation.shrink import shrink, told
from tests.simulation.world import Violation, World

ENOUGH_SEEDS = 200
"""From so many on, a kind of decision that none of them reached fails the run."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--verbose", action="store_true", help="with --seed: print every event")
    parser.add_argument("--jobs", type=int, default=campaign.jobs_default(), help="processes")
    parser.add_argument("--keep-going", action="store_true", help="run all seeds, whatever fails")
    parser.add_argument("--story", type=int, default=60, help="how many events a failing seed tells")
    args = parser.parse_args()
    if args.seed is not None:
        return one(args.seed, verbose=args.verbose, story=args.story)
    return many(range(args.first, args.first + args.seeds), args.jobs, keep_going=args.keep_going, story=args.story)


def one(seed: int, *, verbose: bool, story: int) -> int:
    world = World(seed, verbose=verbose)
    try:
        world.run()
    except Violation as violation:
        print(f"VIOLATION with seed {seed}: {violation.what}")
        if not verbose:
            print("looking for the smallest plan that fails in the same way ...", flush=True)
            print(told(shrink(violation), story))
        return 1
    registers, checker = world.registers, world.checker
    print(
        f"seed {seed}: {world.operations} requests, {registers.writes} writes, {registers.reads} blocks read,"
        f" {registers.flushes} flushes, {checker.elections} elections, {len(world.plan.faults)} faults"
    )
    return 0


def many(seeds: range, jobs: int, *, keep_going: bool, story: int) -> int:
    started = time.monotonic()
    total = campaign.run(seeds, jobs, keep_going=keep_going)
    took_s = time.monotonic() - started
    print(total.coverage.table(DECISIONS, BLOWS))
    for result in total.violations:
        print(f"VIOLATION with seed {result.seed}: {result.violation}")
        print(f"again: python -m tests.simulation --seed {result.seed} --verbose")
    if total.violations and not keep_going:
        print(campaign.story(total.violations[0].seed, story))
    if total.undecided:
        print(f"a volume waited for an operator: {', '.join(map(str, sorted(total.undecided)))}")
    missing = total.coverage.missing(DECISIONS) if total.seeds >= ENOUGH_SEEDS else []
    if missing:
        print(f"no seed reached these decisions: {', '.join(missing)}")
    print(
        f"{total.seeds} seeds from {seeds.start} in {took_s:.0f} s ({total.cpu_s / total.seeds:.2f} s of CPU each),"
        f" {total.operations} requests, {total.elections} elections, {len(total.violations)} violations"
    )
    return 1 if total.violations or missing else 0


if __name__ == "__main__":
    sys.exit(main())
