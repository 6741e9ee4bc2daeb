"""A node that floods another one, from a process of its own, while a volume that it has nothing to do with is used.

It shares the loop with everybody and gets no more than its turn: writes go on, no lease is lost, memory stays where it
was. No time is measured, because a busy machine would decide the test; what is asked is that things happen at all.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from services.dev.nbd_client import NbdClient
from stoscore.units import MIB
from tests.support.wired import SIZE, Wired, wired

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]
WRITES = 300
GROWTH_BYTES_MAX = 96 * MIB
"""Of this whole process with four nodes in it. One flooded link may hold a receive buffer, and its answers."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wired]:
    async with wired(tmp_path_factory.mktemp("flood"), "n1", "n2", "n3", "app") as found:
        yield found


@asynccontextmanager
async def flooding(cluster: Wired, victim: str, kind: str, volume: str) -> AsyncIterator[asyncio.StreamReader]:
    """Yields what the flooder tells once a second, when it has begun."""
    identity = cluster.authority.issue(cluster.directory, f"x-{kind}")
    port = cluster.addresses[victim].rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.flooder",
        str(identity.directory),
        port,
        kind,
        volume,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline()
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


def resident_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.parametrize("kind", ["beats", "opens", "reads", "writes", "claims", "brain", "links"])
async def test_io_goes_on_while_somebody_floods(cluster: Wired, kind: str) -> None:
    volume = await cluster.volume("n1", "n2", "n3")
    opened = await cluster.open(volume, "app")
    client = await NbdClient.connect(opened.socket, "vol")
    await client.write(0, b"first" + bytes(4091))
    leader, epoch = cluster.leader(volume), cluster.leader(volume).of(volume).brain.epoch
    before = resident_bytes()
    async with flooding(cluster, leader.name, kind, volume) as told:
        for number in range(WRITES):
            async with asyncio.timeout(30):
                await client.write(number * 4096 % SIZE, number.to_bytes(8) * 512)
        for number in range(0, WRITES, 10):
            assert await client.read(number * 4096, 4096) == number.to_bytes(8) * 512
        async with asyncio.timeout(30):
            assert await told.readline(), "the flood went on all the time"
        links = [link for link in leader.network.links() if link.peer == f"x-{kind}"]
        assert all(link.pending_bytes < 100 * MIB for link in links)
        assert resident_bytes() - before < GROWTH_BYTES_MAX
    assert cluster.leader(volume) is leader
    assert leader.of(volume).brain.epoch == epoch
    await client.close()
    await cluster.nodes["app"].frontends.close(volume)
