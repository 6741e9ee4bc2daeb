"""`stos top`: two looks become rates; a process that began anew counts from zero; a thousand volumes are quick."""

from __future__ import annotations

import time

from services.cli.rates import busy, node_row, volume_row
from stoscore.metrics import LATENCY_S
from stoscore.process_messages import MetricModel


def metric(name: str, value: float, *attributes: str, counts: list[int] | None = None) -> MetricModel:
    return MetricModel(name=name, value=value, attributes=list(attributes), counts=counts or [])


def pages(reads: int, moved: int, cpu_s: float) -> dict[str, list[MetricModel]]:
    about = ("id", "data")
    counts = [0] * (len(LATENCY_S) + 1)
    counts[3] = reads
    return {
        "node/app": [
            metric("stos.volume.io.operations", reads, *about, "read"),
            metric("stos.volume.io.bytes", moved, *about, "read"),
            metric("stos.volume.io.duration", 1, *about, "read", counts=counts),
            metric("stos.volume.io.inflight", 4, *about),
            metric("process.cpu.time", cpu_s),
        ],
        "node/n1": [
            metric("stos.volume.serving", 1, *about),
            metric("stos.volume.in_sync", 2, *about),
            metric("stos.volume.copies", 3, *about),
            metric("stos.volume.epoch", 5, *about),
            metric("stos.resync.remaining", 8192, *about, "n2"),
            metric("stos.of.another.version", 1, "x"),
            metric("stos.volume.epoch", 9),
        ],
        "svc/certs": [metric("process.cpu.time", 5)],
    }


def test_rates() -> None:
    view = busy(pages(100, 1000, 1.0), pages(300, 5000, 1.5), 2.0)
    (volume,) = view["volumes"]
    assert (volume["reads_per_s"], volume["bytes_per_s"], volume["p99_s"]) == (100, 2000, LATENCY_S[3])
    assert (volume["primary"], volume["in_sync"], volume["copies"], volume["epoch"]) == ("n1", 2, 3, 5)
    assert volume["resync_bytes"] == 8192
    assert view["nodes"][0]["cpu"] == 0.25
    assert volume_row(volume)[:5] == ("data", "2/3", "n1", 5, "100")
    assert node_row(view["nodes"][0])[:2] == ("app", "25 %")


def test_a_process_that_began_anew() -> None:
    (volume,) = busy(pages(1000, 9000, 9), pages(10, 20, 0.5), 1.0)["volumes"]
    assert (volume["reads_per_s"], volume["bytes_per_s"]) == (10, 20)


def test_a_process_that_is_new_has_no_rate_yet() -> None:
    (volume,) = busy({}, pages(10, 20, 0.5), 1.0)["volumes"]
    assert volume["reads_per_s"] == 0
    assert volume["p99_s"] is None


def test_a_thousand_volumes_on_fifty_nodes() -> None:
    def look(count: int) -> dict[str, list[MetricModel]]:
        found = {}
        for node in range(50):
            samples = []
            for number in range(20):
                about = (f"{node:02}{number:02}", f"volume-{node}-{number}")
                samples += [
                    metric("stos.volume.io.operations", count, *about, "write"),
                    metric("stos.volume.io.bytes", count, *about, "write"),
                    metric("stos.volume.io.duration", 1, *about, "write", counts=[count] + [0] * len(LATENCY_S)),
                    metric("stos.volume.in_sync", 3, *about),
                    metric("stos.volume.copies", 3, *about),
                ]
            found[f"node/n{node}"] = samples
        return found

    before, now = look(1), look(2)
    begun = time.thread_time()
    view = busy(before, now, 1.0)
    rows = [volume_row(volume) for volume in view["volumes"]]
    assert time.thread_time() - begun < 2
    assert len(rows) == 1000
