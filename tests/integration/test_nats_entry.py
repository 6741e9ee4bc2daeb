"""Who gets into the NATS server at all: nobody without a certificate of this cluster and a credential of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.vault import open_vault
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.nats_session import Session
from tests.support.control_plane import ControlPlane, free_port


def test_plain_text_is_not_spoken(control_plane: ControlPlane) -> None:
    with socket.create_connection(("127.0.0.1", control_plane.nats.port), 5) as plain:
        plain.settimeout(0.5)
        try:
            said = plain.recv(100)
        except TimeoutError:
            said = b""
    assert b"INFO" not in said


def roots(plane: ControlPlane) -> str:
    return plane.identity("node", "n1").trust_pem


def test_without_a_certificate_nobody_gets_in(control_plane: ControlPlane) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=roots(control_plane))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(control_plane, context)


def test_an_old_tls_version_is_refused(control_plane: ControlPlane) -> None:
    identity = control_plane.identity("node", "n1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.directory / "cert.pem", identity.directory / "key.pem")
    context.load_verify_locations(cadata=roots(control_plane))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(control_plane, context)


def speak(plane: ControlPlane, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", plane.nats.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="nats.stos.internal") as secured,
    ):
        return secured.recv(100)  # TLS 1.3: the refusal arrives with the first read


async def no_entry(identity: Identity, plane: ControlPlane, why: str) -> None:
    with pytest.raises(StosError, match=why) as caught:
        await Session.open(identity, plane.nats_urls, "stranger", "_INBOX.x", lambda _: None)
    assert caught.value.code is Code.UNAVAILABLE


def other_cluster(directory: Path) -> Authority:
    settings = CertsSettings(data_dir=directory, admin_socket=directory / "s", port=free_port())
    return Authority(settings, open_vault(settings), lambda: datetime.now(UTC))


async def test_another_cluster_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    stranger = other_cluster(tmp_path / "other").own_identity(tmp_path / "identity", "node", "n1")
    await no_entry(stranger, control_plane, "CERTIFICATE_VERIFY_FAILED")


def test_a_foreign_certificate_stays_out_though_it_trusts_us(control_plane: ControlPlane, tmp_path: Path) -> None:
    stranger = other_cluster(tmp_path / "other").own_identity(tmp_path / "identity", "node", "n1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(stranger.directory / "cert.pem", stranger.directory / "key.pem")
    context.load_verify_locations(cadata=roots(control_plane))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(control_plane, context)


async def test_an_expired_identity_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    authority = control_plane.authority
    before, authority.now = authority.now, lambda: datetime.now(UTC) - timedelta(days=5)
    try:
        with pytest.raises(StosError, match="expired"):
            authority.own_identity(tmp_path / "old", "node", "n1")
    finally:
        authority.now = before
    await no_entry(Identity(tmp_path / "old"), control_plane, "(?i)bad certificate|expired")


async def test_a_credential_without_its_key_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    first, second = control_plane.identity("node", "n1"), control_plane.identity("node", "n2")
    for path in first.directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "nats.jwt").write_text(second.nats_jwt())
    await no_entry(Identity(tmp_path), control_plane, "Authorization Violation")


async def test_a_node_can_not_pose_as_the_nats_server(control_plane: ControlPlane) -> None:
    """Its certificate is valid for TLS servers, and lacks the one host name that clients insist on."""
    thief = control_plane.identity("node", "n1")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=thief.server_context())
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname"):
            await asyncio.open_connection(
                "127.0.0.1",
                port,
                ssl=control_plane.identity("node", "n2").nats_context(),
                server_hostname="nats.stos.internal",
            )
    finally:
        server.close()
