"""Volumes over a real NATS with TLS and permissions, a real catalogue and the real placement service.

The nodes are models (tests/support/model_nodes.py) that answer as nodes do; elections and disks have their own
tests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.cli.main import run
from services.placement.app import PlacementService
from stoscore import subjects
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError
from stoscore.host import HostContext
from stoscore.messages import Ranking, RankRequest
from stoscore.settings import CommonSettings
from stoscore.units import GIB, MIB
from stoscore.volumes import Volumes
from tests.integration.conftest import BusOf
from tests.support.bids import request
from tests.support.control_plane import ControlPlane
from tests.support.model_nodes import ModelCluster
from tests.support.serve_model import serve_node

COPY_NODES = ("vn1", "vn2", "vn3", "vn4")
APP = "vapp"


@pytest.fixture
async def cluster(bus_of: BusOf) -> ModelCluster:
    """Four nodes for copies, the last one small, and one that takes none."""
    model = ModelCluster(*COPY_NODES, APP)
    for node in COPY_NODES[:-1]:
        await serve_node(await bus_of("node", node), model, node)
    await serve_node(await bus_of("node", COPY_NODES[-1]), model, COPY_NODES[-1], capacity_bytes=64 * MIB)
    await serve_node(await bus_of("node", APP), model, APP, accepts_copies=False)
    return model


@pytest.fixture
async def placement(bus_of: BusOf) -> AsyncIterator[dict[str, asyncio.Event]]:
    """Two instances of the real service; setting an instance's event stops it."""
    stops: dict[str, asyncio.Event] = {}
    tasks = []
    for name in ("placement-1", "placement-2"):
        stops[name], ready = asyncio.Event(), asyncio.Event()
        bus = await bus_of("svc", name)
        context = HostContext(CommonSettings(), bus.identity, bus, stops[name], ready.set)
        tasks.append(asyncio.create_task(PlacementService().run(context)))
        await asyncio.wait_for(ready.wait(), 10)
    yield stops
    for stop in stops.values():
        stop.set()
    await asyncio.gather(*tasks)


@pytest.fixture
async def admin(bus_of: BusOf) -> Bus:
    return await bus_of("user", "admin")


@pytest.fixture
async def volumes(admin: Bus, cluster: ModelCluster, placement: object) -> Volumes:
    return Volumes(admin, Catalogue(admin))


async def test_a_volume_from_create_to_delete(volumes: Volumes, cluster: ModelCluster) -> None:
    status = await volumes.create("life", GIB, labels={"app": "db"})
    assert status.record is not None
    assert {voter.node for voter in status.record.voters} == {"vn1", "vn2", "vn3"}
    again = await volumes.create("life", GIB)
    assert again.record == status.record

    attached = await volumes.attach("life", APP)
    opened = await volumes.open_frontend("life", APP, attached=attached)
    assert opened.node == APP
    with pytest.raises(StosError) as caught:
        await volumes.delete("life")
    assert caught.value.code is Code.FAILED_PRECONDITION

    await volumes.close_frontend("life", APP)
    await volumes.detach("life", APP)
    assert await volumes.delete("life")
    assert not await volumes.delete("life")
    assert not any(node.replicas for node in cluster.nodes.values())


async def test_a_refusal_tells_the_reason_of_each_node(volumes: Volumes, admin: Bus) -> None:
    with pytest.raises(StosError) as caught:
        await volumes.create("wide", GIB, replicas=3)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.details["refused"] == {
        APP: "takes no copies",
        "vn4": "capacity: 1.0 GiB is above its whole capacity of 64.0 MiB",
    }
    with pytest.raises(StosError) as caught:
        await volumes.create("huge", 200 * GIB)
    assert caught.value.code is Code.OUT_OF_RANGE
    for name in ("wide", "huge"):
        with pytest.raises(StosError) as caught:
            await Catalogue(admin).by_name(name)
        assert caught.value.code is Code.NOT_FOUND


async def test_placement_explains_what_it_would_do(admin: Bus, cluster: ModelCluster, placement: object) -> None:
    asked = request(4, witnesses=1)
    ranking = await admin.request(subjects.placement("explain"), asked, Ranking)
    assert {choice.node for choice in ranking.chosen} == {"vn1", "vn2", "vn3"}
    assert {refusal.node for refusal in ranking.refused} == {"vn4", APP}
    assert ranking.instance in ("placement-1", "placement-2")


async def test_bad_requests_leave_placement_alive(admin: Bus, cluster: ModelCluster, placement: object) -> None:
    asked = request(1)
    wrong = RankRequest.model_construct(**asked.model_dump() | {"copies": 99, "surprise": 1})
    with pytest.raises(StosError) as caught:
        await admin.request(subjects.placement("rank"), wrong, Ranking)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert (await admin.request(subjects.placement("rank"), asked, Ranking)).chosen


async def test_without_placement_only_new_volumes_wait(
    volumes: Volumes, placement: dict[str, asyncio.Event], bus_of: BusOf
) -> None:
    await volumes.create("before", MIB)
    for stop in placement.values():
        stop.set()
    for name in placement:
        await (await bus_of("svc", name)).close()
    assert (await volumes.create("before", MIB)).serving
    await volumes.attach("before", APP)
    await volumes.detach("before")
    assert await volumes.delete("before")


async def test_two_clients_that_create_one_name_get_one_volume(volumes: Volumes, bus_of: BusOf) -> None:
    other_bus = await bus_of("svc", "csi")
    other = Volumes(other_bus, Catalogue(other_bus))
    one, two = await asyncio.gather(volumes.create("shared", MIB), other.create("shared", MIB))
    assert one.record == two.record
    assert await volumes.delete("shared")


async def test_a_node_that_is_silent_during_create(volumes: Volumes, cluster: ModelCluster, admin: Bus) -> None:
    original = cluster.answer

    async def freeze_at_create(node: str, verb: str, message: object) -> object:
        if (node, verb) == ("vn2", "create") and cluster.nodes["vn2"].up:
            cluster.nodes["vn2"].up = False
        return await original(node, verb, message)

    cluster.answer = freeze_at_create  # type: ignore[method-assign,assignment]
    with pytest.raises(StosError, match="node vn2") as caught:
        await volumes.create("slow", GIB, timeout_s=2)
    assert caught.value.code is Code.UNAVAILABLE
    begun = await Catalogue(admin).by_name("slow")
    assert begun.state == "creating"

    cluster.answer = original  # type: ignore[method-assign]
    cluster.nodes["vn2"].up = True
    status = await volumes.create("slow", GIB)
    assert status.record is not None
    assert status.record.volume == begun.volume
    assert await volumes.delete("slow")


async def test_a_frozen_primary_is_passed_over(volumes: Volumes, cluster: ModelCluster) -> None:
    status = await volumes.create("frozen", GIB)
    cluster.nodes[status.node].up = False
    entry, found = await volumes.get("frozen", timeout_s=5)
    assert found is not None
    assert found.node != status.node
    attached = await volumes.attach("frozen", APP, timeout_s=10)
    assert attached.attach_epoch == 1
    cluster.nodes[status.node].up = True
    await volumes.detach(entry.volume)
    assert await volumes.delete("frozen")


async def test_the_command_line_end_to_end(
    control_plane: ControlPlane,
    cluster: ModelCluster,
    placement: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    identity = control_plane.identity("user", "admin")
    description = {"nats_urls": control_plane.nats_urls, "user_identity_dir": str(identity.directory)}
    (tmp_path / "cluster.json").write_text(json.dumps(description))
    monkeypatch.setenv("STOS_DIR", str(tmp_path))

    async def stos(*arguments: str) -> str:
        assert await asyncio.to_thread(run, arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "3 copies on" in await stos("volume", "create", "cli", "--size", "1GiB")
    connected = json.loads(await stos("volume", "connect", "cli", "-o", "json"))
    assert connected["node"] == APP
    assert (await stos("volume", "connect", "cli")).strip() == connected["uri"]
    assert "healthy" in await stos("volume", "ls")
    assert {node["node"] for node in json.loads(await stos("node", "ls", "-o", "json"))} >= {"vn1", APP}
    await stos("volume", "disconnect", "cli")
    await stos("volume", "rm", "cli")
    assert await asyncio.to_thread(run, ["volume", "show", "cli"]) == 3
    captured = capsys.readouterr()
    assert captured.err == "error: there is no volume 'cli'\nnext: see `stos volume ls`\n"


async def test_the_command_line_without_a_server(
    control_plane: ControlPlane,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = control_plane.identity("user", "admin")
    description = {"nats_urls": ["tls://127.0.0.1:1"], "user_identity_dir": str(identity.directory)}
    (tmp_path / "cluster.json").write_text(json.dumps(description))
    monkeypatch.setattr("stoscore.clusters.CONNECT_S", 0.5)
    assert await asyncio.to_thread(run, ["volume", "ls", "--dir", str(tmp_path)]) == 8
    error, step = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: the cluster in {tmp_path} does not answer (")
    assert "stos dev up" in step
