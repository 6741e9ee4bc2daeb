"""A copy comes back over a bad link, dies on its way, or loses whoever brings it up to date: with real processes, a
writer that never stops, and a look at every block on every disk afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.dev.cluster import Cluster
from services.dev.demo.recorder import Recorder
from services.dev.demo.verify import disagreements, not_as_written
from services.replica.store.tail import HEADER_BYTES
from tests.support.cluster import AlteredCluster, RunningCluster, completed, running_cluster
from tests.support.slow_road import SlowRoad

pytestmark = [pytest.mark.long, pytest.mark.slow]
NODES = ("n1", "n2", "n3")
MISSED_WRITES = 4000
SLOW_BYTES_PER_S = 8 << 20
"""Some copies on their way delay a beat by a quarter of a second here, which is less than a lease."""
BACK_S = 120.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stos") / "dev"


@pytest.fixture(scope="module")
def roads(directory: Path) -> Iterator[dict[str, SlowRoad]]:
    """The nodes' peer links lead through these; whoever dials a node dials its road."""
    cluster = Cluster(directory)
    with ExitStack() as stack:
        yield {
            node: stack.enter_context(SlowRoad(partial(lambda name: cluster.state().ports[name], node)))
            for node in NODES
        }


@pytest.fixture(scope="module")
def running(directory: Path, roads: dict[str, SlowRoad]) -> Iterator[RunningCluster]:
    advertised = {node: {"STOS_REPLICA_ADVERTISE": f"127.0.0.1:{road.port}"} for node, road in roads.items()}
    cluster = AlteredCluster(directory, settings=advertised)
    with running_cluster(cluster, len(NODES)) as running:
        yield running


@asynccontextmanager
async def away(running: RunningCluster, name: str) -> AsyncIterator[tuple[str, str, Recorder]]:
    """(a copy that missed much, the primary, the writer). At the end all copies are in sync, and then equal block by
    block, computed from the data, and as they were written."""
    assert running.stos("volume", "create", name, "--size", "64MiB").code == 0
    async with running.writing(name) as recorder:
        view = running.json("volume", "show", name)
        backup = next(node for node in NODES if node != view["primary"])
        await asyncio.to_thread(running.cluster.kill, backup)
        await completed(recorder, MISSED_WRITES, 120)
        yield backup, view["primary"], recorder
        await running.wait(f"{name} in sync", lambda: len(shown(running, name)["in_sync"]) == len(NODES), BACK_S)
        await completed(recorder, 200)
    assert recorder.history.errors == 0
    copies = running.copies(name)
    assert len(copies) == len(NODES)
    assert disagreements(copies) == []
    assert not_as_written(copies[0], recorder.history.allowed(recorder.pattern)) == []
    assert running.stos("volume", "disconnect", name).code == 0
    assert running.stos("volume", "rm", name).code == 0


def shown(running: RunningCluster, name: str) -> dict[str, Any]:
    view: dict[str, Any] = running.json("volume", "show", name)
    return view


@pytest.fixture
def slow(roads: dict[str, SlowRoad]) -> Iterator[dict[str, SlowRoad]]:
    for road in roads.values():
        road.bytes_per_s = SLOW_BYTES_PER_S
    yield roads
    free(roads)


def free(roads: dict[str, SlowRoad]) -> None:
    for road in roads.values():
        road.bytes_per_s, road.share = 0, 0.0


async def until_copying(running: RunningCluster, road: SlowRoad) -> None:
    """Some of it has passed."""
    passed = road.passed
    await running.wait("pieces of copies on the road", lambda: road.passed > passed + 30, BACK_S)


async def test_a_link_that_is_cut_delayed_and_throttled(running: RunningCluster, slow: dict[str, SlowRoad]) -> None:
    async with away(running, "road") as (backup, _, _):
        road = slow[backup]
        road.share, road.delay_s = 0.1, (0.01, 0.1)
        await asyncio.to_thread(running.cluster.start, backup)
        for _ in range(5):
            await until_copying(running, road)
            await asyncio.to_thread(road.cut)
        free(slow)


async def test_a_target_that_dies_again_and_again(running: RunningCluster, slow: dict[str, SlowRoad]) -> None:
    async with away(running, "target") as (backup, _, _):
        for _ in range(4):
            await asyncio.to_thread(running.cluster.start, backup)
            await until_copying(running, slow[backup])
            await asyncio.to_thread(running.cluster.kill, backup)
        free(slow)
        await asyncio.to_thread(running.cluster.start, backup)


async def test_a_source_that_dies_in_the_middle(running: RunningCluster, slow: dict[str, SlowRoad]) -> None:
    async with away(running, "source") as (backup, primary, _):
        await asyncio.to_thread(running.cluster.start, backup)
        await until_copying(running, slow[backup])
        await asyncio.to_thread(running.cluster.kill, primary)
        free(slow)
        await asyncio.to_thread(running.cluster.start, primary)


async def test_a_list_of_latest_writes_that_is_torn_is_not_believed(running: RunningCluster) -> None:
    """The copy can't tell what it holds unconfirmed, so everything that is marked is compared."""
    async with away(running, "tail") as (backup, _, _):
        (tail,) = _tails(running, backup, shown(running, "tail")["volume"])
        whole = tail.read_bytes()
        entries = bytearray(whole[HEADER_BYTES:])
        for at in range(0, len(entries), 512):
            entries[at] ^= 0xFF
        tail.write_bytes(whole[:HEADER_BYTES] + entries)
        await asyncio.to_thread(running.cluster.start, backup)


def _tails(running: RunningCluster, node: str, volume: str) -> list[Path]:
    return [path for path in running.cluster.layout.data(node).rglob("tail") if volume in str(path)]
