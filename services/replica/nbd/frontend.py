"""A volume's frontend on the node where it is used: NBD clients in front, the primary's node behind.

The shell around `FrontendCore`, with the socket, the clock and the way there: from a client's request to a frame for
the primary. The way back is `verified`, where what a read brings is checked, and `answers`. Payloads are held by
`in_flight`: a write's bytes are copied out of the receive buffer once, hashed once, and kept until the write is
answered, because a failover sends them again.

All entry points run in the event loop's thread and none of them waits. Effects are carried out at once;
the sockets collect what one wake-up produced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from services.replica.nbd.answers import Answers
from services.replica.nbd.client import Client
from services.replica.nbd.felt import Felt
from services.replica.nbd.figures import IoFigures
from services.replica.nbd.in_flight import InFlight
from services.replica.nbd.listeners import Listeners
from services.replica.nbd.pieces import whole
from services.replica.nbd.protocol import Export, NbdRequest
from services.replica.nbd.runs import Reads, Writes
from services.replica.nbd.server import NbdServer
from services.replica.nbd.verified import Verified
from services.replica.nbd.wire import Command, CommandFlag
from services.replica.peers.frames import (
    ADDRESS,
    ADDRESSED,
    FUA,
    MAGIC,
    OPENED_FELT,
    OPENED_MANY,
    TRACED,
    Frame,
    FrameError,
    Type,
    pack,
)
from services.replica.peers.payloads import (
    pack_asks,
    pack_u64s,
    unpack_copies,
    unpack_refused,
    unpack_u64s,
)
from services.replica.replication.frontend import (
    Answer,
    AnswerMany,
    AnswerReads,
    AnswerWrites,
    Apart,
    ClientGone,
    ClientReads,
    ClientRequests,
    ClientWrites,
    Closing,
    Done,
    DoneMany,
    Effect,
    Event,
    FrontendCore,
    LinkDown,
    LinkUp,
    Merge,
    Opened,
    Refused,
    Release,
    RequestKind,
    SendClose,
    SendMany,
    SendOpen,
    SendRequest,
    ServingHint,
    Tick,
)
from services.replica.store.sums import block_sums
from services.replica.traced import ONE_IN, frontend_span, key_of, sampled
from stoscore.messages import FrontendStatus
from stoscore.telemetry import get_logger
from stoscore.units import BLOCK_BYTES

_FRAME = {
    int(RequestKind.READ): int(Type.IO_READ),
    int(RequestKind.WRITE): int(Type.IO_WRITE),
    int(RequestKind.ZERO): int(Type.IO_ZERO),
    int(RequestKind.FLUSH): int(Type.IO_FLUSH),
    int(RequestKind.STATUS): int(Type.IO_STATUS),
}
_READ, _WRITE, _STATUS = int(RequestKind.READ), int(RequestKind.WRITE), int(RequestKind.STATUS)
_FUA = int(CommandFlag.FUA)
_IO_DONE, _IO_DATA = int(Type.IO_DONE), int(Type.IO_DATA)
_IO_DONES, _IO_DATAS = int(Type.IO_DONES), int(Type.IO_DATAS)
_FELT = int(Type.FELT)
_FRAME_OF_MANY = {_READ: int(Type.IO_READS), _WRITE: int(Type.IO_WRITES)}
_NOBODY = ("", 0, b"")
_SESSION_END = 1 << 63
"""Sessions are numbered from the clock in nanoseconds: not before the year 2262."""


class Send(Protocol):
    def __call__(self, node: str, /, *parts: bytes | memoryview) -> bool:
        """Queue one frame to a node; False when its link is down. Takes the parts before it returns."""


class Frontend:
    """One volume, attached here under one attach epoch. The owner passes on the volume's frames and what
    becomes of the links; `FrameError` (a frame of impossible shape) is the link's owner's to handle."""

    def __init__(
        self,
        volume_id: str,
        name: str,
        size_bytes: int,
        attach_epoch: int,
        voters: Mapping[str, int],
        socket_path: Path,
        send: Send,
        connected: Callable[[str], bool],
        on_fenced: Callable[[], None] = lambda: None,
        listeners: Listeners | None = None,
    ):
        """`voters`: node -> incarnation of each copy. Naming it shows a copy that we were told of the volume.
        `on_fenced`: told once, when the volume is attached elsewhere and every request has been answered so."""
        self.volume_id = volume_id
        self.name = name
        self.attach_epoch = attach_epoch
        self.socket_path = socket_path
        self._volume = bytes.fromhex(volume_id)
        self._voters = dict(voters)
        self._send = send
        self._connected = connected
        self._on_fenced = on_fenced
        self._log = get_logger("nbd")
        # Session numbers rise across restarts of this process because the clock does; should it have been
        # set back, a primary names the newest session it knows in its refusal.
        self._core = FrontendCore(tuple(voters), first_session=time.time_ns())
        self.export = Export(name, size_bytes)
        self._server = NbdServer(self.export, socket_path, self, self._log, listeners)
        self._in_flight = in_flight = InFlight()
        self._felt = Felt()
        self._hears: set[str] = set()
        """The nodes that know what to do with what is felt here."""
        self._addressed = _NOBODY
        """Node and epoch of the last request, and the part of its header that the next one shares."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._logged = ("", False)
        """Primary and whether it has ended, as last told to the log."""
        self._closed = False
        self.on_node: Callable[[str], None] = lambda node: None
        """Called with a node of the volume that was not known before: a link to it is wanted."""
        self.on_copies: Callable[[Mapping[str, int]], None] = lambda copies: None
        """Called with the volume's copies when the primary has told that they are others than before."""
        self._count = dict.fromkeys(map(int, Command), 0)
        self.figures = IoFigures(volume_id, name)
        self._verified = Verified(volume_id, self._core, in_flight, self.figures, self._log)
        answers = Answers(self, in_flight, self._felt, self._tell_felt)
        self._effects: dict[type, Callable[[Any], str | None]] = {
            Answer: answers.answer,
            AnswerMany: answers.answer_many,
            AnswerReads: answers.answer_reads,
            AnswerWrites: answers.answer_writes,
            Apart: in_flight.apart,
            SendRequest: self._send_request,
            SendMany: self._send_many,
            Release: in_flight.release,
            Merge: in_flight.merge,
            SendOpen: self._send_session,
            SendClose: self._send_session,
        }
        """What performs each; a node that it could not reach."""

    async def start(self) -> None:
        """Listen and look for the primary. Raises StosError when the socket can't be made."""
        await self._server.start()
        for node in self._voters:
            if self._connected(node):
                self.on_link_up(node)

    def grow(self, size_bytes: int) -> None:
        """A client learns an export's size in its handshake and never again: it has to come anew."""
        self.export = Export(self.name, size_bytes)
        self._server.offer(self.export)

    async def close(self) -> None:
        """Answer everything with ESHUTDOWN, end the session and remove the socket. Idempotent."""
        self._closed = True
        self._step(Closing())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._server.close()

    async def leave(self) -> None:
        """The process ends and the volume stays open: drop the clients without an answer, which none of them takes
        for an I/O error; they find the socket again. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._server.leave()

    def status(self) -> FrontendStatus:
        return FrontendStatus(
            volume=self.volume_id,
            name=self.name,
            socket=str(self.socket_path),
            connected=bool(self._core.primary),
            clients=len(self._server.clients),
            in_flight=self._core.unanswered,
            writes=self._count[Command.WRITE],
            reads=self._count[Command.READ],
            epoch=self._core.epoch,
        )

    # --- clients (RequestHandler) ---

    def submit(self, client: Client, requests: list[tuple[NbdRequest, memoryview]]) -> None:
        now_ns = time.monotonic_ns()
        asked: list[tuple[int, int, int, int, bool, int]] = []
        in_flight, counted = self._in_flight, self._count
        waiting, written = in_flight.asked, in_flight.writes
        for request, payload in requests:
            command, flags, _, offset, length = request
            counted[command] += 1
            kind = whole(request)
            if kind < 0:
                asked += in_flight.split(client, request, payload, now_ns)
                continue
            number = in_flight.next_number
            in_flight.next_number = number + 1
            waiting[number] = (client, request, now_ns)
            token = 0
            if kind == _WRITE:
                data = bytes(payload)
                written[number] = (block_sums(data), data)
                token = number
            fua = flags & _FUA != 0
            asked.append((number, kind, offset // BLOCK_BYTES, length // BLOCK_BYTES, fua, token))
        self._run(self._core.step(ClientRequests(asked), now_ns))
        self._arm(now_ns)

    def submit_run(self, client: Client, run: Reads | Writes) -> None:
        now_ns, in_flight = time.monotonic_ns(), self._in_flight
        cookie, together = in_flight.next_number, len(run.handles)
        in_flight.next_number = cookie + together
        in_flight.runs[cookie] = (client, run, now_ns)
        blocks, count = run.blocks, run.length // BLOCK_BYTES
        event: Event
        if isinstance(run, Writes):
            self._count[Command.WRITE] += together
            in_flight.writes[cookie] = (block_sums(run.data), run.data)
            event = ClientWrites(cookie, blocks, count, cookie)
        else:
            self._count[Command.READ] += together
            event = ClientReads(cookie, blocks, count)
        self._run(self._core.step(event, now_ns))
        self._arm(now_ns)

    def gone(self, client: Client) -> None:
        cookies = self._in_flight.of(client)
        self._step(ClientGone(cookies))
        self._in_flight.forget(cookies)

    # --- the peer network ---

    def on_link_up(self, node: str) -> None:
        self._step(LinkUp(node))

    def on_link_down(self, node: str) -> None:
        self._step(LinkDown(node))

    def nodes(self) -> set[str]:
        """To which it wants links."""
        return self._core.nodes()

    def uses(self, node: str) -> bool:
        """It is a node of the volume, by the word of whoever opened this frontend or of such a node. No other may
        answer, nor say that it serves: it would be given what the clients write."""
        return self._core.knows(node)

    def on_frame(self, peer: str, frame: Frame) -> None:
        """A frame for this volume's frontend, from a node that it `uses`; other types are ignored. Raises
        FrameError."""
        if frame.type == _IO_DONE:
            self._heard(Done(peer, frame.x, frame.id, frame.epoch, frame.y))
        elif frame.type == _IO_DATA:
            self._heard(self._verified.read(peer, frame))
        elif frame.type == _IO_DONES:
            self._heard(DoneMany(peer, frame.x, unpack_u64s(frame.payload), frame.epoch))
        elif frame.type == _IO_DATAS:
            for event in self._verified.read_many(peer, frame):
                self._heard(event)
        elif frame.type == Type.IO_EXTENTS:
            self._step(self._verified.status(peer, frame))
        elif frame.type == Type.OPENED:
            (self._hears.add if frame.flags & OPENED_FELT else self._hears.discard)(peer)
            self._told(
                peer,
                Opened(peer, frame.id, frame.epoch, frame.x, bool(frame.flags & OPENED_MANY)),
                unpack_copies(frame.payload),
            )
        elif frame.type == Type.REFUSED:
            refusal = unpack_refused(frame.payload)
            if frame.z >= _SESSION_END:
                raise FrameError(f"session {frame.z} leaves no room for the next")
            self._refused(Refused(peer, frame.id, frame.x, refusal.hint, frame.z))
        elif frame.type == Type.SERVING:
            self._told(peer, ServingHint(peer, frame.epoch), unpack_copies(frame.payload))

    def _heard(self, event: Event) -> None:
        """An answer to a request brings no deadline nearer and changes nobody's session: there is nothing to look at
        afterwards."""
        self._run(self._core.step(event, time.monotonic_ns()))

    def _told(self, peer: str, event: Event, copies: dict[str, int]) -> None:
        """The volume's copies move while it is used. Who they are counts from the primary that serves us only."""
        self._step(event)
        if copies and copies != self._voters and self._core.primary == peer:
            self.learn(copies)
            self.on_copies(copies)

    def learn(self, copies: Mapping[str, int]) -> None:
        """Node -> incarnation of the copies from now on, by the word of the primary or of who opened us."""
        new = copies.keys() - self._core.nodes()
        self._voters = dict(copies)
        self._addressed = _NOBODY
        self._core.use(copies)
        for node in sorted(new):
            self.on_node(node)
            if self._connected(node):
                self._step(LinkUp(node))

    def _refused(self, event: Refused) -> None:
        """It may name a node of which we had not heard."""
        new = not self._core.knows(event.hint)
        self._step(event)
        if new and self._core.knows(event.hint):
            self.on_node(event.hint)
            if self._connected(event.hint):
                self._step(LinkUp(event.hint))

    # --- effects ---

    def _step(self, event: Event) -> None:
        now_ns = time.monotonic_ns()
        self._run(self._core.step(event, now_ns))
        self._arm(now_ns)
        state = (self._core.primary, self._core.ended)
        if state != self._logged:
            self._logged = state
            self._log_session(*state)
            if self._core.ended and not self._closed:
                self._on_fenced()

    def _run(self, effects: list[Effect]) -> None:
        lost = ""
        table = self._effects
        for effect in effects:
            lost = table[type(effect)](effect) or lost
        if lost:
            self._step(LinkDown(lost))

    def _send_request(self, request: SendRequest) -> str:
        """The node, when it can't be reached; so do all that send."""
        node, session, number, kind, block, count, fua, token = request
        address = self._address(node)
        sums, data = self._in_flight.writes[token] if token else (b"", b"")
        length, flags = len(sums) + len(data), FUA if fua else 0
        if not number % ONE_IN and self._follows(number):
            flags |= TRACED
        header = ADDRESSED.pack(MAGIC, _FRAME[kind], flags, length, address, number, session, block, count)
        sent = self._send(node, header, sums, data) if data else self._send(node, header)
        return "" if sent else node

    def _send_many(self, many: SendMany) -> str:
        node, session, kind, asks, tokens = many
        writes = self._in_flight.writes
        written = [writes[token] for token in tokens]
        parts = [pack_asks(asks), b"".join([sums for sums, _ in written]), *[data for _, data in written]]
        length, address = sum(map(len, parts)), self._address(node)
        traced, flags = sampled(asks[0][0], asks[-1][0]), 0
        if traced:
            there = any(number == traced for number, _, _ in asks) and self._follows(traced)
            traced, flags = (traced, TRACED) if there else (0, 0)
        header = ADDRESSED.pack(MAGIC, _FRAME_OF_MANY[kind], flags, length, address, traced, session, 0, len(asks))
        return "" if self._send(node, header, *parts) else node

    def _follows(self, number: int) -> bool:
        """Somebody waits for it: its answer will have a span. One that is sent again keeps its own."""
        cookie = self._core.cookie(number)
        if cookie is None:
            return False
        self._in_flight.traced[cookie] = frontend_span(self._volume, key_of(self._volume, number))
        return True

    def _address(self, node: str) -> bytes:
        known, epoch, address = self._addressed
        if known != node or epoch != self._core.epoch:
            epoch = self._core.epoch
            address = ADDRESS.pack(self._volume, 0, self._voters.get(node, 0), 0, self.attach_epoch, epoch)
            self._addressed = (node, epoch, address)
        return address

    def _send_session(self, effect: SendOpen | SendClose) -> str:
        header = pack(
            Type.OPEN if isinstance(effect, SendOpen) else Type.CLOSE,
            volume=self._volume,
            target=self._voters.get(effect.node, 0),
            attach_epoch=self.attach_epoch,
            epoch=self._core.epoch,
            id=effect.session,
        )
        sent = self._send(effect.node, header)
        return "" if sent or isinstance(effect, SendClose) else effect.node

    def _tell_felt(self, now_ns: int) -> None:
        felt, node = self._felt.due(now_ns), self._core.primary
        if felt and node in self._hears:
            body = pack_u64s(felt)
            header = ADDRESSED.pack(MAGIC, _FELT, 0, len(body), self._address(node), 0, self._core.session, 0, 0)
            self._send(node, header, body)

    # --- time ---

    def _arm(self, now_ns: int) -> None:
        """One timer, moved forward only when a deadline comes earlier: the usual deadline moves away with
        every answer, and a Tick that comes too early does nothing."""
        deadline_ns = self._core.next_deadline_ns()
        if deadline_ns is None or (self._timer is not None and self._timer_ns <= deadline_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = deadline_ns
        delay_s = max(deadline_ns - now_ns, 0) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._timer_rang)

    def _timer_rang(self) -> None:
        self._timer = None
        self._step(Tick())

    def _log_session(self, primary: str, ended: bool) -> None:
        extra = {"volume": self.volume_id, "epoch": self._core.epoch}
        if primary:
            self._log.info("frontend of %s is served by %s", self.name, primary, extra=extra)
        elif self._closed:
            self._log.info("frontend of %s is closed", self.name, extra=extra)
        elif ended:
            self._log.warning("frontend of %s is fenced: attached elsewhere", self.name, extra=extra)
        else:
            self._log.info("frontend of %s looks for its primary", self.name, extra=extra)
