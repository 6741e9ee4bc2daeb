"""A node is gone for good: its volumes are whole again elsewhere, with real processes and a writer that never stops."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.dev.cluster import Cluster
from services.dev.demo.verify import disagreements, not_as_written
from services.dev.nbd_client import NbdClient, NbdError
from stoscore.units import BLOCK_BYTES
from tests.support.cluster import RunningCluster, completed, running_cluster

pytestmark = [pytest.mark.long, pytest.mark.slow]
NODES = ("n1", "n2", "n3", "n4")
GRACE_S = 2
REPAIRED_S = 60.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    cluster = Cluster(tmp_path_factory.mktemp("stos") / "dev")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STOS_REPLICA_GRACE_S", str(GRACE_S))
        with running_cluster(cluster, len(NODES)) as running:
            yield running


def voters(view: dict[str, Any]) -> dict[str, str]:
    return {voter["node"]: voter["kind"] for voter in view["voters"]}


async def whole(running: RunningCluster, name: str, copies: int, *, without: str = "") -> dict[str, Any]:
    """Waits until that many copies are in sync, nobody is joining, and an odd number of voters is there."""
    found: dict[str, Any] = {}

    def is_whole() -> bool:
        view = running.json("volume", "show", name)
        found.update(view)
        data = [node for node, kind in voters(view).items() if kind == "data"]
        settled = not view["joining"] and len(view["voters"]) % 2 == 1
        return len(view["in_sync"]) == len(data) == copies and settled and without not in voters(view)

    await running.wait(f"{name} with {copies} copies, none on {without or 'a lost node'}", is_whole, REPAIRED_S)
    return found


def directories(running: RunningCluster, node: str, volume: str) -> list[Path]:
    return [path for path in running.cluster.layout.data(node).rglob(volume) if path.is_dir()]


def make(running: RunningCluster, name: str, *options: str) -> dict[str, Any]:
    view: dict[str, Any] = running.json("volume", "create", name, "--size", "16MiB", *options)
    return view


async def test_a_node_lost_for_good_is_replaced_and_its_copy_removed_when_it_returns(running: RunningCluster) -> None:
    made = make(running, "data")
    (spare,) = set(NODES) - set(voters(made))
    victim = next(node for node in voters(made) if node != made["primary"])
    async with running.writing("data") as recorder:
        await asyncio.to_thread(running.cluster.kill, victim)
        view = await whole(running, "data", 3, without=victim)
        assert spare in view["in_sync"]
        await completed(recorder, 500)
        await asyncio.to_thread(running.cluster.start, victim)
        await running.wait(f"{victim} without its old copy", lambda: not directories(running, victim, made["volume"]))
    assert recorder.history.errors == 0
    copies = running.copies("data")
    assert len(copies) == 3
    assert disagreements(copies) == []
    assert not_as_written(copies[0], recorder.history.allowed(recorder.pattern)) == []


async def test_a_lost_primary_is_replaced_too_and_the_returned_node_takes_the_new_copy(running: RunningCluster) -> None:
    before = running.json("volume", "show", "data")
    victim = before["primary"]
    (spare,) = set(NODES) - set(voters(before))
    async with running.writing("data") as recorder:
        await asyncio.to_thread(running.cluster.kill, victim)
        view = await whole(running, "data", 3, without=victim)
        assert spare in view["in_sync"]
        await completed(recorder, 500)
        await asyncio.to_thread(running.cluster.start, victim)
        await running.wait(f"{victim} without its copy", lambda: not directories(running, victim, before["volume"]))
    assert recorder.history.errors == 0
    assert disagreements(running.copies("data")) == []


async def test_the_number_of_copies_changes_under_load(running: RunningCluster) -> None:
    async with running.writing("data") as recorder:
        assert running.json("volume", "set", "data", "--replicas", "1")["replicas"] == 1
        fewer = await whole(running, "data", 2)
        assert sorted(voters(fewer).values()) == ["data", "data", "witness"]
        assert running.json("volume", "set", "data", "--replicas", "2")["replicas"] == 2
        more = await whole(running, "data", 3)
        assert sorted(voters(more).values()) == ["data", "data", "data"]
        await completed(recorder, 500)
        holders = set(voters(more))
        for node in set(NODES) - holders:
            await running.wait(f"{node} empty", lambda node=node: not directories(running, node, more["volume"]))  # type: ignore[misc]
    assert recorder.history.errors == 0
    assert disagreements(running.copies("data")) == []


async def test_writes_wait_below_the_number_and_go_on_when_the_repair_is_done(running: RunningCluster) -> None:
    """With placement away only the new copy waits; reads go on all the time, on a new connection too."""
    made = make(running, "hard", "--failure-mode", "hard")
    victim = next(node for node in voters(made) if node != made["primary"])
    opened = running.json("volume", "connect", "hard", "--node", "app")
    content = bytes(range(256)) * (BLOCK_BYTES // 256)
    async with await NbdClient.connect(opened["socket"], "hard") as client:
        await client.write(0, content)
        await asyncio.to_thread(running.cluster.kill, "placement")
        await asyncio.to_thread(running.cluster.kill, victim)

        def shrunk() -> bool:
            return victim not in running.json("volume", "show", "hard")["in_sync"]

        await running.wait("the lost copy out of the set", shrunk)
        write = asyncio.create_task(client.write(BLOCK_BYTES, content))
        for _ in range(20):
            assert await client.read(0, BLOCK_BYTES) == content
        async with await NbdClient.connect(opened["socket"], "hard") as another:
            assert await another.read(0, BLOCK_BYTES) == content
        assert not write.done()
        await asyncio.to_thread(running.cluster.start, "placement")
        await asyncio.wait_for(write, REPAIRED_S)
        assert victim not in voters(running.json("volume", "show", "hard"))
    await asyncio.to_thread(running.cluster.start, victim)


async def test_writes_fail_below_the_number_when_the_policy_says_so(running: RunningCluster) -> None:
    made = make(running, "strict", "--failure-mode", "3", "--on-unavailable", "error")
    victim = next(node for node in voters(made) if node != made["primary"])
    opened = running.json("volume", "connect", "strict", "--node", "app")
    async with await NbdClient.connect(opened["socket"], "strict") as client:
        content = b"x" * BLOCK_BYTES
        await client.write(0, content)
        await asyncio.to_thread(running.cluster.kill, "placement")
        await asyncio.to_thread(running.cluster.kill, victim)
        with pytest.raises(NbdError) as caught:
            await asyncio.wait_for(_until_it_fails(client, content), 30)
        assert caught.value.errno == errno.EIO
        assert await client.read(0, BLOCK_BYTES) == content
        assert running.json("volume", "set", "strict", "--failure-mode", "soft")["failure_mode"] == "soft"
        await client.write(BLOCK_BYTES, content)
    await asyncio.to_thread(running.cluster.start, "placement")
    await asyncio.to_thread(running.cluster.start, victim)
    await whole(running, "strict", 3)
    assert disagreements(running.copies("strict")) == [], "a write that failed is equal everywhere"


async def _until_it_fails(client: NbdClient, content: bytes) -> None:
    while True:
        await client.write(2 * BLOCK_BYTES, content)
        await asyncio.sleep(0.01)
