"""One connection between two nodes: bytes in become lists of frames, frames out become one write a wake-up.

In:  the TLS layer decrypts all that one wake-up delivered into the reader's buffer, and the owner gets every
     whole frame of it in one call.
Out: `send` takes its parts before it returns, so a caller may pass windows into a buffer that it receives
     into: small parts are copied once, into the link's send buffer; parts of at least `DIRECT_BYTES` are
     encrypted where they lie. What is in the send buffer leaves when the owner flushes, at the latest when
     the event loop comes round: a wake-up's many frames fill TLS records and cost one system call.

The transport must be a TLS one: its `write` encrypts at once, so the send buffer is free again when it
returns. Bounded by `writable` (ask before you send more) and, for whoever does not ask, by
`PENDING_BYTES_MAX`: beyond it the peer reads nothing and the link ends.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

from services.replica.peers.frames import Frame, FrameError, FrameReader
from services.replica.peers.payloads import GREETING_BYTES_MAX
from stoscore.units import KIB, MIB

SEND_BUFFER_BYTES = 256 * KIB
DIRECT_BYTES = 64 * KIB
"""From here on copying a part costs more than the TLS record and system call that it would share."""
WRITABLE_BYTES = 8 * MIB
"""`writable` turns false above it, and true again below a quarter of it."""
PENDING_BYTES_MAX = 256 * MIB
_TCP_INFO_BYTES_ACKED = 120
"""Offset of tcpi_bytes_acked, followed by tcpi_bytes_received, in struct tcp_info (linux/tcp.h)."""

assert DIRECT_BYTES <= SEND_BUFFER_BYTES
assert WRITABLE_BYTES < PENDING_BYTES_MAX


class LinkOwner(Protocol):
    """What a link tells the network that it belongs to."""

    def link_connected(self, link: Link, certificate: dict[str, Any]) -> None:
        """TLS is done; `certificate` is the other side's, verified, as `getpeercert` gives it."""

    def link_greeted(self, link: Link, greeting: Frame) -> None:
        """The first frame of the other side."""

    def link_received(self, link: Link, frames: list[Frame]) -> None:
        """All frames of one wake-up of a link that is up. May raise FrameError."""

    def link_filled(self, link: Link) -> None:
        """There is something to flush before the loop waits again; called once until `flushed`."""

    def link_lost(self, link: Link, kind: str, reason: str, was_up: bool) -> None:
        """Called exactly once, after which the link neither sends nor delivers. `kind` is one of few words,
        for counting."""


class Link(asyncio.BufferedProtocol):
    """A connection, outgoing (we dialled, we send requests) or incoming (we answer)."""

    __slots__ = (
        "_fill",
        "_out",
        "_owner",
        "_queued",
        "_reader",
        "_transport",
        "_write",
        "bytes_received",
        "bytes_sent",
        "local_port",
        "on_writable",
        "open",
        "outgoing",
        "peer",
        "remote",
        "up",
        "writable",
    )

    def __init__(self, owner: LinkOwner, *, outgoing: bool, peer: str = "") -> None:
        self._owner = owner
        self._reader = FrameReader(payload_bytes_max=GREETING_BYTES_MAX, buffer_bytes=2 * GREETING_BYTES_MAX)
        self._out = memoryview(b"")
        self._fill = 0
        self._queued = False
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes | memoryview], None] | None = None
        self.peer = peer
        """The other node, by its certificate; of an incoming link known once it has greeted."""
        self.outgoing = outgoing
        self.open = False
        """Connected and not yet closed."""
        self.up = False
        """Both sides have greeted: the owner's handler sees its frames."""
        self.writable = True
        """False while the peer reads slower than we send; `on_writable` is called when it turns true."""
        self.on_writable: Callable[[Link], None] | None = None
        self.bytes_sent = 0
        """Of frames, before encryption. `wire_bytes` tells what the socket carried."""
        self.bytes_received = 0
        self.local_port = 0
        self.remote = ""

    def __repr__(self) -> str:
        return f"<Link {'to' if self.outgoing else 'from'} {self.peer or self.remote}>"

    # --- sending ---

    def send(self, *parts: bytes | memoryview) -> bool:
        """Queue one frame's header and payload (or several frames). The parts may be reused at once. False
        when the link is closed."""
        if not self.open:
            return False
        if not self._queued:
            self._queued = True
            self._owner.link_filled(self)
        fill, out = self._fill, self._out
        for part in parts:
            size = len(part)
            end = fill + size
            if size >= DIRECT_BYTES or end > SEND_BUFFER_BYTES:
                fill, end = self._overflow(fill, part), size
                if size >= DIRECT_BYTES:
                    continue
            out[fill:end] = part
            fill = end
        self._fill = fill
        return self.open

    def _overflow(self, fill: int, part: bytes | memoryview) -> int:
        """Make the send buffer empty; a large part goes out right behind it. Returns the new fill."""
        self._fill = fill
        self.flush()
        if len(part) >= DIRECT_BYTES and self._write is not None:
            self._write(part)
            self.bytes_sent += len(part)
            self._check_pending()
        return 0

    def flush(self) -> None:
        """Hand what was sent since the last flush to TLS and the socket."""
        self._queued = False
        fill = self._fill
        if not fill or self._write is None:
            return
        self._fill = 0
        self.bytes_sent += fill
        self._write(self._out[:fill])
        self._check_pending()

    def _check_pending(self) -> None:
        """Ends the link later, not here: whoever sends does not expect to lose the link under its hands."""
        if not self.writable and self.pending_bytes > PENDING_BYTES_MAX:
            reason = f"the peer left {self.pending_bytes} bytes unread"
            asyncio.get_running_loop().call_soon(self.close, reason)

    @property
    def pending_bytes(self) -> int:
        """Sent by us and not yet taken by the socket."""
        return self._fill + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def wire_bytes(self) -> tuple[int, int]:
        """(acknowledged by the peer, received) as the kernel counts this connection, TLS and handshake
        included; (0, 0) once it is closed."""
        if self._transport is None:
            return 0, 0
        raw = self._transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES_ACKED + 16
        )
        return cast(tuple[int, int], struct.unpack_from("=QQ", raw, _TCP_INFO_BYTES_ACKED))

    # --- the end ---

    def close(self, reason: str, kind: str = "closed") -> None:
        """End the link at once: what is not on the wire is dropped, what arrives later is not read."""
        transport = self._transport
        if self._forget(kind, reason) and transport is not None:
            transport.abort()

    def finish(self, reason: str, kind: str = "closed") -> None:
        """End the link after what was sent has left."""
        self.flush()
        transport = self._transport
        if self._forget(kind, reason) and transport is not None:
            transport.close()

    def _forget(self, kind: str, reason: str) -> bool:
        if not self.open:
            return False
        was_up = self.up
        self.open = self.up = self.writable = False
        self._fill = 0
        self._write = self._transport = None
        self._owner.link_lost(self, kind, reason, was_up)
        return True

    # --- the transport's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        connected.set_write_buffer_limits(high=WRITABLE_BYTES, low=WRITABLE_BYTES // 4)
        self._transport, self._write = connected, connected.write
        self._out = memoryview(bytearray(SEND_BUFFER_BYTES))
        self.local_port = connected.get_extra_info("sockname", ("", 0))[1]
        host, port = connected.get_extra_info("peername", ("", 0))[:2]
        self.remote = f"{host}:{port}"
        self.open = True
        self._owner.link_connected(self, connected.get_extra_info("peercert") or {})

    def greeted(self) -> None:
        """The other side is known: full frames from here on. Nothing is left in the small reader, because
        `get_buffer` offered it no room beyond the greeting."""
        self.up = True
        self._reader = FrameReader()

    def get_buffer(self, sizehint: int) -> memoryview:
        buffer = self._reader.get_buffer()
        return buffer if self.up else buffer[: self._reader.missing_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        if not self.open:
            return
        self.bytes_received += nbytes
        try:
            frames = self._reader.received(nbytes)
            if not frames:
                return
            if self.up:
                self._owner.link_received(self, frames)
            else:
                self._owner.link_greeted(self, frames[0])
        except FrameError as error:
            self.close(str(error), "frames")

    def eof_received(self) -> None:
        self.close(self._ended("closed by the peer"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget("closed", self._ended(f"connection lost: {exc}" if exc else "closed by the peer"))

    def _ended(self, how: str) -> str:
        if self.up:
            return how
        return f"{how} before it greeted{': it may not accept our certificate' if self.outgoing else ''}"

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.on_writable is not None and self.open:
            self.on_writable(self)
