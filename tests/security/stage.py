"""The cluster under attack, with a volume in use: what the attackers aim at and how the victims feel."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.dev.layout import ADMIN, APP
from services.dev.nbd_client import NbdClient
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError
from stoscore.identity import Identity
from stoscore.messages import DescribeReplica, RecordModel, ReplicaStatus
from stoscore.subjects import node as node_subject
from stoscore.units import BLOCK_BYTES
from stoscore.volumes import Volumes
from tests.security.arms import Arms
from tests.security.attacker import Attacker
from tests.security.scene import HOST, Scene
from tests.security.trail import Trail
from tests.support.cluster import AlteredCluster, RunningCluster

VICTIM = "victim"
"""A volume with three copies, attached to the node `app` and in use there."""
SINGLE = "single"
"""A volume with one copy: two nodes hold nothing of it."""
ELECTED_WITHIN_S = 20.0
READER, GHOST = "reader", "ghost"
"""The users to whom the victim's volume is exported; the second one is revoked."""


class Stage:
    """One cluster, from its start to its end. `bus` is the administrator's."""

    def __init__(self, cluster: AlteredCluster, directory: Path):
        self.running = RunningCluster(cluster)
        self.cluster = cluster
        self.arms = Arms(cluster, directory)
        self.trail = Trail()
        self.attacker = Attacker(directory / "attacker.log")
        self.bus: Bus
        self.socket = ""
        """Of the victim's volume; "" while only certs runs."""
        self.ports: dict[str, int] = {}

    @classmethod
    @asynccontextmanager
    async def play(cls, cluster: AlteredCluster, directory: Path, *, only: str = "") -> AsyncIterator[Stage]:
        """The cluster is started and, in the end, stopped. `only`: nothing but that group is started."""
        stage = cls(cluster, directory)
        try:
            if only:
                await asyncio.to_thread(cluster.up_to, only)
            else:
                await asyncio.to_thread(cluster.up)
                await stage._prepare()
            yield stage
        finally:
            stage.attacker.close()
            if not only and stage.socket:
                await stage.bus.close()
            assert await asyncio.to_thread(cluster.stop) == []

    async def _prepare(self) -> None:
        for name, replicas in ((VICTIM, "2"), (SINGLE, "0")):
            words = ("volume", "create", name, "--size", "16MiB", "--replicas", replicas)
            made = await asyncio.to_thread(self.running.stos, *words)
            assert made.code == 0, made.errors
        opened = await asyncio.to_thread(self.running.json, "volume", "connect", VICTIM, "--node", APP)
        identity = Identity.load(self.cluster.layout.identity(ADMIN))
        self.bus = await Bus.connect(identity, list(self.cluster.state().nats_urls), name="security tests", wait=True)
        self.socket = opened["socket"]
        listen = ("--listen", f"{HOST}:0", "--client", f"user/{READER}", "--client", f"user/{GHOST}")
        exported = await asyncio.to_thread(self.running.json, "volume", "export", VICTIM, *listen)
        self.ports = dict(self.cluster.state().ports) | {"nbd": int(exported["address"].rpartition(":")[2])}

    # --- as the administrator ---

    async def scene(self) -> Scene:
        if not self.socket:
            # Only certs runs. What a join token says in the open is known to everybody.
            token = await self.arms.token("node", "nobody")
            return Scene(token.cluster, dict(self.cluster.state().ports), token.root_pem)
        records = {}
        for name in (VICTIM, SINGLE):
            records[name] = await self.record_soon(name)
        identity = self.bus.identity
        return Scene(identity.cluster, self.ports, identity.trust_pem, records)

    async def record_now(self, volume: str) -> dict[str, Any] | None:
        """None when nobody serves it any more."""
        try:
            _, status = await Volumes(self.bus, Catalogue(self.bus)).get(volume)
        except StosError:
            return None
        return status.record.model_dump(mode="json") if status is not None and status.record is not None else None

    async def record_soon(self, volume: str) -> dict[str, Any]:
        """When it is between two leaders, of the next one. Raises AssertionError when there is none."""
        end = time.monotonic() + ELECTED_WITHIN_S
        while (record := await self.record_now(volume)) is None:
            assert time.monotonic() < end, f"nobody serves {volume}"
            await asyncio.sleep(0.1)
        return record

    async def record_at(self, node: str, volume: str) -> RecordModel:
        """The volume's record as that node has it."""
        asked = DescribeReplica(volume=volume)
        status = await self.bus.request(node_subject(node, "describe"), asked, ReplicaStatus)
        assert status.record is not None
        return status.record

    # --- as the victim ---

    async def victim_works(self, copies: int = 3) -> None:
        """The volume takes a write, keeps it and gives it back; so many copies of it are in sync."""
        async with await NbdClient.connect(self.socket, VICTIM) as client:
            content = os.urandom(BLOCK_BYTES)
            block = int.from_bytes(os.urandom(2)) % (client.size // BLOCK_BYTES)
            await client.write(block * BLOCK_BYTES, content)
            await client.flush()
            assert await client.read(block * BLOCK_BYTES, BLOCK_BYTES) == content
        async with asyncio.timeout(30):
            while await self._in_sync() < copies:
                await asyncio.sleep(0.1)

    async def _in_sync(self) -> int:
        record = await self.record_now(VICTIM)
        return len(record["in_sync"]) if record is not None else 0
