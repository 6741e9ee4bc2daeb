"""`python -m tests.fuzz nbd|peers|files [--seconds N]`: coverage-guided, with atheris.

What it finds worth keeping goes to .fuzz/<target>; `--keep` then adds to tests/fuzz/corpus what reaches new code. Bytes
that fail are left in .fuzz/ as `<target>-crash-…`, the command exits with 77, and `--replay FILE` runs them again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
WORK = Path(".fuzz")
TARGETS = ("nbd", "peers", "files")
BYTES_MAX = 20_000
INPUT_S_MAX = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus, and end")
    parser.add_argument("--replay", type=Path, help="run one file's bytes, and end")
    asked = parser.parse_args()
    if asked.replay:
        importlib.import_module(f"tests.fuzz.{asked.target}").run(asked.replay.read_bytes())
        return
    work = WORK / asked.target
    work.mkdir(parents=True, exist_ok=True)
    if asked.keep:
        keep(importlib.import_module(f"tests.fuzz.{asked.target}"), work, CORPUS / asked.target)
        return
    import atheris

    with atheris.instrument_imports(include=["services.replica"]):
        target = importlib.import_module(f"tests.fuzz.{asked.target}")
    for number, seed in enumerate(target.seeds()):
        (work / f"seed-{number:03}").write_bytes(seed)
    options = [f"-max_len={BYTES_MAX}", f"-timeout={INPUT_S_MAX}", f"-artifact_prefix={WORK}/{asked.target}-"]
    options += [f"-max_total_time={asked.seconds}", "-print_final_stats=1", str(work), str(CORPUS / asked.target)]
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


def keep(target: Any, work: Path, kept: Path) -> None:
    """The shortest first, each that takes a step from line to line which none before it took."""
    seen: set[tuple[str, int, int]] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "services/replica" not in frame.f_code.co_filename:
            return None
        last = 0

        def line(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            seen.add((frame.f_code.co_filename, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    def reaches(data: bytes) -> int:
        before = len(seen)
        sys.settrace(trace)
        try:
            target.run(data)
        finally:
            sys.settrace(None)
        return len(seen) - before

    kept.mkdir(parents=True, exist_ok=True)
    known = [*target.seeds(), *(path.read_bytes() for path in sorted(kept.iterdir()))]
    for data in known:
        reaches(data)
    for path in sorted(work.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        data = path.read_bytes()
        if reaches(data):
            (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
