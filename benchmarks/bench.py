"""`make bench`: what reads and writes cost here, beside the floor and others, in one run.

    python -m benchmarks.bench [--rounds N] [--seconds S] [--only CONTENDER ...] [--jobs JOB ...] [--out DIRECTORY]

Contenders take turns job by job and round by round, so that the machine's drift hits them alike; compare ratios of
one run and not figures of two. CPU is user + system of a contender's processes, from /proc, around each fio run; of
ours the nodes' processes are on the data's path, and the total of all processes stands beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import comparison, fio, plots, report
from benchmarks.contenders import ROOT, Ceph, Contender, Floor, Nbdkit, Quorum, Stos, StosBeside, cpu_us
from benchmarks.jobs import FILL, JOBS
from benchmarks.running import plotted, run

SIZE_BYTES = 1 << 30
ROUNDS, ROUNDS_MIN = 5, 3
SECONDS = 2
OUT = ROOT / "benchmarks" / "results"
NAMES = ("floor", "stos", "stos-beside", "nbdkit", "quorum", "ceph")


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when a contender could not be measured; 2 when nothing could; 130 when interrupted."""
    options = _options(arguments)
    try:
        versions = {"fio": fio.check(), "stos": _version()}
    except fio.FioMissing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    return run("bench", lambda directory: _compare(directory, options, versions), options.dir)


def _compare(directory: Path, options: argparse.Namespace, versions: dict[str, str]) -> int:
    with ExitStack() as stack:
        rounds, failed = _measure(stack, directory, options)
    if not rounds:
        return 2
    _tell(options.out, rounds, versions)
    return 1 if failed else 0


def _tell(out: Path, rounds: list[report.Round], versions: dict[str, str]) -> None:
    results = report.summary(rounds)
    before = comparison.load(out / "speed.json")
    report.save(out, results, rounds, versions)
    print(report.table(results))
    for line in (*report.ratios(results, Stos.name, Floor.name), *comparison.regressions(before, results, Floor.name)):
        print(line)
    plotted(lambda: plots.plot(out / "speed.png", results))
    print(f"figures: {out / 'speed.json'}")


def _measure(stack: ExitStack, directory: Path, options: argparse.Namespace) -> tuple[list[report.Round], bool]:
    stos = Stos(directory)
    others: list[Contender] = [Nbdkit(directory), Quorum(directory), Ceph(directory)]
    contenders: list[Contender] = [Floor(directory), stos, StosBeside(stos), *others]
    wanted = [contender for contender in contenders if not options.only or contender.name in options.only]
    jobs = [job for job in JOBS if not options.jobs or job.name in options.jobs]
    serving = _start(stack, wanted)
    rounds: list[report.Round] = []
    for number in range(1, options.rounds + 1):
        for job in jobs:
            for contender, uri in list(serving.items()):
                if contender.jobs is not None and job.name not in contender.jobs:
                    continue
                try:
                    one = _round(job, contender, uri, options.seconds)
                except RuntimeError as error:
                    _say(f"{contender.name}: no longer measured: {error}")
                    del serving[contender]
                    continue
                rounds.append(one)
                _say(
                    f"round {number}/{options.rounds} {job.name} {contender.name}: {one.figures.iops:.0f} IOPS, "
                    f"{one.per_operation(one.working):.0f} µs CPU per operation"
                )
    return rounds, len(serving) < len(wanted)


def _start(stack: ExitStack, wanted: Sequence[Contender]) -> dict[Contender, str]:
    """Contender -> URI, of those that could be started."""
    serving: dict[Contender, str] = {}
    for contender in wanted:
        missing = contender.missing()
        if missing:
            _say(f"{contender.name}: not measured: {missing}")
            continue
        stack.callback(contender.stop)
        try:
            _say(f"{contender.name}: starting, and filling {SIZE_BYTES >> 20} MiB")
            uri = contender.start(SIZE_BYTES)
            fio.run(FILL, uri, SIZE_BYTES, seconds=None)
            serving[contender] = uri
        except RuntimeError as error:
            _say(f"{contender.name}: not measured: {error}")
            contender.stop()
    return serving


def _round(job: fio.Job, contender: Contender, uri: str, seconds: int) -> report.Round:
    pids = contender.processes()
    before = {name: cpu_us(pid) for name, pid in pids.items()}
    figures = fio.run(job, uri, SIZE_BYTES, seconds=seconds)
    used = {name: cpu_us(pid) - before[name] for name, pid in pids.items()}
    return report.Round(job.name, contender.name, figures, used, contender.working())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure stos beside the floor and others.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at least {ROUNDS_MIN} [{ROUNDS}]")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"a job's duration [{SECONDS}]")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--jobs", action="append", choices=[job.name for job in JOBS], help="may be repeated")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for speed.json, .csv and .png")
    parser.add_argument("--dir", type=Path, help="where the volumes are kept meanwhile; they need 14 GiB")
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
