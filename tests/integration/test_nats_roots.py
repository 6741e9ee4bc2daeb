"""The root is replaced while everything runs: the NATS server follows, drops no connection, and forgets the old one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.certs_messages import RotateAuthority, Rotated
from stoscore.enrolment import admin_call
from stoscore.errors import StosError
from stoscore.following import Follower
from stoscore.identity import Identity
from stoscore.messages import DescribeReplica, Empty
from stoscore.nats_session import Session
from stoscore.renewal import keep_renewed
from tests.support.certs_process import CertsProcess

VOLUME = "0123456789abcdef" * 2
DESCRIBE = subjects.node("n1", "describe")


class Member:
    """One identity that keeps itself good, as the host does for a service."""

    def __init__(self, identity: Identity, bus: Bus):
        self.identity, self.bus = identity, bus
        self._upkeep = [
            asyncio.create_task(keep_renewed(identity, bus)),
            asyncio.create_task(Follower(identity, bus).run()),
        ]

    async def close(self) -> None:
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self.bus.close()


def knock(identity: Identity, port: int) -> bytes:
    """The first bytes that the server says to this certificate, trusting any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(identity.directory / "cert.pem", identity.directory / "key.pem")
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as secured:
        return secured.recv(100)


@pytest.mark.slow
async def test_the_server_follows_a_new_root_and_forgets_the_old_one(tmp_path: Path) -> None:
    certs = CertsProcess(tmp_path, STOS_CERTS_CERTIFICATE_LIFE_S="60")
    members: list[Member] = []
    roots = tmp_path / "nats" / "roots.pem"
    try:
        await asyncio.to_thread(certs.start)
        await asyncio.to_thread(certs.nats.start)
        for kind, name in (("node", "n1"), ("user", "admin")):
            identity = await certs.enrolled(kind, name)
            members.append(Member(identity, await certs.bus(identity)))
        node, admin = members

        async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
            return Empty()

        await node.bus.serve(DESCRIBE, DescribeReplica, describe)
        old = Identity.load(shutil.copytree(admin.identity.directory, tmp_path / "old"))
        assert knock(old, certs.nats.port).startswith(b"INFO")
        held = await Session.open(old, certs.nats_urls, "held", f"{old.inbox_prefix}.held", lambda _: None)
        first = roots.read_text()
        server = certs.nats.server_pid
        await admin_call(certs.socket, "rotate", RotateAuthority(what="root"), Rotated)
        seen, asked = {first}, 0
        async with asyncio.timeout(50):
            while first in roots.read_text():
                await admin.bus.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
                asked += 1
                seen.add(roots.read_text())
        assert any(text.count("BEGIN CERTIFICATE") == 2 and first in text for text in seen)
        assert roots.read_text().count("BEGIN CERTIFICATE") == 1
        assert asked > 20
        async with asyncio.timeout(20):
            while True:  # the server has read its files again a moment later
                try:
                    await asyncio.to_thread(knock, old, certs.nats.port)
                except (ssl.SSLError, ConnectionError):
                    break
                await asyncio.sleep(0.1)
        assert certs.nats.server_pid == server
        assert held.alive  # who was let in stays, until its credential ends
        await admin.bus.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
        await held.close()
        with pytest.raises(StosError):
            await Session.open(old, certs.nats_urls, "old", f"{old.inbox_prefix}.old", lambda _: None)
    finally:
        for member in members:
            await member.close()
        certs.stop()
