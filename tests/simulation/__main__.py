"""`python -m tests.simulation --seeds 200`, or one of them: `--seed 7 --verbose`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.world import FAULTS_NS, Violation, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--verbose", action="store_true", help="print every event")
    parser.add_argument("--story", type=int, default=40, help="how many of the last events to print")
    parser.add_argument("--keep-going", action="store_true", help="run all seeds, whatever fails")
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds) if args.seed is None else [args.seed]
    failed = 0
    for seed in seeds:
        started = time.perf_counter()
        world = World(seed, faults_ns=FAULTS_NS, verbose=args.verbose)
        try:
            world.run()
        except Violation as violation:
            failed += 1
            if not args.verbose and not args.keep_going:
                print("\n".join(violation.story[-args.story :]))
            print(f"VIOLATION with seed {seed}: {violation.what}")
            print(f"again: python -m tests.simulation --seed {seed} --verbose")
            if not args.keep_going:
                return 1
            continue
        checker = world.checker
        print(
            f"seed {seed}: {checker.acks} writes, {checker.reads_checked} blocks read, {checker.flushes} flushes,"
            f" {checker.elections} elections, {time.perf_counter() - started:.1f} s",
            flush=True,
        )
    print(f"{len(seeds)} seeds, {failed} violations")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
