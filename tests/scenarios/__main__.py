"""`python -m tests.scenarios [--rewrite] [NAME ...]`: play scenarios and show, or write down, what happens in them."""

from __future__ import annotations

import argparse
import sys

from tests.scenarios import script
from tests.scenarios.stage import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a file in tests/scenarios/golden, without .txt")
    parser.add_argument("--rewrite", action="store_true", help="write what happens into the files")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(script.names()))
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)} (there are {', '.join(script.names())})")
    changed = 0
    for name in given.names or script.names():
        happens = play(name).told()
        if happens == script.told(name):
            continue
        changed += 1
        if given.rewrite:
            script.rewrite(name, happens)
            print(f"rewritten: {name}")
        else:
            print(f"{name} happens otherwise than it is written:\n\n{happens}\n")
    return 1 if changed and not given.rewrite else 0


if __name__ == "__main__":
    sys.exit(main())
