"""Two NATS servers as one: routes for NATS servers alone, the account and the streams on both."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.certs.nats_orders import push_account
from services.certs.streams import make_streams
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError
from stoscore.identity import NATS_HOST_NAME, Identity
from stoscore.messages import CatalogueEntry, DescribeReplica, Empty
from tests.support.audit import told
from tests.support.control_plane import ControlPlane
from tests.support.nats_service import NatsService, free_port

pytestmark = pytest.mark.long

VOLUME = "0123456789abcdef" * 2
DESCRIBE = subjects.node("n1", "describe")


class Pair:
    """Two servers of one cluster, each with its own identity and directory."""

    def __init__(self, directory: Path):
        # The routes lead to this address, so the certificates must name it.
        self.plane = ControlPlane(directory, nats_names=["127.0.0.1"])
        self.route_ports = [free_port(), free_port()]
        routes = ",".join(f"127.0.0.1:{port}" for port in self.route_ports)
        self.servers: list[NatsService] = []
        for number, port in enumerate(self.route_ports, start=1):
            home = directory / f"server-{number}"
            home.mkdir()
            identity = self.plane.identity("svc", f"nats-{number}")
            settings = {"STOS_NATS_SERVER_ROUTES": routes, "STOS_NATS_SERVER_CLUSTER_PORT": str(port)}
            self.servers.append(NatsService(home, identity.directory, free_port(), **settings))
        self._buses: list[Bus] = []

    def start(self) -> None:
        for server in self.servers:
            server.begin()
        for server in self.servers:
            server.wait_ready()

    async def bus(self, kind: str, name: str, server: int) -> Bus:
        bus = await Bus.connect(self.plane.identity(kind, name), [self.servers[server].url], name=name)
        self._buses.append(bus)
        assert await bus.wait_connected(15.0)
        return bus

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()
        for server in self.servers:
            server.kill()
        self.plane.stop()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    try:
        await asyncio.to_thread(pair.start)
        yield pair
    finally:
        await pair.close()


async def streams(pair: Pair) -> None:
    """JetStream of two servers first chooses its leader."""
    certs = await pair.bus("svc", "certs", 0)
    async with asyncio.timeout(40):
        while True:
            try:
                await make_streams(certs, 64 << 20, 3600)
                return
            except StosError:
                await asyncio.sleep(0.2)


async def test_what_is_said_at_one_server_is_heard_at_the_other(pair: Pair) -> None:
    node, admin = await pair.bus("node", "n1", 0), await pair.bus("user", "admin", 1)

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    async with asyncio.timeout(20):
        while True:
            try:
                await admin.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty, timeout_s=1.0)
                break
            except StosError:
                await asyncio.sleep(0.1)
    await streams(pair)
    entry = CatalogueEntry(volume=VOLUME, name="data", size_bytes=4096, replicas=0, nodes=["n1"])
    await Catalogue(admin).create(entry)
    assert await Catalogue(node).by_name("data") == entry
    # Every server is told of the account, through any of them.
    assert await push_account(pair.plane.authority, [pair.servers[0].url]) == 2


@pytest.mark.parametrize(("kind", "name"), [("node", "n1"), ("svc", "certs"), ("user", "admin")])
async def test_nobody_else_becomes_a_server(pair: Pair, kind: str, name: str) -> None:
    """Whoever is let in as a server may say everything: it takes the servers' own host name in the certificate."""
    await streams(pair)
    admin = await pair.bus("user", "admin", 0)
    said = await route_attempt(pair.plane.identity(kind, name), pair.route_ports[0])
    assert b"Authorization Violation" in said
    event = await told(admin, lambda event: event.action == "nats.connect.route")
    assert (event.outcome, event.reporter) == ("refused", "svc:nats-1")


async def test_a_server_of_the_cluster_is_let_in(pair: Pair) -> None:
    """What the refusals above are measured against."""
    said = await route_attempt(pair.plane.identity("svc", "nats-3"), pair.route_ports[0])
    assert b"INFO" in said
    assert b"Violation" not in said


async def route_attempt(identity: Identity, port: int) -> bytes:
    """Introduce oneself as a server, as its protocol has it: TLS, CONNECT, INFO."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(identity.directory / "cert.pem", identity.directory / "key.pem")
    context.load_verify_locations(cadata=identity.trust_pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NATS_HOST_NAME)
    hello = {
        "server_id": "NTHIEF",
        "server_name": "thief",
        "name": "NTHIEF",
        "cluster": identity.cluster,
        "version": "2.15.1",
        "proto": 1,
        "headers": True,
        "lnoc": True,
        "host": "127.0.0.1",
        "port": 1,
        "tls_required": True,
        "tls_verify": True,
    }
    writer.write(b"CONNECT " + json.dumps({**hello, "verbose": False, "pedantic": False}).encode() + b"\r\n")
    writer.write(b"INFO " + json.dumps(hello).encode() + b"\r\nPING\r\n")
    said = b""
    try:
        async with asyncio.timeout(3):
            while chunk := await reader.read(4096):
                said += chunk
                if b"Violation" in said or b"PONG" in said:
                    break
    except (TimeoutError, OSError):
        pass
    writer.close()
    return said
