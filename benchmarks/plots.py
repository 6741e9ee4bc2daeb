"""CPU per operation and rate of every job and contender, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    jobs = list(dict.fromkeys(result["job"] for result in results))
    contenders = list(dict.fromkeys(result["contender"] for result in results))
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(11, 8), sharex=True)
    width = 0.8 / len(contenders)
    for number, contender in enumerate(contenders):
        mine = {result["job"]: result for result in results if result["contender"] == contender}
        places = [at + number * width for at, job in enumerate(jobs) if job in mine]
        above.bar(places, [mine[job]["cpu_us_per_op"] for job in jobs if job in mine], width, label=contender)
        below.bar(places, [mine[job]["iops"] for job in jobs if job in mine], width)
    for axes, label in ((above, "CPU per operation, µs"), (below, "operations per second")):
        axes.set_ylabel(label)
        axes.set_yscale("log")
    below.set_xticks([at + 0.4 - width / 2 for at in range(len(jobs))], jobs, rotation=30, ha="right")
    above.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
