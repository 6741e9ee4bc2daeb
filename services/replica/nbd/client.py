"""One NBD client's connection: many requests in at one wake-up of the loop, many replies out at one write.

A client that keeps several requests under way sends the next ones one by one as it gets its answers, and the first of
them wakes us. Taken at once, each would go its way alone, through the processes of all copies; what a wake-up costs is
then shared by nobody. So while others are under way, or were answered together a moment ago, a connection looks once
more, and again as long as more has come (`GATHER_TURNS` at most, some ten microseconds each), before it takes what
there is. A request that comes alone, with nothing under way, waits for nothing.

A connection reads until its share of memory is used (`Limits`) or its client stops taking replies, and then leaves
the rest to the socket: the kernel holds the client back. A client that hangs up in the middle of anything costs its
connection and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from services.replica.nbd.buffer import ReceiveBuffer
from services.replica.nbd.protocol import Export, NbdConnection, NbdRequest, Phase
from services.replica.nbd.runs import HEADER_BYTES, Reads, Writes, leading_run
from services.replica.nbd.wire import Command
from stoscore.units import KIB, MIB

WRITE_BUFFER_BYTES = 4 * MIB
"""Replies that wait for a slow client; beyond it nothing more is read from that client."""
GATHER_TURNS = 4
GATHER_BYTES = 128 * KIB
"""With so much there, what a wake-up costs matters no more."""
_WRITE = int(Command.WRITE)
LINGER_S = 2.0
"""How long a client that is being dropped may take to read its last replies."""


class RequestHandler(Protocol):
    """Who owns the blocks. Every submitted request is answered once through `Client.answer`, in any order,
    at once or later, unless its client is gone."""

    def submit(self, client: Client, requests: list[tuple[NbdRequest, memoryview]]) -> None:
        """All that one wake-up brought, in order. Payloads are valid during the call only."""

    def submit_run(self, client: Client, run: Reads | Writes) -> None:
        """Requests that came together. Answered together through `Client.answer_reads` or `Client.answer_writes`, or
        one by one."""

    def gone(self, client: Client) -> None:
        """Nothing of this client needs an answer any more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may cost."""

    clients: int
    """Connections at a time."""
    requests: int
    """Unanswered requests of one connection."""
    in_flight_bytes: int
    """Payload of one connection's unanswered requests, both ways; one request may go beyond it."""


LOCAL = Limits(clients=64, requests=128, in_flight_bytes=64 * MIB)
REMOTE = Limits(clients=8, requests=128, in_flight_bytes=16 * MIB)


class Door:
    """One way in to one export: who came in by it. Its servers differ in how a connection is made."""

    def __init__(self, export: Export, limits: Limits, handler: RequestHandler, logger: logging.Logger):
        self.export = export
        self.limits = limits
        self.handler = handler
        self.clients: set[Client] = set()
        self.logger = logger

    def admit(self, client: Client) -> bool:
        if len(self.clients) >= self.limits.clients:
            self.logger.warning("NBD client refused: %d clients are connected", self.limits.clients)
            return False
        self.clients.add(client)
        return True

    def lost(self, client: Client, reason: str) -> None:
        if client not in self.clients:
            return
        self.clients.remove(client)
        self.handler.gone(client)
        if reason:
            self.logger.info("NBD connection closed: %s", reason, extra={"volume_name": self.export.name})

    def offer(self, export: Export) -> None:
        """This from now on; clients of the one before are dropped."""
        self.export = export
        self.hang_up()

    def hang_up(self) -> None:
        """Drop every client after its replies so far."""
        for client in list(self.clients):
            client.hang_up()


class Client(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, door: Door, nbd: NbdConnection):
        self._door = door
        self._limits = door.limits
        self._loop = asyncio.get_running_loop()
        self._nbd = nbd
        self._buffer = ReceiveBuffer()
        self._transport: asyncio.Transport | None = None
        self._replies: list[bytes | memoryview] = []
        self._flush_scheduled = False
        self._reading = True
        self._writable = True
        self._unanswered = 0
        self._unanswered_bytes = 0
        self._answering = self._answered = 0
        """Requests answered since the last flush, and with it."""
        self._turns = 0
        """Of the loop since the first of what is being gathered came."""
        self._gathered = 0

    # --- for the request handler ---

    def answer(self, request: NbdRequest, errno: int, data: bytes | memoryview = b"") -> None:
        """Reply to a request. `data`: a successful read's content; it must not change afterwards."""
        self._unanswered -= 1
        self._answering += 1
        if request.command <= _WRITE:
            self._unanswered_bytes -= request.length
        self._replies += self._nbd.reply(request, errno, data)
        if not self._flush_scheduled:
            self._flush_soon()

    def answer_many(self, done: list[tuple[NbdRequest, bytes | memoryview]]) -> None:
        """As `answer`, to requests that all succeeded."""
        self._unanswered -= len(done)
        self._answering += len(done)
        self._unanswered_bytes -= sum([request.length for request, _ in done if request.command <= _WRITE])
        self._replies += self._nbd.replies_to(done)
        if not self._flush_scheduled:
            self._flush_soon()

    def answer_reads(self, reads: Reads, content: bytes | memoryview) -> None:
        """As `answer`, to all of them, with what they read, one behind the other."""
        together = len(reads.handles)
        self._unanswered -= together
        self._answering += together
        self._unanswered_bytes -= together * reads.length
        self._replies += reads.replies(content, self._nbd.structured)
        if not self._flush_scheduled:
            self._flush_soon()

    def answer_writes(self, writes: Writes) -> None:
        """As `answer`, to all of them, which succeeded."""
        together = len(writes.handles)
        self._unanswered -= together
        self._answering += together
        self._unanswered_bytes -= together * writes.length
        self._replies.append(writes.replies())
        if not self._flush_scheduled:
            self._flush_soon()

    def answer_status(self, request: NbdRequest, extents: Iterable[tuple[int, bool]]) -> None:
        """Reply to a block status: (bytes, they hold data) from the request's offset on."""
        self._unanswered -= 1
        self._replies.append(self._nbd.status(request, extents))
        self._flush_soon()

    def hang_up(self) -> None:
        """Close after the replies so far."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(LINGER_S, self._transport.abort)

    def cut_off(self) -> None:
        """Close at once: what is under way is not answered."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._let_in(self._transport):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._replies.clear()
        self._door.lost(self, self._nbd.closed_because or (str(exc) if exc else ""))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer.space()

    def buffer_updated(self, nbytes: int) -> None:
        self._buffer.received(nbytes)
        if self._turns:
            return
        if (self._unanswered or self._answered > 1) and nbytes < GATHER_BYTES:
            self._turns = self._gathered = 1
            self._loop.call_soon(self._gather)
        else:
            self._advance()

    def _gather(self) -> None:
        """The loop looks at its sockets between two of these."""
        before, self._gathered = self._gathered, len(self._buffer)
        if before == self._gathered or self._turns > GATHER_TURNS or self._gathered >= GATHER_BYTES:
            self._turns = 0
            self._advance()
        else:
            self._turns += 1
            self._loop.call_soon(self._gather)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._advance()

    # --- inside ---

    def _let_in(self, transport: asyncio.Transport) -> bool:
        return self._door.admit(self)

    def _has_room(self) -> bool:
        limits = self._limits
        return self._writable and self._unanswered < limits.requests and self._unanswered_bytes < limits.in_flight_bytes

    def _advance(self) -> None:
        """Parse what is there as far as the limits allow, and read on only while they do."""
        if self._transport is None or self._transport.is_closing():
            return
        nbd = self._nbd
        while len(self._buffer) > HEADER_BYTES and nbd.at_request and self._has_room() and self._take_run():
            pass
        if self._has_room() and len(self._buffer):
            consumed = nbd.receive(
                self._buffer.unread(),
                self._limits.requests - self._unanswered,
                self._limits.in_flight_bytes - self._unanswered_bytes,
            )
            requests, nbd.requests = nbd.requests, []
            if requests:
                self._unanswered += len(requests)
                self._unanswered_bytes += sum([asked.length for asked, _ in requests if asked.command <= _WRITE])
                self._door.handler.submit(self, requests)
            self._buffer.consumed(consumed, nbd.wanted)
        if nbd.replies or nbd.phase >= Phase.LEAVING:
            self._flush_soon()
        self._read_on(self._has_room())

    def _take_run(self) -> bool:
        """The requests that lie in front, if there are several alike."""
        limits = self._limits
        run = leading_run(
            self._buffer.unread(),
            self._nbd.size_bytes,
            limits.requests - self._unanswered,
            limits.in_flight_bytes - self._unanswered_bytes,
        )
        if run is None:
            return False
        together = len(run.handles)
        self._unanswered += together
        self._unanswered_bytes += together * run.length
        self._door.handler.submit_run(self, run)
        self._buffer.consumed(run.received_bytes, HEADER_BYTES)
        return True

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
        self._answered, self._answering = self._answering, 0
        if self._nbd.replies:
            replies += self._nbd.replies
            self._nbd.replies = []
        if replies and self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(replies)
