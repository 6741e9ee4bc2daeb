"""How long a snapshot holds up who writes: the longest pause between two answers to 16 writers around each."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from services.dev.cluster import Cluster
from services.dev.nbd_client import NbdClient
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import BLOCK_BYTES, MIB

SNAPSHOTS, GROUPS = 20, 10
DEPTH = 16
SIZE_BYTES = 64 * MIB
TIMEOUT_S = 60.0
AROUND_S = 0.2


class Writers:
    """Of one volume, each with one write of 4 KiB under way all the time."""

    def __init__(self, client: NbdClient):
        self._client = client
        self._last_s = 0.0
        self._ends = False
        self.longest_s = 0.0

    async def run(self) -> None:
        await asyncio.gather(*(self._write(number) for number in range(DEPTH)))

    def begin(self) -> None:
        self.longest_s, self._last_s = 0.0, time.monotonic()

    def end(self) -> None:
        self._ends = True

    async def _write(self, number: int) -> None:
        blocks = SIZE_BYTES // BLOCK_BYTES // DEPTH
        count = 0
        while not self._ends:
            count += 1
            await self._client.write((number * blocks + count % blocks) * BLOCK_BYTES, os.urandom(BLOCK_BYTES))
            now_s = time.monotonic()
            self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s


async def pauses(cluster: Cluster, channel: Any, request: Any) -> dict[str, list[float]]:
    """Seconds, around each snapshot and without any. `request(name, size)`: to create a volume."""
    controller, groups = rpc.ControllerStub(channel), rpc.GroupControllerStub(channel)
    names = ("busy-1", "busy-2")
    volumes = [
        (await controller.CreateVolume(request(name, SIZE_BYTES), timeout=TIMEOUT_S)).volume.volume_id for name in names
    ]
    clients = [await NbdClient.connect(await asyncio.to_thread(_connected, cluster, name), name) for name in names]
    writers = [Writers(client) for client in clients]
    tasks = [asyncio.create_task(one.run()) for one in writers]
    found: dict[str, list[float]] = {"without": [], "snapshot": [], "group": []}

    async def around(kind: str, call: Any) -> None:
        await asyncio.sleep(AROUND_S)
        for one in writers:
            one.begin()
        answer = await call
        await asyncio.sleep(AROUND_S)
        if kind == "snapshot":
            found[kind].append(writers[0].longest_s)
            await controller.DeleteSnapshot(
                pb.DeleteSnapshotRequest(snapshot_id=answer.snapshot.snapshot_id), timeout=TIMEOUT_S
            )
        else:
            found[kind].append(max(one.longest_s for one in writers))
        if kind == "group":
            await groups.DeleteVolumeGroupSnapshot(
                pb.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=answer.group_snapshot.group_snapshot_id),
                timeout=TIMEOUT_S,
            )

    try:
        await asyncio.sleep(1.0)
        for number in range(SNAPSHOTS):
            one = pb.CreateSnapshotRequest(source_volume_id=volumes[0], name=f"snap-{number}")
            await around("without", asyncio.sleep(AROUND_S))
            await around("snapshot", controller.CreateSnapshot(one, timeout=TIMEOUT_S))
        for number in range(GROUPS):
            both = pb.CreateVolumeGroupSnapshotRequest(source_volume_ids=volumes, name=f"group-{number}")
            await around("group", groups.CreateVolumeGroupSnapshot(both, timeout=TIMEOUT_S))
    finally:
        for one in writers:
            one.end()
        await asyncio.gather(*tasks)
        for client in clients:
            await client.close()
    return found


def _connected(cluster: Cluster, name: str) -> str:
    """The socket."""
    command = [sys.executable, "-m", "services.cli.main", "volume", "connect", name, "--node", "app", "-o", "json"]
    environment = {**os.environ, "STOS_DIR": str(cluster.layout.root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return str(json.loads(done.stdout)["socket"])
