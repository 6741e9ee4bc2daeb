"""From gaps to the distribution: a JSON file, a CSV with every single gap, a plot, a table for a person."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import machine

PEERS = (
    # (name, seconds, who says so)
    ("Ceph RBD, one copy killed", 1.8, "measured on such a machine"),
    ("Ceph RBD, one copy hung", 25.4, "measured on such a machine"),
    ("Longhorn engine, one copy hung", 8.7, "measured on such a machine"),
    ("GlusterFS, one copy hung", 78.0, "measured on such a machine"),
    ("Piraeus HA controller", 10.0, "published"),
    ("Kubernetes alone, node lost", 360.0, "published: 6 to 10 min"),
)
LIMITS_MS = {
    "gap_ms_median": 800,
    "gap_ms_p99": 1000,
    "gap_ms_max": 1500,
    "handover_ms_median": 50,
    "handover_ms_max": 250,
    "pause_gap_ms_max": 1500,
    "cut_gap_ms_max": 2000,
}

Gaps = Mapping[str, Sequence[float]]
"""Kind of fault -> longest gap of each round, ms."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of all does not exceed."""
    return sorted(values)[ceil(share * len(values)) - 1]


def summary(gaps: Gaps, *, lost_writes: int, io_errors: int, writes: int, reads: int) -> dict[str, Any]:
    kills, moves = gaps.get("kill", ()), gaps.get("handover", ())
    found: dict[str, Any] = {"kills": len(kills), "handovers": len(moves)}
    found |= {"pauses": len(gaps.get("pause", ())), "cuts": len(gaps.get("cut", ()))}
    if kills:
        found |= {
            "gap_ms_median": median(kills),
            "gap_ms_p99": percentile(kills, 0.99),
            "gap_ms_max": max(kills),
        }
    if moves:
        found |= {"handover_ms_median": median(moves), "handover_ms_max": max(moves)}
    for kind in ("pause", "cut"):
        if gaps.get(kind):
            found[f"{kind}_gap_ms_max"] = max(gaps[kind])
    figures = {name: round(value, 1) if isinstance(value, float) else value for name, value in found.items()}
    return figures | {"lost_writes": lost_writes, "io_errors": io_errors, "writes": writes, "reads": reads}


def held(figures: Mapping[str, Any]) -> bool:
    within = all(figures[name] <= limit for name, limit in LIMITS_MS.items() if name in figures)
    return within and not figures["lost_writes"] and not figures["io_errors"]


def save(directory: Path, figures: Mapping[str, Any], gaps: Gaps) -> None:
    """failover.json, failover.csv and, where matplotlib is installed, failover.png."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {**figures, "machine": machine(), "peers_s": {name: seconds for name, seconds, _ in PEERS}}
    (directory / "failover.json").write_text(json.dumps(content, indent=1) + "\n")
    with (directory / "failover.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("fault", "round", "gap_ms"))
        for kind, values in gaps.items():
            writer.writerows((kind, number, f"{value:.1f}") for number, value in enumerate(values, 1))


def plot(path: Path, gaps: Gaps) -> None:
    """The distribution of each fault, with the peers beside it. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for kind, values in gaps.items():
        ordered = sorted(values)
        shares = [number / len(ordered) for number in range(1, len(ordered) + 1)]
        axes.step(ordered, shares, where="post", label=f"stos: {kind} ({len(ordered)})")
    for name, seconds, source in PEERS:
        axes.axvline(seconds * 1000, linestyle=":", color="grey")
        axes.text(seconds * 1000, 0.02, f" {name} ({source})", rotation=90, fontsize=7, va="bottom")
    axes.set_xscale("log")
    axes.set_xlabel("longest gap between two completed 4 KiB writes, ms")
    axes.set_ylabel("share of rounds")
    axes.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def table(figures: Mapping[str, Any]) -> str:
    lines = []
    for name, value in figures.items():
        limit = LIMITS_MS.get(name)
        if limit is None:
            lines.append(f"{name:20} {value:>10}")
        else:
            lines.append(f"{name:20} {value:>10}   to reach: {limit}   {'held' if value <= limit else 'NOT held'}")
    return "\n".join(lines)
