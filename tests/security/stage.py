"""The cluster under attack, with a volume in use: what the attackers aim at and how the victims feel."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine
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
NEXT_DOOR = "nbd-next"
"""Where another volume than the victim's is exported."""
ELECTED_WITHIN_S = 20.0
WORKS_WITHIN_S = 60.0
READER, GHOST, LEAVER = "reader", "ghost", "leaver"
"""The users to whom the victim's volume is exported; the second one is revoked, the third one will be."""


class Stage:
    """One cluster, from its start to its end. `bus` is the administrator's."""

    def __init__(self, cluster: AlteredCluster, directory: Path):
        self.running = RunningCluster(cluster)
        self.cluster = cluster
        self.arms = Arms(cluster, directory)
        self.trail = Trail()
        self.attacker = Attacker(directory / "attacker.log")
        self._beside: set[asyncio.Task[None]] = set()
        self.bus: Bus
        self.socket = ""
        """Of the victim's volume; "" while there is none."""
        self.ports: dict[str, int] = {}

    @classmethod
    @asynccontextmanager
    async def play(
        cls, cluster: AlteredCluster, directory: Path, *, only: tuple[str, ...] = (), orderly: bool = True
    ) -> AsyncIterator[Stage]:
        """The cluster is started and, in the end, stopped. `only`: nothing but those groups, and no volumes. `orderly`:
        nobody has to be killed then."""
        stage = cls(cluster, directory)
        try:
            if only:
                await asyncio.to_thread(cluster.up_only, only)
            else:
                await asyncio.to_thread(cluster.up)
                await stage._prepare()
            yield stage
        finally:
            stage.attacker.close()
            for task in stage._beside:
                task.cancel()
            if not only and stage.socket:
                await stage.bus.close()
            killed = await asyncio.to_thread(cluster.stop)
            assert not (orderly and killed), killed

    async def _prepare(self) -> None:
        await self._create(VICTIM, replicas=2)
        await self._create(SINGLE, replicas=0)
        opened = await self._connect(VICTIM)
        identity = Identity.load(self.cluster.layout.identity(ADMIN))
        self.bus = await Bus.connect(identity, list(self.cluster.state().nats_urls), name="security tests", wait=True)
        self.socket = opened["socket"]
        self.ports = dict(self.cluster.state().ports)
        await self._export(VICTIM, "nbd", *(f"user/{name}" for name in (READER, GHOST, LEAVER)))

    async def _create(self, name: str, *, replicas: int) -> None:
        words = ("volume", "create", name, "--size", "16MiB", "--replicas", str(replicas))
        made = await asyncio.to_thread(self.running.stos, *words)
        assert made.code == 0, made.errors

    async def _connect(self, volume: str) -> Any:
        return await asyncio.to_thread(self.running.json, "volume", "connect", volume, "--node", APP)

    async def _export(self, volume: str, door: str, *clients: str) -> None:
        words = [word for client in clients for word in ("--client", client)]
        exported = await asyncio.to_thread(
            self.running.json, "volume", "export", volume, "--listen", f"{HOST}:0", *words
        )
        self.ports[door] = int(exported["address"].rpartition(":")[2])

    async def export_to(self, client: str) -> None:
        """The volume with one copy, to this one alone."""
        if NEXT_DOOR not in self.ports:
            await self._connect(SINGLE)
            await self._export(SINGLE, NEXT_DOOR, client)

    def later(self, what: Coroutine[Any, Any, None]) -> None:
        """Beside the attack that follows."""
        task = asyncio.create_task(what)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    # --- as the administrator ---

    async def scene(self) -> Scene:
        if not self.socket:
            # What a join token says in the open is known to everybody.
            token = await self.arms.token("node", "nobody")
            return Scene(token.cluster, dict(self.cluster.state().ports), token.root_pem)
        records = {}
        for name in (VICTIM, SINGLE):
            records[name] = await self.record_soon(name)
        identity = self.bus.identity
        return Scene(identity.cluster, self.ports, identity.trust_pem, records)

    async def volume(self, name: str) -> dict[str, Any]:
        """The record of another volume with one copy, made when it is asked for first."""
        found = await self.record_now(name)
        if found is None:
            await self._create(name, replicas=0)
            found = await self.record_soon(name)
        return found

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
        async with asyncio.timeout(WORKS_WITHIN_S), await NbdClient.connect(self.socket, VICTIM) as client:
            content = os.urandom(BLOCK_BYTES)
            block = int.from_bytes(os.urandom(2)) % (client.size // BLOCK_BYTES)
            await client.write(block * BLOCK_BYTES, content)
            await client.flush()
            assert await client.read(block * BLOCK_BYTES, BLOCK_BYTES) == content
        async with asyncio.timeout(WORKS_WITHIN_S):
            while await self._in_sync() < copies:
                await asyncio.sleep(0.1)

    async def _in_sync(self) -> int:
        record = await self.record_now(VICTIM)
        return len(record["in_sync"]) if record is not None else 0
