"""Shared by the integration tests: one real control plane for the whole run, a bus for any identity."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from stoscore.bus import Bus
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
