"""From the rounds' figures to medians, a JSON file and a table for a person."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fio import Figures

_FIGURES = ("iops", "mbps", "mean_us", "p50_us", "p99_us", "p999_us")


@dataclass(frozen=True, slots=True)
class Round:
    """One run of a job: fio's figures, and CPU microseconds by process."""

    job: str
    contender: str
    figures: Figures
    cpu_us: dict[str, int]
    working: set[str] = field(default_factory=set)

    def per_operation(self, names: Sequence[str] | set[str]) -> float:
        return sum(self.cpu_us[name] for name in names) / max(1, self.figures.operations)


def machine() -> dict[str, Any]:
    """Figures of another machine are not to be compared with these."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_kib": int(memory),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def summary(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """One object a job and contender, medians over its rounds, in the order of their first round."""
    grouped: dict[tuple[str, str], list[Round]] = {}
    for one in rounds:
        grouped.setdefault((one.job, one.contender), []).append(one)
    return [_median(job, contender, found) for (job, contender), found in grouped.items()]


def _median(job: str, contender: str, rounds: list[Round]) -> dict[str, Any]:
    names = sorted(rounds[0].cpu_us)
    return {
        "job": job,
        "contender": contender,
        "rounds": len(rounds),
        **{name: round(median(getattr(one.figures, name) for one in rounds), 1) for name in _FIGURES},
        "cpu_us_per_op": round(median(one.per_operation(one.working) for one in rounds), 1),
        "cpu_us_per_op_all": round(median(one.per_operation(names) for one in rounds), 1),
        "cpu_us_per_op_by_process": {
            name: round(median(one.per_operation([name]) for one in rounds), 1) for name in names
        },
    }


def save(directory: Path, results: list[dict[str, Any]], rounds: Sequence[Round], versions: dict[str, str]) -> None:
    """speed.json (machine, medians, every round) and speed.csv (medians)."""
    raw = [{"job": one.job, "contender": one.contender, **asdict(one.figures), "cpu_us": one.cpu_us} for one in rounds]
    content = {"machine": machine(), "versions": versions, "results": results, "rounds": raw}
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / "speed.tmp"
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(directory / "speed.json")
    columns = ("job", "contender", *_FIGURES, "cpu_us_per_op", "cpu_us_per_op_all", "rounds")
    with (directory / "speed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)


def table(results: Sequence[dict[str, Any]]) -> str:
    head = ("job", "contender", "IOPS", "MB/s", "mean µs", "p99 µs", "CPU µs/op", "all processes")
    keys = ("job", "contender", "iops", "mbps", "mean_us", "p99_us", "cpu_us_per_op", "cpu_us_per_op_all")
    rows = [head] + [tuple(_cell(result[key]) for key in keys) for result in results]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def ratios(results: Sequence[dict[str, Any]], ours: str, floor: str) -> list[str]:
    """Ours beside the floor, job by job, with where our CPU goes."""
    found = {(result["job"], result["contender"]): result for result in results}
    lines = []
    for (job, contender), mine in found.items():
        below = found.get((job, floor))
        if contender != ours or below is None:
            continue
        cpu = mine["cpu_us_per_op"] / below["cpu_us_per_op"] if below["cpu_us_per_op"] else float("inf")
        lines.append(
            f"{job}: {ours} uses {cpu:.2f} x the CPU of the {floor} per operation "
            f"at {mine['iops'] / below['iops']:.2f} x its IOPS"
        )
        shares = sorted(mine["cpu_us_per_op_by_process"].items(), key=lambda item: -item[1])
        lines.append("  where it goes, µs: " + ", ".join(f"{name} {us:.0f}" for name, us in shares if us >= 0.5))
    return lines
