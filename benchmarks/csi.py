"""How long CSI calls take: CreateVolume until the volume serves, and a page of ListVolumes with all volumes there.

    make bench-csi, or python -m benchmarks.csi [--volumes 1000] [--workers 20] [--seconds 200] [--out FILE]

An embedded cluster of three nodes on this machine, three copies, real gRPC. First snapshots of volumes in use, and what
they hold up (`csi_pauses`). Then one create after the other, then the rest by the workers at once, for so many seconds
at most. A create that fails is told with its code and repeated, as Kubernetes does, and the log lines of the cluster
about it are shown. Then the list is read page by page, a few times, and the controller's memory and its processor time
for a page are told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from benchmarks.contenders import ROOT
from benchmarks.contenders.contract import cpu_us
from benchmarks.csi_pauses import pauses
from benchmarks.running import run
from services.dev.cluster import Cluster
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB

OUT = ROOT / "benchmarks" / "results" / "csi.json"
BUSY = 2
"""Volumes that `pauses` uses."""
ALONE = 50
"""Creates without company."""
SIZE_BYTES = 16 * MIB
TIMEOUT_S = 60.0
TRIES = 5
AGAIN_S = 2.0
READINGS = 3
"""How often the whole list is read."""
LINES_MAX = 20


@dataclass(slots=True)
class Creates:
    """What came of some creates. A failure counts each time; the time of one that was repeated is not in `seconds`."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    failed_names: list[str] = field(default_factory=list)
    never: int = 0
    """not there after all tries"""

    async def create(self, controller: Any, number: int, until_s: float = math.inf) -> None:
        """Repeated until then."""
        for again in range(TRIES):
            if again and time.monotonic() >= until_s:
                break
            began = time.monotonic()
            try:
                await controller.CreateVolume(request(number), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self.failures[f"{error.code().name}: {(error.details() or '')[:160]}"] += 1
                self.failed_names.append(name_of(number))
                await asyncio.sleep(AGAIN_S)
                continue
            if not again:
                self.seconds.append(time.monotonic() - began)
            return
        self.never += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.csi", description=__doc__)
    parser.add_argument("--volumes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=200.0, help="how long the workers begin creates")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    return run("bench-csi", lambda directory: measure(directory, chosen))


def measure(directory: Path, chosen: argparse.Namespace) -> int:
    cluster = Cluster(directory / "dev")
    cluster.up()
    try:
        figures = asyncio.run(measured(cluster, chosen.volumes, chosen.workers, chosen.seconds))
    finally:
        cluster.stop()
    text = json.dumps(figures, indent=1)
    print(text)
    chosen.out.write_text(text + "\n")
    return 0 if not figures["failures"] else 1


async def measured(cluster: Cluster, volumes: int, workers: int, seconds: float) -> dict[str, Any]:
    path = cluster.layout.csi_socket("controller")
    pid = cluster.state().processes["csi-controller"].pid
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        controller = rpc.ControllerStub(channel)
        await Creates().create(controller, 0)  # the first one warms everything up
        paused = await pauses(cluster, channel, request_of)
        alone, together = Creates(), Creates()
        for number in range(1, ALONE + 1):
            await alone.create(controller, number)
        before = resident_mib(pid, "VmRSS")
        began = time.monotonic()
        made = await by_workers(controller, together, iter(range(ALONE + 1, volumes)), workers, began + seconds)
        took = time.monotonic() - began
        used = cpu_us(pid)
        pages = await listed(controller)
        used = cpu_us(pid) - used
    show_log(cluster, [*alone.failed_names, *together.failed_names])
    there = 1 + BUSY + ALONE + made - alone.never - together.never
    assert sum(pages["entries"]) == there * READINGS, "the list does not have what was made"
    return {
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "create, one after the other": spread(alone.seconds),
        f"create, {workers} at once": spread(together.seconds) | {"per second": round(made / took, 1)},
        "longest pause of 16 writers": {
            "without a snapshot": spread(paused["without"]),
            "around a snapshot": spread(paused["snapshot"]),
            "of two volumes around a group's": spread(paused["group"]),
        },
        "failures": dict(alone.failures + together.failures),
        "never made": alone.never + together.never,
        "list, a page": spread(pages["seconds"])
        | {"volumes": there, "controller's processor time ms": round(used / 1000 / len(pages["entries"]), 1)},
        "controller's memory, MiB": {
            f"with {ALONE + 1} volumes": before,
            f"with {there} volumes": resident_mib(pid, "VmRSS"),
            "peak": resident_mib(pid, "VmHWM"),
        },
    }


def name_of(number: int) -> str:
    return f"pvc-{number}"


def request(number: int) -> pb.CreateVolumeRequest:
    return request_of(name_of(number), SIZE_BYTES)


def request_of(name: str, size_bytes: int) -> pb.CreateVolumeRequest:
    capability = pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume())
    capability.access_mode.mode = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    return pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=size_bytes),
        volume_capabilities=[capability],
        parameters={"replicas": "2"},
    )


async def by_workers(controller: Any, creates: Creates, numbers: Iterator[int], workers: int, until_s: float) -> int:
    """How many were begun."""
    begun = 0

    async def work() -> None:
        nonlocal begun
        for number in numbers:
            if time.monotonic() >= until_s:
                return
            begun += 1
            await creates.create(controller, number, until_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
    return begun


async def listed(controller: Any) -> dict[str, list[Any]]:
    seconds, entries = [], []
    for _ in range(READINGS):
        token = ""
        while True:
            began = time.monotonic()
            page = await controller.ListVolumes(pb.ListVolumesRequest(starting_token=token), timeout=TIMEOUT_S)
            seconds.append(time.monotonic() - began)
            entries.append(len(page.entries))
            token = page.next_token
            if not token:
                break
    return {"seconds": seconds, "entries": entries}


def show_log(cluster: Cluster, names: list[str]) -> None:
    """What the cluster's processes wrote about those volumes, and every warning."""
    if not names:
        return
    wanted = [f'"{name}"' for name in names]
    for path in sorted(cluster.layout.logs.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        found = [line for line in lines if any(name in line for name in wanted) or '"warning"' in line.lower()]
        for line in found[-LINES_MAX:]:
            print(f"{path.stem}: {line[:400]}", file=sys.stderr)


def spread(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 1) if ordered else 0.0

    return {"calls": len(ordered), "p50 ms": at(0.5), "p99 ms": at(0.99), "max ms": at(1.0)}


def resident_mib(pid: int, what: str) -> int:
    """`what`: VmRSS, now; VmHWM, at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) // 1024
    return 0


if __name__ == "__main__":
    sys.exit(main())
