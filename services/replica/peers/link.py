"""One connection between two nodes: bytes in become lists of frames, frames out become one write a wake-up.

In:  the TLS layer decrypts all that one wake-up delivered into the reader's buffer, and the owner gets every
     whole frame of it, slice by slice. After `TURN_NS` the rest waits until the loop has been round, with the
     socket left alone meanwhile: a peer that sends as fast as it can shares the loop with all others and keeps
     none of them waiting for longer than its turn.
Out: `send` takes its parts before it returns, so a caller may pass windows into a buffer that it receives
     into: small parts are copied once, into the link's send buffer; parts of at least `DIRECT_BYTES` are
     encrypted where they lie, and leave at once, together with what is in the send buffer. That leaves when
     the owner flushes, at the latest when the event loop comes round: a wake-up's many frames fill TLS
     records and cost one system call.

The transport must be a TLS one, whose `write` encrypts at once, or a `Loop`: the send buffer is free again when it
returns. Bounded by `writable` (ask before you send more) and, for whoever does not ask, by
`PENDING_BYTES_MAX`: beyond it the peer reads nothing and the link ends.

Whoever asks and does not read the answers gets no more of them: beyond `ANSWERS_BYTES_MAX` an incoming link is not
read. Only incoming ones, because were both ends of a connection to wait for the other to read, they would wait for
ever. And what moves no data (`charge`) is allowed so often a second; a link beyond that rests.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from services.replica.allowance import Allowance
from services.replica.peers.frames import GREETING_BYTES_MAX, Frame, FrameError, FrameReader, weight
from services.replica.tcp import join_address
from stoscore.spiffe import Peer
from stoscore.units import KIB, MIB, MS, SECOND

SEND_BUFFER_BYTES = 256 * KIB
DIRECT_BYTES = 64 * KIB
"""From here on copying a part costs more than the TLS record and system call that it would share."""
WRITABLE_BYTES = 8 * MIB
"""`writable` turns false above it, and true again below a quarter of it."""
PENDING_BYTES_MAX = 256 * MIB
ANSWERS_BYTES_MAX = 64 * MIB
"""One frontend's window: what an honest asker may have waiting for it at any time."""
SLICE_FRAMES = 128
SLICE_BYTES = 1 * MIB
"""What the owner is given at once; beyond one frame it never costs more memory than this."""
TURN_NS = 2 * MS
"""Of the loop's time, for one link, before the others have their turn."""
CHARGES_PER_S = 5_000
CHARGES_BURST = 20_000
"""Beats are ten a second, and when a node dies all its volumes elect at once, in some five frames each."""
_TCP_INFO_BYTES_ACKED = 120
"""Offset of tcpi_bytes_acked, followed by tcpi_bytes_received, in struct tcp_info (linux/tcp.h)."""
_TCP_INFO_BUSY_TIME = 168
"""As above: tcpi_busy_time, tcpi_rwnd_limited; Linux 4.10 and later."""

assert DIRECT_BYTES <= SEND_BUFFER_BYTES
assert WRITABLE_BYTES < ANSWERS_BYTES_MAX < PENDING_BYTES_MAX


class LinkOwner(Protocol):
    """What a link tells the network that it belongs to."""

    def link_connected(self, link: Link, certificate: dict[str, Any]) -> None:
        """TLS is done; `certificate` is the other side's, verified, as `getpeercert` gives it."""

    def link_greeted(self, link: Link, greeting: Frame) -> None:
        """The first frame of the other side."""

    def link_received(self, link: Link, frames: list[Frame]) -> None:
        """The next frames of a link that is up, in order. May raise FrameError."""

    def link_filled(self, link: Link) -> None:
        """There is something to flush before the loop waits again; called once until `flushed`."""

    def link_lost(self, link: Link, kind: str, reason: str, was_up: bool) -> None:
        """Called exactly once, after which the link neither sends nor delivers. `kind` is one of few words,
        for counting."""


class Link(asyncio.BufferedProtocol):
    """A connection, outgoing (we dialled, we send requests) or incoming (we answer)."""

    __slots__ = (
        "_allowance",
        "_backlog",
        "_charged",
        "_end",
        "_fill",
        "_next",
        "_out",
        "_owner",
        "_queued",
        "_reader",
        "_reading",
        "_resting",
        "_transport",
        "_write",
        "bytes_received",
        "bytes_sent",
        "identity",
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
        self._write: Callable[[list[bytes | memoryview]], None] | None = None
        self._backlog: list[Frame] = []
        """Received and not handed over yet, from `_next` on; their payloads are windows into the reader's buffer."""
        self._next = 0
        self._reading = True
        self._resting = False
        self._charged = 0
        self._allowance = Allowance(CHARGES_PER_S, CHARGES_BURST, time.monotonic_ns())
        self._end = ""
        """Why the connection has ended, while what it brought before is still being handed over."""
        self.identity: Peer | None = None
        """Whom the other side's certificate names, once the owner has looked at it."""
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
        if fill and not self._queued:
            self._queued = True
            self._owner.link_filled(self)
        return self.open

    def _overflow(self, fill: int, part: bytes | memoryview) -> int:
        """The send buffer leaves, and a large part right behind it: a frame's header by itself would cost the peer a
        wake-up. Returns the new fill."""
        self._fill = 0
        parts: list[bytes | memoryview] = [self._out[:fill]] if fill else []
        if len(part) >= DIRECT_BYTES:
            parts.append(part)
        self._put(parts, sum(map(len, parts)))
        return 0

    def flush(self) -> None:
        """Hand what was sent since the last flush to TLS and the socket."""
        self._queued = False
        if self._fill:
            fill, self._fill = self._fill, 0
            self._put([self._out[:fill]], fill)

    def _put(self, parts: list[bytes | memoryview], size: int) -> None:
        if self._write is not None:
            self.bytes_sent += size
            self._write(parts)
            if not self.writable:
                self._check_pending()

    def _check_pending(self) -> None:
        """Ends the link later, not here: whoever sends does not expect to lose the link under its hands."""
        if self.pending_bytes > PENDING_BYTES_MAX:
            reason = f"the peer left {self.pending_bytes} bytes unread"
            asyncio.get_running_loop().call_soon(self.close, reason)

    @property
    def who(self) -> str:
        """The other side as it is told to the audit: its identity, or its address as long as that is all we know."""
        return str(self.identity) if self.identity is not None else self.remote.rpartition(":")[0]

    @property
    def pending_bytes(self) -> int:
        """Sent by us and not yet taken by the socket."""
        return self._fill + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def wire_bytes(self) -> tuple[int, int]:
        """(acknowledged by the peer, received) as the kernel counts this connection, TLS and handshake
        included; (0, 0) once it is closed, and for a node's link to itself, which has none."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return 0, 0
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES_ACKED + 16)
        return cast(tuple[int, int], struct.unpack_from("=QQ", raw, _TCP_INFO_BYTES_ACKED))

    def delivery(self) -> tuple[int, int, int]:
        """(bytes acknowledged by the peer, microseconds with something under way, of these while the peer's process did
        not read) as the kernel measures this connection; zeros where it does not."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return 0, 0, 0
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BUSY_TIME + 16)
        if len(raw) < _TCP_INFO_BUSY_TIME + 16:
            return 0, 0, 0
        (acked,) = struct.unpack_from("=Q", raw, _TCP_INFO_BYTES_ACKED)
        busy_us, unread_us = struct.unpack_from("=QQ", raw, _TCP_INFO_BUSY_TIME)
        return acked, busy_us, unread_us

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
        self._fill = self._next = 0
        self._write = self._transport = None
        self._backlog = []
        self._owner.link_lost(self, kind, reason, was_up)
        return True

    # --- the transport's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        connected.set_write_buffer_limits(high=WRITABLE_BYTES, low=WRITABLE_BYTES // 4)
        self._transport, self._write = connected, connected.writelines
        self._out = memoryview(bytearray(SEND_BUFFER_BYTES))
        self.local_port = connected.get_extra_info("sockname", ("", 0))[1]
        self.remote = join_address(*connected.get_extra_info("peername", ("", 0))[:2])
        self.open = True
        self._owner.link_connected(self, connected.get_extra_info("peercert") or {})

    def greeted(self) -> None:
        """The other side is known: full frames from here on. Nothing is left in the small reader, because
        `get_buffer` offered it no room beyond the greeting."""
        self.up = True
        self._reader = FrameReader()

    def get_buffer(self, sizehint: int) -> memoryview:
        assert not self._backlog, "a transport that was told to pause asks for room: frames would be overwritten"
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
            if not self.up:
                self._owner.link_greeted(self, frames[0])
                return
        except FrameError as error:
            self.close(str(error), "frames")
            return
        self._backlog = frames
        self._take_turn()

    def eof_received(self) -> None:
        self._ended(self._told_end("closed by the peer"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(self._told_end(f"connection lost: {exc}" if exc else "closed by the peer"))

    def _told_end(self, how: str) -> str:
        if self.up:
            return how
        return f"{how} before it greeted{': it may not accept our certificate' if self.outgoing else ''}"

    def _ended(self, reason: str) -> None:
        """An orderly peer lets go of its volumes and hangs up: its last words count, also when they have to wait
        for their turn."""
        if self._backlog and self.open:
            self._end = self._end or reason
            self._write = self._transport = None
        else:
            self._forget("closed", reason)

    # --- turns ---

    def charge(self, cost: int = 1) -> None:
        """The owner: a frame that moves no data, or that was refused. Whoever sends too many of them rests."""
        self._charged += cost

    def _take_turn(self) -> None:
        """Hand over what was received, for as long as one turn may last."""
        end_ns = time.monotonic_ns() + TURN_NS
        wait_ns = 0
        try:
            while self._backlog and (self.writable or not self._is_choked()):
                self._owner.link_received(self, self._next_slice())
                if self._charged:
                    wait_ns = self._allowance.take(self._charged, time.monotonic_ns())
                    self._charged = 0
                if wait_ns or (self._backlog and time.monotonic_ns() >= end_ns):
                    break
        except FrameError as error:
            self.close(str(error), "frames")
        except Exception as error:
            # Ours, and the loop reports it. A link that lost its place in the stream is of no use to anybody.
            self.close(f"internal: {type(error).__name__}: {error}", "internal")
            raise
        if not self.open or (self._reading and self.writable and not (wait_ns or self._backlog or self._end)):
            return
        if self._end and not self._backlog:
            self._forget("closed", self._end)
        elif wait_ns:
            self._resting = True
            self._read_on(False)
            asyncio.get_running_loop().call_later(wait_ns / SECOND, self._rested)
        elif not self.writable and self._is_choked():
            self._read_on(False)  # until `resume_writing`
        elif self._backlog:
            self._read_on(False)
            asyncio.get_running_loop().call_soon(self._go_on)
        elif not self._reading:
            self._read_on(True)

    def _next_slice(self) -> list[Frame]:
        backlog, start = self._backlog, self._next
        if len(backlog) == 1:
            self._backlog, self._next = [], 0
            return backlog
        if len(backlog) <= SLICE_FRAMES and not start and sum(map(weight, backlog)) <= SLICE_BYTES:
            self._backlog = []
            return backlog
        end, moved = start, 0
        while end < len(backlog) and end - start < SLICE_FRAMES:
            moved += weight(backlog[end])
            if moved > SLICE_BYTES and end > start:
                break
            end += 1
        self._next = end
        if end == len(backlog):
            self._backlog, self._next = [], 0
        return backlog[start:end]

    def _is_choked(self) -> bool:
        """It asks and does not read what we answer."""
        return not self.outgoing and not self.writable and self.pending_bytes > ANSWERS_BYTES_MAX

    def _rested(self) -> None:
        self._resting = False
        self._go_on()

    def _go_on(self) -> None:
        if self.open and not self._resting:
            self._take_turn()

    def _read_on(self, reading: bool) -> None:
        if self._transport is None or reading == self._reading:
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.on_writable is not None and self.open:
            self.on_writable(self)
        if not self._reading:
            self._go_on()
