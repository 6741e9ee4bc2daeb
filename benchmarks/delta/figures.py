"""From what the returns cost to what they were allowed to: delta.json, delta.csv, delta.png, a table for a person."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.delta.cases import Cost
from stoscore.units import KIB

BYTES_OF_MISSED = {"map": 1.03, "tree": 1.10, "power": 1.10}
"""Case -> sent bytes over missed bytes that are allowed."""
TIME_OF_LINK = {"map": 1.5}
"""Case -> seconds over those of a bare TLS connection for as many bytes."""
NOTHING_BYTES, NOTHING_SECONDS = 64 * KIB, 0.3
PEERS = (("Ceph", 10.0), ("GlusterFS", 32.0))
"""Sent over missed for scattered 4 KiB writes, measured on such a machine."""

Result = dict[str, Any]
Bound = tuple[str, bool]
"""What was to be reached, and whether it was."""


def judged(cost: Cost, link_seconds: float, disk_seconds: float = 0.0) -> Result:
    """The row of delta.json. What a bound allows for marked regions' checksums is not made use of. `disk_seconds`: what
    a disk alone takes for these blocks, said where time is bounded by that of a link (`TIME_OF_LINK`)."""
    bounds: list[Bound] = []
    if cost.case == "nothing":
        bounds.append((f"{NOTHING_BYTES} bytes", cost.bytes_sent <= NOTHING_BYTES))
        bounds.append((f"{NOTHING_SECONDS} s", cost.seconds <= NOTHING_SECONDS))
    if cost.case in BYTES_OF_MISSED:
        factor = BYTES_OF_MISSED[cost.case]
        bounds.append((f"{factor:.2f} x missed", cost.bytes_sent <= factor * cost.bytes_missed))
    if cost.case in TIME_OF_LINK:
        factor = TIME_OF_LINK[cost.case]
        bounds.append((f"{factor} x link (a disk alone: {disk_seconds:.2f} s)", cost.seconds <= factor * link_seconds))
    return row(cost, link_seconds, bounds)


def row(cost: Cost, link_seconds: float, bounds: Sequence[Bound]) -> Result:
    return {
        "case": cost.case,
        "bytes_missed": cost.bytes_missed,
        "bytes_sent": cost.bytes_sent,
        "seconds": round(cost.seconds, 4),
        "link_seconds": round(link_seconds, 4),
        "bound": ", ".join(text for text, _ in bounds),
        "holds": all(held for _, held in bounds) and cost.copies_identical,
        "copies_identical": cost.copies_identical,
    }


def save(directory: Path, results: Sequence[Result]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "delta.json").write_text(json.dumps(list(results), indent=1) + "\n")
    with (directory / "delta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)


def plot(path: Path, results: Sequence[Result]) -> None:
    """Bytes sent over bytes missed, with the peers beside it. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shares = [
        (f"stos: {one['case']}", one["bytes_sent"] / one["bytes_missed"]) for one in results if one["bytes_missed"]
    ]
    names, values = zip(*shares, *PEERS, strict=True)
    figure, axes = pyplot.subplots(figsize=(9, 4))
    bars = axes.barh(names, values)
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 60)
    axes.set_xlabel("bytes on the wire for each byte that was missed (scattered 4 KiB writes)")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'case':10}{'missed MiB':>12}{'sent MiB':>12}{'ratio':>8}{'s':>8}{'link s':>8}  to reach"]
    for one in results:
        ratio = f"{one['bytes_sent'] / one['bytes_missed']:.3f}" if one["bytes_missed"] else "-"
        verdict = "held" if one["holds"] else "NOT held"
        same = "" if one["copies_identical"] else ", COPIES DIFFER"
        lines.append(
            f"{one['case']:10}{one['bytes_missed'] / 2**20:12.2f}{one['bytes_sent'] / 2**20:12.2f}{ratio:>8}"
            f"{one['seconds']:8.3f}{one['link_seconds']:8.3f}  {one['bound']}: {verdict}{same}"
        )
    return "\n".join(lines)
