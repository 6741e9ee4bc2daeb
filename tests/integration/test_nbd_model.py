"""Random requests on a volume of three copies against a model in memory, with failovers between and during them.

The model has one value per sector of 512 bytes. Requests of all kinds, sizes and alignments come on two connections;
one after the other they must do what the model does, also when several that touch different places are under way.
In the end the copies on disk are equal, and are what the model says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.dev.cluster import Cluster
from services.dev.demo.verify import disagreements
from services.dev.nbd_client import NbdClient
from services.replica.store import block_sums
from stoscore.units import BLOCK_BYTES, MIB
from tests.support.cluster import RunningCluster
from tests.support.failovers import fail_over

pytestmark = [pytest.mark.slow, pytest.mark.long]
SECTOR = 512
SIZE_BYTES = 16 * MIB
FAILOVERS = 4
ROUNDS = 60
"""Of requests between two failovers."""


class Model:
    """What every sector holds, and requests that are done to it and to the volume."""

    def __init__(self, clients: list[NbdClient], seed: int):
        self.clients = clients
        self.dice = random.Random(seed)
        self.content = bytearray(SIZE_BYTES)
        self.done = 0

    def _ranges(self, count: int) -> list[tuple[int, int]]:
        """As many places that do not touch, on bounds of sectors. Mostly near each other, so that requests share
        blocks without sharing sectors."""
        sectors = SIZE_BYTES // SECTOR
        base = self.dice.choice([0, self.dice.randrange(sectors - 4096)])
        cuts = sorted(self.dice.sample(range(base, base + self.dice.choice([64, 512, 4096])), 2 * count))
        return [(one * SECTOR, (two - one) * SECTOR) for one, two in zip(cuts[::2], cuts[1::2], strict=True)]

    async def round(self) -> None:
        """Several at once."""
        places = self._ranges(self.dice.randint(1, 8))
        async with asyncio.TaskGroup() as group:
            for offset, length in places:
                group.create_task(self._one(self.dice.choice(self.clients), offset, length))

    async def _one(self, client: NbdClient, offset: int, length: int) -> None:
        kind = self.dice.choice(["read", "read", "write", "write", "write", "zero", "trim", "flush"])
        here = slice(offset, offset + length)
        self.done += 1
        if kind == "read":
            assert await client.read(offset, length) == self.content[here], (kind, offset, length)
        elif kind == "write":
            data = self.dice.randbytes(length)
            self.content[here] = data
            await client.write(offset, data, fua=self.dice.random() < 0.1)
        elif kind == "zero":
            self.content[here] = bytes(length)
            await client.write_zeroes(offset, length, no_hole=self.dice.random() < 0.5)
        elif kind == "trim":  # of a part of a block: a hint that is not followed
            first, last = -(-offset // BLOCK_BYTES) * BLOCK_BYTES, (offset + length) // BLOCK_BYTES * BLOCK_BYTES
            self.content[first:last] = bytes(max(last - first, 0))
            await client.trim(offset, length)
        else:
            await client.flush()

    async def all_is_there(self) -> None:
        for offset in range(0, SIZE_BYTES, MIB):
            assert await self.dice.choice(self.clients).read(offset, MIB) == self.content[offset : offset + MIB]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningCluster]:
    cluster = Cluster(tmp_path / "dev")
    await asyncio.to_thread(cluster.up)
    try:
        yield RunningCluster(cluster)
    finally:
        await asyncio.to_thread(cluster.stop)


async def test_the_volume_does_what_the_model_does(running: RunningCluster) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    created = running.stos("volume", "create", "model", "--size", "16MiB")
    assert created.code == 0, created.errors
    opened = await asyncio.to_thread(running.json, "volume", "connect", "model", "--node", "app")
    clients = [await NbdClient.connect(opened["socket"], "model") for _ in range(2)]
    model = Model(clients, seed)
    for _ in range(FAILOVERS):
        for _ in range(ROUNDS):
            await model.round()
        failing = asyncio.create_task(fail_over(running, "model"))
        while not failing.done():  # and during it
            await model.round()
        await failing
        await model.all_is_there()
    for client in clients:
        await client.flush()
        await client.close()
    assert running.stos("volume", "disconnect", "model").code == 0
    await running.in_sync("model", 3)
    copies = running.copies("model")
    assert len(copies) == 3 and disagreements(copies) == []
    assert copies[0].sums == block_sums(bytes(model.content))
