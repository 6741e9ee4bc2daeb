"""Prometheus' way to a process: over TLS, for users of this cluster, and for nothing else that can be said."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stoscore import metrics
from stoscore.metrics import Sample
from stoscore.metrics_endpoint import MetricsEndpoint
from tests.support.ca import TestAuthority
from tests.support.trail import HeardTrail


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
def trail() -> HeardTrail:
    return HeardTrail()


@pytest.fixture
async def address(authority: TestAuthority, trail: HeardTrail, tmp_path: Path) -> AsyncIterator[str]:
    endpoint = MetricsEndpoint(authority.issue(tmp_path / "n1", "n1"), trail, "127.0.0.1:0")  # type: ignore[arg-type]

    def source() -> Iterator[Sample]:
        yield Sample("stos.node.used", 42)

    metrics.register(source)
    yield await endpoint.start()
    await endpoint.stop()
    metrics.unregister(source)


async def ask(address: str, context: ssl.SSLContext, request: bytes) -> str:
    """What comes back; "" when the connection is ended without a word."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(20):
        with suppress(OSError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(request)
            answer = await reader.read()
            writer.close()
            return answer.decode()
    return ""


def client(authority: TestAuthority, directory: Path, kind: str, name: str) -> ssl.SSLContext:
    return authority.issue(directory, name, kind=kind).client_context()


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_user_reads(authority: TestAuthority, address: str, tmp_path: Path) -> None:
    told = await ask(address, client(authority, tmp_path / "u", "user", "prometheus"), GET)
    assert told.startswith("HTTP/1.1 200 OK\r\n")
    assert "stos_node_used_bytes 42\n" in told


@pytest.mark.parametrize("kind,name", [("node", "n2"), ("svc", "csi-1")])
async def test_nobody_else_reads(
    authority: TestAuthority, address: str, tmp_path: Path, trail: HeardTrail, kind: str, name: str
) -> None:
    told = await ask(address, client(authority, tmp_path / "other", kind, name), GET)
    assert told.startswith("HTTP/1.1 403 Forbidden\r\n")
    assert "stos_" not in told
    assert trail.reasons("metrics.read", f"{kind}/{name}") == ["only users read metrics"]


async def test_a_stranger_hears_nothing(address: str, tmp_path: Path) -> None:
    stranger = client(TestAuthority(), tmp_path / "s", "user", "prometheus")
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    assert await ask(address, stranger, GET) == ""


async def test_without_tls_nothing_is_said(address: str) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(GET)
    async with asyncio.timeout(20):
        with suppress(OSError):
            assert b"stos_" not in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    "request_,status",
    [
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200"),
        (b"\x00\xff\r\n\r\n", "404"),
        (b"GET " + b"x" * 100_000 + b"\r\n\r\n", ""),
    ],
)
async def test_anything_else_is_told_so(
    authority: TestAuthority, address: str, tmp_path: Path, request_: bytes, status: str
) -> None:
    told = await ask(address, client(authority, tmp_path / "u", "user", "eve"), request_)
    assert told[9:12] == status
