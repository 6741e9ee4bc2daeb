"""Shared by the integration tests: one real control plane for the whole run, a bus for any identity; one embedded
cluster for a module that needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from services.dev.cluster import Cluster
from services.dev.demo.csi import CsiClient
from stoscore.bus import Bus
from tests.support.cluster import RunningCluster, running_cluster
from tests.support.control_plane import ControlPlane

BusOf = Callable[[str, str], Awaitable[Bus]]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A certificate authority and a running nats-server with the streams in place. Shared: a test that kills
    or changes it makes its own `ControlPlane`."""
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture
async def bus_of(control_plane: ControlPlane) -> AsyncIterator[BusOf]:
    """`await bus_of("node", "n1")` is a connected bus of that identity, closed after the test. A user is an
    administrator unless its role follows its name: "eve/viewer"."""
    opened: list[Bus] = []

    async def connect(kind: str, name: str) -> Bus:
        name, _, role = name.partition("/")
        identity = control_plane.identity(kind, name, role)
        bus = await Bus.connect(identity, control_plane.nats_urls, name=f"test {name}", wait=True)
        opened.append(bus)
        return bus

    yield connect
    for bus in opened:
        await bus.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster of its own for a module, with three nodes and the application's."""
    with running_cluster(Cluster(tmp_path_factory.mktemp("stos") / "dev")) as running:
        yield running


@pytest.fixture
async def csi(running: RunningCluster) -> AsyncIterator[CsiClient]:
    layout = running.cluster.layout
    client = CsiClient(layout.csi_socket("controller"), layout.csi_socket("node"))
    yield client
    await client.close()
