"""Real processes: the majority of a volume is lost, an operator decides, what comes back is thrown away (I4)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from services.dev import leftovers
from services.dev.cluster import Cluster
from services.dev.demo.verify import disagreements
from services.dev.nbd_client import NbdClient
from services.replica.brain.decisions import replay
from stoscore.units import BLOCK_BYTES
from tests.support.cluster import Result, RunningCluster

pytestmark = [pytest.mark.long, pytest.mark.slow]
NODES = ("n1", "n2", "n3")
BLOCKS = 200


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    cluster = Cluster(tmp_path_factory.mktemp("stos") / "dev")
    cluster.up()
    try:
        yield RunningCluster(cluster)
    finally:
        cluster.stop()
    assert list(leftovers.programs(cluster.layout.root, cluster.layout.run)) == []


def content(block: int) -> bytes:
    return random.Random(block).randbytes(BLOCK_BYTES)


async def test_a_volume_goes_on_with_the_copy_that_is_left(running: RunningCluster) -> None:
    assert running.stos("volume", "create", "data", "--size", "16MiB").code == 0
    opened = running.json("volume", "connect", "data", "--node", "app")
    async with await NbdClient.connect(opened["socket"], "data") as client:
        for block in range(BLOCKS):
            await client.write(block * BLOCK_BYTES, content(block))
        await client.flush()
    primary = running.json("volume", "show", "data")["primary"]
    keeper, other = (node for node in NODES if node != primary)

    def override(*more: str, on: str = keeper) -> Result:
        return running.stos("volume", "override", "data", "--on", on, "--reason", "ticket 4711", *more)

    told = override("--lost", other, on=primary)
    assert told.code == 5 and "leads the volume: nothing is lost" in told.errors
    told = override("--lost", primary, "--lost", other)
    assert told.code == 5 and f"{primary} leads the volume" in told.errors
    assert running.stos("volume", "override", "data", "--on", keeper, "--lost", other).code == 2, "a reason is needed"
    assert override(on="app").code == 3

    for node in (primary, other):
        running.cluster.kill(node)
    told = override("--lost", primary)
    assert told.code == 5 and f"silent, and not named as lost: {other}" in told.errors
    gone = running.stos("volume", "override", "data", "--on", keeper, "--lost", primary, "--lost", other,
                        "--reason", "ticket 4711", "-o", "json").json  # fmt: skip
    assert gone == {"name": "data", "primary": keeper, "generation": 1, "given_up": sorted((primary, other))}
    shown = running.json("volume", "show", "data")
    assert (shown["generation"], shown["attached"], shown["in_sync"]) == (1, None, [keeper])

    opened = running.json("volume", "connect", "data", "--node", "app")
    async with await NbdClient.connect(opened["socket"], "data") as client:
        for block in range(BLOCKS):
            assert await client.read(block * BLOCK_BYTES, BLOCK_BYTES) == content(block)
        await client.write(0, content(7777))
        await client.flush()
        for node in (primary, other):
            await asyncio.to_thread(running.cluster.start, node)
        await running.in_sync("data", 3)
        assert await client.read(0, BLOCK_BYTES) == content(7777)
    assert disagreements(running.copies("data")) == []
    chapters = running.json("volume", "why", "data", "--since", "10m")
    assert [chapter for chapter in chapters if chapter["kind"] == "override"]
    assert {chapter["node"] for chapter in chapters if chapter["kind"] == "leave"} == {primary, other}
    for chapter in chapters:
        if chapter["kind"] in ("override", "leave"):
            assert replay(chapter["inputs"]).outcome == chapter["outcome"]
