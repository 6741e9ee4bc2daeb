"""`stos serve nats`: its server dies with it and comes back, follows the identity, and shuts out who is revoked."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.certs.administration import Administration
from services.certs.nats_orders import push_account
from services.dev.processes import identify
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.certs_messages import RevokeIdentity
from stoscore.errors import Code, StosError
from stoscore.messages import DescribeReplica, Empty
from stoscore.nats_session import Session
from tests.support.audit import told
from tests.support.control_plane import ControlPlane
from tests.support.slow_road import SlowRoad

VOLUME = "0123456789abcdef" * 2
DESCRIBE = subjects.node("n1", "describe")


class Scene:
    """A control plane of its own, and buses that it closes."""

    def __init__(self, plane: ControlPlane):
        self.plane = plane
        self._buses: list[Bus] = []

    async def bus(self, kind: str, name: str, role: str = "") -> Bus:
        identity = self.plane.identity(kind, name, role)
        bus = await Bus.connect(identity, self.plane.nats_urls, name=name)
        self._buses.append(bus)
        assert await bus.wait_connected(10.0)
        return bus

    async def answering(self) -> tuple[Bus, Bus]:
        """n1, which answers, and an administrator who asks."""
        node, admin = await self.bus("node", "n1"), await self.bus("user", "admin")

        async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
            return Empty()

        await node.serve(DESCRIBE, DescribeReplica, describe)
        await ask(admin)
        return node, admin

    async def revoke(self, kind: str, name: str) -> None:
        """As certs does, and tells the servers."""
        request = RevokeIdentity(kind=kind, name=name, reason="stolen")  # type: ignore[arg-type]
        await asyncio.to_thread(Administration(self.plane.authority).revoke, request)
        await push_account(self.plane.authority, self.plane.nats_urls)

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    plane = ControlPlane(tmp_path)
    scene = Scene(plane)
    try:
        await asyncio.to_thread(plane.start)
        yield scene
    finally:
        await scene.close()
        plane.stop()


async def ask(bus: Bus) -> None:
    await bus.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)


async def ended(session: Session) -> str:
    async with asyncio.timeout(10):
        return await session.lost


def session_of(bus: Bus) -> Session:
    assert bus._session is not None
    return bus._session


# ---- the child ---------------------------------------------------------------------------------------------


async def test_the_server_dies_with_its_service_and_both_come_back(scene: Scene) -> None:
    nats = scene.plane.nats
    node, admin = await scene.answering()
    server = identify(nats.server_pid)
    assert server is not None
    await asyncio.to_thread(nats.kill)  # asserts that the server is gone too
    assert identify(server.pid) != server
    await asyncio.to_thread(nats.start)
    assert await node.wait_connected(10.0)
    assert await admin.wait_connected(10.0)
    await ask(admin)


async def test_a_server_that_dies_is_started_again(scene: Scene) -> None:
    nats = scene.plane.nats
    node, admin = await scene.answering()
    for _ in range(2):
        first, session = nats.server_pid, session_of(node)
        os.kill(first, signal.SIGKILL)
        await ended(session)
        async with asyncio.timeout(20):
            while not (nats.server_pid and nats.server_pid != first and node.connected and admin.connected):
                await asyncio.sleep(0.05)
    await ask(admin)
    assert "nats-server ended with code -9" in nats.logged()


async def test_an_orderly_end(scene: Scene) -> None:
    await scene.answering()
    assert await asyncio.to_thread(scene.plane.nats.kill, signal.SIGTERM) == 0
    assert "Server Exiting" in scene.plane.nats.logged()


async def test_a_port_that_is_taken_is_waited_for(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)
    try:
        with socket.socket() as squatter:
            squatter.bind(("127.0.0.1", plane.nats.port))
            squatter.listen()
            await asyncio.to_thread(plane.nats.begin)
            async with asyncio.timeout(20):
                while "started again in 0.50 s" not in plane.nats.logged():
                    await asyncio.sleep(0.05)
            assert "address already in use" in plane.nats.logged()
        await asyncio.to_thread(plane.nats.wait_ready)
    finally:
        plane.stop()


async def test_it_is_ready_when_it_is_heard_itself(tmp_path: Path) -> None:
    """Who has waited for it asks the catalogue next, and the server may be there before the service has connected."""
    plane = ControlPlane(tmp_path)
    passable = False
    bus = await Bus.connect(plane.identity("user", "admin"), plane.nats_urls, name="admin")
    with SlowRoad(lambda: plane.nats.port if passable else 1) as road:
        plane.nats.environment["STOS_NATS_URLS"] = f"tls://127.0.0.1:{road.port}"
        try:
            await asyncio.to_thread(plane.nats.begin)
            assert await bus.wait_connected(20.0)
            await plane.make_streams()
            with pytest.raises(StosError, match="nobody answers"):
                await Catalogue(bus).nodes()
            assert "nats is ready" not in plane.nats.logged()
            passable = True
            await asyncio.to_thread(plane.nats.wait_ready)
            assert await Catalogue(bus).nodes() == []
        finally:
            await bus.close()
            plane.stop()


def test_a_damaged_identity_is_a_clear_refusal(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)
    try:
        (plane.identity("svc", "nats").directory / "nats-server.json").write_text('{"v":1}')
        plane.nats.begin()
        assert plane.nats._process is not None
        assert plane.nats._process.wait(30) == 5
        assert "nats-server.json can" in plane.nats.logged()
        assert "enrol this server again" in plane.nats.logged()
    finally:
        plane.stop()


# ---- revocation --------------------------------------------------------------------------------------------


async def test_a_revoked_user_is_shut_out_within_seconds_and_nobody_else(scene: Scene) -> None:
    node, admin = await scene.answering()
    thief = await scene.bus("node", "n9")
    kept, stolen = (session_of(node), session_of(admin)), session_of(thief)
    await scene.revoke("node", "n9")
    await ended(stolen)
    assert not await thief.wait_connected(1.0)  # it tries all the time
    with pytest.raises(StosError) as caught:
        await Session.open(
            thief.identity, scene.plane.nats_urls, "n9", f"{thief.identity.inbox_prefix}.x", lambda _: None
        )
    assert caught.value.code is Code.UNAVAILABLE
    assert (session_of(node), session_of(admin)) == kept
    await ask(admin)
    event = await told(admin, lambda event: event.reason == "User Authentication Revoked")
    assert (event.who, event.action, event.reporter) == ("node/n9", "nats.connect", "svc:nats")
    await told(admin, lambda event: "User authentication revoked" in event.reason and event.who == "127.0.0.1")


async def test_a_revocation_outlives_the_server(scene: Scene) -> None:
    _, admin = await scene.answering()
    thief = await scene.bus("node", "n9")
    await scene.revoke("node", "n9")
    await asyncio.to_thread(scene.plane.nats.kill)
    await asyncio.to_thread(scene.plane.nats.start)
    assert await admin.wait_connected(10.0)
    await ask(admin)
    assert not await thief.wait_connected(1.0)


async def test_a_server_that_was_away_is_told_when_it_is_back(scene: Scene) -> None:
    _, admin = await scene.answering()
    thief = await scene.bus("node", "n9")
    await asyncio.to_thread(scene.plane.nats.kill)
    with pytest.raises(StosError) as caught:
        await scene.revoke("node", "n9")
    assert caught.value.code is Code.UNAVAILABLE
    await asyncio.to_thread(scene.plane.nats.start)
    assert await thief.wait_connected(10.0)  # nobody has told the server yet
    stolen = session_of(thief)
    await push_account(scene.plane.authority, scene.plane.nats_urls)
    await ended(stolen)
    assert not await thief.wait_connected(1.0)
    assert await push_account(scene.plane.authority, scene.plane.nats_urls) == 1  # and again changes nothing
    assert await admin.wait_connected(10.0)
    await ask(admin)


async def test_who_is_let_in_again_gets_in(scene: Scene) -> None:
    """A new credential for the same key, after a revocation of all older ones."""
    await scene.answering()
    plane = scene.plane
    first = await scene.bus("user", "bob", "viewer")
    await scene.revoke("user", "bob")
    await first.close()
    renewed = plane.identity("user", "bob", "viewer")  # with a new token, in life
    bus = await Bus.connect(renewed, plane.nats_urls, name="bob")
    try:
        assert await bus.wait_connected(10.0)
        await ask(bus)
    finally:
        await bus.close()


async def test_statements_of_strangers_are_not_taken(scene: Scene, tmp_path: Path) -> None:
    """Only the operator's word about the account counts, and only its own system account may bring it."""
    _, admin = await scene.answering()
    other = ControlPlane(tmp_path / "other")
    try:
        other.authority.own = scene.plane.authority.own  # their keys, our certificate
        with pytest.raises(StosError):
            await push_account(other.authority, scene.plane.nats_urls)
    finally:
        other.stop()
    await ask(admin)
