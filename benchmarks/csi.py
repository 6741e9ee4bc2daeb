"""How long CSI calls take: CreateVolume until the volume serves, and a page of ListVolumes with all volumes there.

    python -m benchmarks.csi [--volumes 200] [--workers 20]

An embedded cluster of three nodes on this machine, three copies, real gRPC. First one create after the other, then the
rest by the workers at once; none may fail. Then the list is read page by page, and the controller's memory is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from services.dev.cluster import Cluster
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB

ALONE = 50
"""Creates without company."""
SIZE_BYTES = 16 * MIB
TIMEOUT_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.csi", description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stos-csi-") as directory:
        cluster = Cluster(Path(directory) / "dev")
        cluster.up()
        try:
            figures = asyncio.run(measured(cluster, chosen.volumes, chosen.workers))
        finally:
            cluster.stop()
    print(json.dumps(figures, indent=1))
    return 0


async def measured(cluster: Cluster, volumes: int, workers: int) -> dict[str, Any]:
    path = cluster.layout.csi_socket("controller")
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        controller = rpc.ControllerStub(channel)
        await timed(controller.CreateVolume(request(0), timeout=TIMEOUT_S))  # the first one warms everything up
        alone = [await timed(controller.CreateVolume(request(n), timeout=TIMEOUT_S)) for n in range(1, ALONE + 1)]
        rest = range(ALONE + 1, volumes)
        began = time.monotonic()
        together = await by_workers(controller, iter(rest), workers)
        took = time.monotonic() - began
        pages = await listed(controller)
    assert sum(pages["entries"]) == volumes
    pid = cluster.state().processes["csi-controller"].pid
    return {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "create, one after the other": spread(alone),
        f"create, {workers} at once": spread(together) | {"per second": round(len(together) / took, 1)},
        "list, a page": spread(pages["seconds"]) | {"pages": len(pages["entries"]), "volumes": volumes},
        "controller's memory, MiB": resident_mib(pid),
    }


def request(number: int) -> pb.CreateVolumeRequest:
    capability = pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume())
    capability.access_mode.mode = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    return pb.CreateVolumeRequest(
        name=f"pvc-{number}",
        capacity_range=pb.CapacityRange(required_bytes=SIZE_BYTES),
        volume_capabilities=[capability],
        parameters={"replicas": "2"},
    )


async def timed(call: Awaitable[Any]) -> float:
    began = time.monotonic()
    await call
    return time.monotonic() - began


async def by_workers(controller: Any, numbers: Iterator[int], workers: int) -> list[float]:
    """Raises what a call raises: none may fail."""
    taken: list[float] = []

    async def work() -> None:
        for number in numbers:
            taken.append(await timed(controller.CreateVolume(request(number), timeout=TIMEOUT_S)))

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
    return taken


async def listed(controller: Any) -> dict[str, list[Any]]:
    seconds, entries, token = [], [], ""
    while True:
        began = time.monotonic()
        page = await controller.ListVolumes(pb.ListVolumesRequest(starting_token=token), timeout=TIMEOUT_S)
        seconds.append(time.monotonic() - began)
        entries.append(len(page.entries))
        token = page.next_token
        if not token:
            return {"seconds": seconds, "entries": entries}


def spread(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 1) if ordered else 0.0

    return {"calls": len(ordered), "p50 ms": at(0.5), "p99 ms": at(0.99), "max ms": at(1.0)}


def resident_mib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


if __name__ == "__main__":
    sys.exit(main())
