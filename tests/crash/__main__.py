"""Many lives: `python -m tests.crash --states 100000`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.run import IN_MEMORY, Counted, live


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.crash", description="Crash states of the block store, checked.")
    parser.add_argument("--states", type=int, default=100_000, help="check at least that many")
    parser.add_argument("--first", type=int, default=1, help="first seed")
    options = parser.parse_args()
    counted, seed, started = Counted(), options.first, time.monotonic()
    where = IN_MEMORY if IN_MEMORY.is_dir() else None
    while counted.states < options.states:
        with tempfile.TemporaryDirectory(prefix="stos-crash-", dir=where) as directory:
            live(seed, Path(directory), counted)
        seed += 1
        if sys.stderr.isatty() or seed % 20 == 0:
            rate = counted.states / (time.monotonic() - started)
            print(f"{counted.states} states, {rate:.0f} a second", file=sys.stderr, flush=True)
    print(
        f"{counted.states} crash states of {seed - options.first} lives kept every promise; "
        f"{counted.again} of them lost power again while they recovered; {counted.kills} kills"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
