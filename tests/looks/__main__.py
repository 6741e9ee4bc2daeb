"""`python -m tests.looks [--rewrite] [NAME ...]`: show how the commands look otherwise than written, or write it."""

from __future__ import annotations

import argparse
import difflib
import sys
import tempfile
from pathlib import Path

from tests.looks import script
from tests.support.control_plane import ControlPlane
from tests.support.feed import Feed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.looks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a file in tests/looks/golden, without .txt")
    parser.add_argument("--rewrite", action="store_true", help="write what is shown into the files")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(script.names()))
    if unknown:
        parser.error(f"no such look: {', '.join(unknown)} (there are {', '.join(script.names())})")
    changed = 0
    with tempfile.TemporaryDirectory() as directory:
        plane = ControlPlane(Path(directory))
        plane.start()
        try:
            with script.cluster(plane) as feed:
                for name in given.names or script.names():
                    changed += _look(feed, name, rewrite=given.rewrite)
        finally:
            plane.stop()
    return 1 if changed and not given.rewrite else 0


def _look(feed: Feed, name: str, *, rewrite: bool) -> bool:
    now, written = script.looks(feed, name), script.told(name)
    if now == written:
        return False
    if rewrite:
        script.rewrite(name, now)
        print(f"rewritten: {name}")
    else:
        print("\n".join(difflib.unified_diff(written.splitlines(), now.splitlines(), name, "now", lineterm="")))
    return True


if __name__ == "__main__":
    sys.exit(main())
