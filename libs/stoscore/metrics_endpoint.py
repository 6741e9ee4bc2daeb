"""Where Prometheus reads a process's metrics: HTTPS that asks for a client certificate, and one path.

Volumes' names and how busy they are tell much about their owners, so reading them takes what everything else takes: a
certificate of the cluster, of a user (any role may look), not revoked. `stos certs token --kind user --name prometheus
--role viewer` makes one. Nothing of HTTP is spoken beyond GET /metrics; what is slow, long or strange is closed.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from stoscore import metrics
from stoscore.audit import Audit
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.prometheus import CONTENT_TYPE, render
from stoscore.telemetry import get_logger

CONNECTIONS_MAX = 16
REQUEST_BYTES_MAX = 16 * 1024
READ_S, WRITE_S = 5.0, 20.0

log = get_logger("metrics")


class MetricsEndpoint:
    """One listening socket."""

    def __init__(self, identity: Identity, audit: Audit, address: str):
        self._identity = identity
        self._audit = audit
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> str:
        """host:port. Raises StosError FAILED_PRECONDITION when the address can't be had."""
        try:
            self._server = await asyncio.start_server(
                self._connected,
                self._host,
                self._port,
                limit=REQUEST_BYTES_MAX,
                ssl=self._identity.server_context(),
                ssl_handshake_timeout=READ_S,
            )
        except OSError as error:
            raise StosError(
                Code.FAILED_PRECONDITION,
                f"metrics can't be served on {self._host}:{self._port}: {error.strerror or error}",
                next_step="choose another STOS_METRICS_LISTEN",
            ) from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        try:
            if self._open < CONNECTIONS_MAX:
                self._open += 1
                try:
                    await self._answer(reader, writer)
                finally:
                    self._open -= 1
        except (TimeoutError, OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("a reader of metrics went away: %s", error)
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(READ_S):
            head = await reader.readuntil(b"\r\n\r\n")
        refusal = self._refusal(writer)
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if refusal:
            status, text = "403 Forbidden", f"{refusal}\n"
        elif path != b"/metrics":
            status, text = "404 Not Found", "there is nothing but /metrics\n"
        elif method != b"GET":
            status, text = "405 Method Not Allowed", "only GET\n"
        else:
            status, text = "200 OK", render(metrics.collect())
        body = text.encode()
        kind = CONTENT_TYPE if status.startswith("200") else "text/plain; charset=utf-8"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\nCache-Control: no-store\r\n\r\n".encode("ascii")
        )
        writer.write(body)
        async with asyncio.timeout(WRITE_S):
            await writer.drain()

    def _refusal(self, writer: asyncio.StreamWriter) -> str:
        """Why whoever is connected may not read, or ""."""
        try:
            peer = self._identity.verified_peer(writer.get_extra_info("peercert"))
        except StosError as error:
            self._refused(str(writer.get_extra_info("peername")), error.message)
            return error.message
        if peer.kind != "user":
            self._refused(str(peer), "only users read metrics")
            return "only users read metrics"
        return ""

    def _refused(self, who: str, why: str) -> None:
        self._audit.record(who=who, action="metrics.read", outcome="refused", reason=why)
