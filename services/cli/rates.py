"""Two looks at the metrics of all processes become rates, pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stoscore.metrics import BY_NAME
from stoscore.process_messages import MetricModel
from stoscore.units import format_size

VOLUME_HEADINGS = (
    "VOLUME",
    "IN SYNC",
    "PRIMARY",
    "EPOCH",
    "READS/S",
    "WRITES/S",
    "BYTES/S",
    "P99",
    "WAITING",
    "RESYNC",
)
NODE_HEADINGS = ("NODE", "CPU", "MEMORY", "LAG P99", "COPIES", "FREE")
Pages = Mapping[str, Sequence[MetricModel]]
_Key = tuple[str, str, tuple[str, ...]]


def busy(before: Pages, now: Pages, apart_s: float) -> dict[str, Any]:
    """{"volumes": […], "nodes": […]}, the busiest volume first. A process that began anew counts from zero."""
    past = dict(_keyed(before))
    apart_s = max(apart_s, 1e-6)
    volumes: dict[str, dict[str, Any]] = defaultdict(_idle)
    nodes: dict[str, dict[str, Any]] = {}
    for (process, name, attributes), sample in _keyed(now):
        earlier = past.get((process, name, attributes))
        if name.startswith("stos.volume.") and name != "stos.volume.copy.failed":
            _volume(volumes[attributes[0]], process, sample, earlier, apart_s)
        elif name == "stos.resync.remaining":
            volumes[attributes[0]]["resync_bytes"] += int(sample.value)
        elif process.startswith("node/"):
            _node(nodes.setdefault(process, {"node": process.removeprefix("node/")}), sample, earlier, apart_s)
    for view in volumes.values():
        view["p99_s"] = _quantile(view.pop("took"))
    busiest = sorted(volumes.values(), key=lambda view: (-view["reads_per_s"] - view["writes_per_s"], view["name"]))
    return {"volumes": busiest, "nodes": [nodes[name] for name in sorted(nodes)]}


def _keyed(pages: Pages) -> list[tuple[_Key, MetricModel]]:
    return [
        ((process, sample.name, tuple(sample.attributes)), sample)
        for process, samples in pages.items()
        for sample in samples
        if sample.name in BY_NAME and len(sample.attributes) == len(BY_NAME[sample.name].attributes)
    ]


def _idle() -> dict[str, Any]:
    numbers = {"reads_per_s": 0.0, "writes_per_s": 0.0, "bytes_per_s": 0.0, "in_flight": 0, "resync_bytes": 0}
    about = {"name": "", "volume": "", "in_sync": None, "copies": None, "primary": None, "epoch": None}
    return {**about, **numbers, "took": []}


def _volume(
    view: dict[str, Any], process: str, sample: MetricModel, earlier: MetricModel | None, apart_s: float
) -> None:
    view["volume"], view["name"] = sample.attributes[:2]
    match sample.name.removeprefix("stos.volume."):
        case "serving" if sample.value:
            view["primary"] = process.removeprefix("node/")
        case "in_sync":
            view["in_sync"] = int(sample.value)
        case "copies":
            view["copies"] = int(sample.value)
        case "epoch":
            view["epoch"] = int(sample.value)
        case "io.inflight":
            view["in_flight"] = int(sample.value)
        case "io.bytes":
            view["bytes_per_s"] += _grown(sample, earlier) / apart_s
        case "io.operations":
            kind = "reads_per_s" if sample.attributes[2] in ("read", "block_status") else "writes_per_s"
            view[kind] += _grown(sample, earlier) / apart_s
        case "io.duration":
            took = _counts(sample, earlier)
            view["took"] = [a + b for a, b in zip(view["took"], took, strict=True)] if view["took"] else took


def _node(view: dict[str, Any], sample: MetricModel, earlier: MetricModel | None, apart_s: float) -> None:
    match sample.name:
        case "process.cpu.time":
            view["cpu"] = _grown(sample, earlier) / apart_s
        case "process.memory.usage":
            view["memory_bytes"] = int(sample.value)
        case "stos.loop.lag":
            view["lag_p99_s"] = _quantile(_counts(sample, earlier))
        case "stos.node.free":
            view["free_bytes"] = int(sample.value)
        case "stos.node.copies":
            view["copies"] = view.get("copies", 0) + int(sample.value)


def _grown(sample: MetricModel, earlier: MetricModel | None) -> float:
    grown = sample.value - (earlier.value if earlier is not None else sample.value)
    return grown if grown >= 0 else sample.value


def _counts(sample: MetricModel, earlier: MetricModel | None) -> list[int]:
    past = earlier.counts if earlier is not None else sample.counts
    grown = [now - then for now, then in zip(sample.counts, past, strict=False)]
    return list(sample.counts) if any(count < 0 for count in grown) else grown


def _quantile(counts: Sequence[int], share: float = 0.99) -> float | None:
    """The upper end of the bucket in which it lies; None without values."""
    bounds = BY_NAME["stos.volume.io.duration"].bounds
    wanted = sum(counts) * share
    if not wanted:
        return None
    for bound, count in zip((*bounds, float("inf")), counts, strict=False):
        wanted -= count
        if wanted <= 0:
            return min(bound, bounds[-1])
    return bounds[-1]


def volume_row(view: dict[str, Any]) -> tuple[object, ...]:
    known = view["in_sync"] is not None
    return (
        view["name"],
        f"{view['in_sync']}/{view['copies']}" if known else "-",
        view["primary"] or "-",
        view["epoch"] if known else "-",
        f"{view['reads_per_s']:.0f}",
        f"{view['writes_per_s']:.0f}",
        format_size(int(view["bytes_per_s"])),
        _seconds(view["p99_s"]),
        view["in_flight"],
        format_size(view["resync_bytes"]) if view["resync_bytes"] else "-",
    )


def node_row(view: dict[str, Any]) -> tuple[object, ...]:
    return (
        view["node"],
        f"{view.get('cpu', 0) * 100:.0f} %",
        format_size(view.get("memory_bytes", 0)),
        _seconds(view.get("lag_p99_s")),
        view.get("copies", 0),
        format_size(view.get("free_bytes", 0)),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"≤{value * 1000:g} ms"
