"""`make bench`: what a write costs here, beside the floor, in one run.

    python -m benchmarks.bench [--rounds N] [--seconds S] [--only CONTENDER] [--out FILE]

Contenders take turns round by round, so that the machine's drift hits them alike; compare ratios of one run and
not figures of two. CPU is user + system of a contender's processes, from /proc, around each fio run; of ours the
nodes' processes are on the data's path, and the total of all processes stands beside it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks import fio, report
from benchmarks.contenders import ROOT, Contender, Floor, Stos, cpu_us

SIZE_BYTES = 1 << 30
ROUNDS_MIN = 3
SECONDS = 8
FILL = fio.Job("fill", "write", "128k", 4)
JOBS = (fio.Job("randwrite-4k-q16", "randwrite", "4k", 16),)
OUT = ROOT / "benchmarks" / "results" / "speed.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when a contender could not be measured; 2 when nothing could; 130 when interrupted."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        versions = {"fio": fio.check(), "stos": _version()}
    except fio.FioMissing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="stos-bench-", dir=options.dir))
    try:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            rounds, failed = _measure(stack, directory, options)
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started is stopped and removed", file=sys.stderr)
        return 130
    if not rounds:
        return 2
    results = report.summary(rounds)
    report.save(options.out, results, rounds, versions)
    print(report.table(results))
    for line in report.ratios(results, Stos.name, Floor.name):
        print(line)
    print(f"figures: {options.out}")
    return 1 if failed else 0


def _measure(stack: ExitStack, directory: Path, options: argparse.Namespace) -> tuple[list[report.Round], bool]:
    contenders: list[Contender] = [Floor(directory), Stos(directory)]
    serving: dict[str, tuple[Contender, str]] = {}
    wanted = [contender for contender in contenders if options.only in (None, contender.name)]
    for contender in wanted:
        stack.callback(contender.stop)
        try:
            _say(f"{contender.name}: starting, and filling {SIZE_BYTES >> 20} MiB")
            uri = contender.start(SIZE_BYTES)
            fio.run(FILL, uri, SIZE_BYTES, seconds=None)
            serving[contender.name] = (contender, uri)
        except RuntimeError as error:
            _say(f"{contender.name}: not measured: {error}")
            contender.stop()
    rounds: list[report.Round] = []
    for number in range(1, options.rounds + 1):
        for job in JOBS:
            for name, (contender, uri) in list(serving.items()):
                try:
                    one = _round(job, contender, uri, options.seconds)
                except RuntimeError as error:
                    _say(f"{name}: no longer measured: {error}")
                    del serving[name]
                    continue
                rounds.append(one)
                _say(
                    f"round {number} {job.name} {name}: {one.figures.iops:.0f} IOPS, "
                    f"{one.per_operation(one.working):.0f} µs CPU per operation"
                )
    return rounds, len(serving) < len(wanted)


def _round(job: fio.Job, contender: Contender, uri: str, seconds: int) -> report.Round:
    pids = contender.processes()
    before = {name: cpu_us(pid) for name, pid in pids.items()}
    figures = fio.run(job, uri, SIZE_BYTES, seconds=seconds)
    used = {name: cpu_us(pid) - before[name] for name, pid in pids.items()}
    return report.Round(job.name, contender.name, figures, used, contender.working())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure stos beside the floor.")
    parser.add_argument("--rounds", type=int, default=ROUNDS_MIN, help=f"at least {ROUNDS_MIN}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="a job's duration")
    parser.add_argument("--only", choices=(Floor.name, Stos.name), help="measure one contender alone")
    parser.add_argument("--out", type=Path, default=OUT, help="where the figures go (JSON)")
    parser.add_argument("--dir", type=Path, help="where the volumes are kept meanwhile; they need 6 GiB")
    options = parser.parse_args(arguments)
    if options.rounds < ROUNDS_MIN or options.seconds < 1:
        parser.error(f"at least {ROUNDS_MIN} rounds of one second")
    if options.dir is not None and not options.dir.is_dir():
        parser.error(f"{options.dir} is no directory")
    return options


def _version() -> str:
    try:
        return version("stos")
    except PackageNotFoundError:
        return "unknown"


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
