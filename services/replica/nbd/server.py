"""The NBD server's socket: many requests in at one wake-up of the loop, many replies out at one write.

A connection reads until its share of memory is used (`REQUESTS_MAX`, `IN_FLIGHT_BYTES_MAX`) or its client
stops taking replies, and then leaves the rest to the socket: the kernel holds the client back. A client
that hangs up in the middle of anything costs its connection and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno as os_errno
import logging
import os
import socket
from pathlib import Path
from typing import Protocol, cast

from services.replica.nbd.buffer import ReceiveBuffer
from services.replica.nbd.protocol import Export, NbdConnection, NbdRequest, Phase
from services.replica.nbd.wire import Command
from stoscore.errors import Code, StosError, invalid
from stoscore.units import MIB

REQUESTS_MAX = 128
"""Unanswered requests of one connection."""
IN_FLIGHT_BYTES_MAX = 64 * MIB
"""Payload of one connection's unanswered requests, both ways; one request may go beyond it."""
CLIENTS_MAX = 64
WRITE_BUFFER_BYTES = 4 * MIB
"""Replies that wait for a slow client; beyond it nothing more is read from that client."""
LINGER_S = 2.0
"""How long a client that is being dropped may take to read its last replies."""
SOCKET_PATH_BYTES_MAX = 107
_UMASK = 0o117
"""Makes the socket 0660 from its first moment on."""


class RequestHandler(Protocol):
    """Who owns the blocks. Every submitted request is answered once through `Client.answer`, in any order,
    at once or later, unless its client is gone."""

    def submit(self, client: Client, requests: list[tuple[NbdRequest, memoryview]]) -> None:
        """All that one wake-up brought, in order. Payloads are valid during the call only."""

    def gone(self, client: Client) -> None:
        """Nothing of this client needs an answer any more."""


class Client(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, server: NbdServer):
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._nbd = NbdConnection(server.export)
        self._buffer = ReceiveBuffer()
        self._transport: asyncio.Transport | None = None
        self._replies: list[bytes | memoryview] = []
        self._flush_scheduled = False
        self._reading = True
        self._writable = True
        self._unanswered = 0
        self._unanswered_bytes = 0

    # --- for the request handler ---

    def answer(self, request: NbdRequest, errno: int, data: bytes | memoryview = b"") -> None:
        """Reply to a request. `data`: a successful read's content; it must not change afterwards."""
        self._unanswered -= 1
        self._unanswered_bytes -= _payload_bytes(request)
        self._replies += self._nbd.reply(request, errno, data)
        self._flush_soon()

    def hang_up(self) -> None:
        """Close after the replies so far."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(LINGER_S, self._transport.abort)

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.admit(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._replies.clear()
        self._server.lost(self, self._nbd.closed_because or (str(exc) if exc else ""))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer.space()

    def buffer_updated(self, nbytes: int) -> None:
        self._buffer.received(nbytes)
        self._advance()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._advance()

    # --- inside ---

    def _has_room(self) -> bool:
        return self._writable and self._unanswered < REQUESTS_MAX and self._unanswered_bytes < IN_FLIGHT_BYTES_MAX

    def _advance(self) -> None:
        """Parse what is there as far as the limits allow, and read on only while they do."""
        if self._transport is None or self._transport.is_closing():
            return
        nbd = self._nbd
        if self._has_room():
            consumed = nbd.receive(
                self._buffer.unread(),
                REQUESTS_MAX - self._unanswered,
                IN_FLIGHT_BYTES_MAX - self._unanswered_bytes,
            )
            requests, nbd.requests = nbd.requests, []
            if requests:
                self._unanswered += len(requests)
                self._unanswered_bytes += sum(_payload_bytes(request) for request, _ in requests)
                self._server.handler.submit(self, requests)
            self._buffer.consumed(consumed, nbd.wanted)
        if nbd.replies or nbd.phase >= Phase.LEAVING:
            self._flush_soon()
        self._read_on(self._has_room())

    def _read_on(self, reading: bool) -> None:
        if self._transport is None or reading == self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_and_go_on)

    def _flush_and_go_on(self) -> None:
        self._flush_scheduled = False
        self._flush()
        nbd = self._nbd
        if self._transport is None:
            return
        if nbd.phase == Phase.CLOSED or (nbd.phase == Phase.LEAVING and not self._unanswered):
            self._transport.close()
        elif len(self._buffer) or not self._reading:
            self._advance()

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        if self._nbd.replies:
            replies += self._nbd.replies
            self._nbd.replies = []
        if replies and self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(replies)


def _payload_bytes(request: NbdRequest) -> int:
    return request.length if request.command <= Command.WRITE else 0


class NbdServer:
    """Listens on one Unix socket (0660) for one export."""

    def __init__(self, export: Export, path: Path, handler: RequestHandler, logger: logging.Logger):
        self.export = export
        self.path = path
        self.handler = handler
        self.clients: set[Client] = set()
        self._logger = logger
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Raises StosError: the path is too long, in use by a living server, or can't be made."""
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            raise invalid(
                f"the socket path {self.path} is longer than {SOCKET_PATH_BYTES_MAX} bytes",
                "use a shorter data directory",
            )
        _remove_stale(self.path)
        listener = _bind(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Client(self), sock=listener, backlog=CLIENTS_MAX)

    async def close(self) -> None:
        """Stop listening and drop every client after its replies so far. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for client in list(self.clients):
            client.hang_up()
        await asyncio.sleep(0)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def admit(self, client: Client) -> bool:
        if len(self.clients) >= CLIENTS_MAX:
            self._logger.warning("NBD client refused: %d clients are connected", CLIENTS_MAX)
            return False
        self.clients.add(client)
        return True

    def lost(self, client: Client, reason: str) -> None:
        if client not in self.clients:
            return
        self.clients.remove(client)
        self.handler.gone(client)
        if reason:
            self._logger.info("NBD connection closed: %s", reason, extra={"volume_name": self.export.name})


def _remove_stale(path: Path) -> None:
    """A socket that a killed process left behind goes; one that somebody listens on stays."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    except BlockingIOError:
        pass  # its backlog is full: it lives
    except OSError as error:
        raise _cannot_listen(path, error) from error
    finally:
        probe.close()
    raise StosError(
        Code.FAILED_PRECONDITION,
        f"another process serves NBD on {path}",
        next_step="stop it, or use another directory",
    )


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(_UMASK)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise _cannot_listen(path, error) from error
    finally:
        os.umask(before)
    return listener


def _cannot_listen(path: Path, error: OSError) -> StosError:
    code = Code.PERMISSION_DENIED if error.errno == os_errno.EACCES else Code.FAILED_PRECONDITION
    return StosError(code, f"can't listen on {path}: {error.strerror}", next_step="check the directory and its rights")
