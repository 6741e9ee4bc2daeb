"""A client's bytes, in pieces, through the negotiation, the requests and their cutting into whole blocks.

The first byte chooses what the connection is and in which pieces the rest arrives. What is accepted is carried out
twice, by the pieces and plainly, and both volumes must be equal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from services.replica.nbd import wire
from services.replica.nbd.pieces import Piece, cut_read, cut_status, pieces
from services.replica.nbd.protocol import REQUEST_MEMORY_BYTES_MAX, Export, NbdConnection, NbdRequest, Phase
from services.replica.nbd.starttls import Prelude
from services.replica.nbd.wire import Command, CommandFlag
from services.replica.replication.frontend import RequestKind
from stoscore.units import BLOCK_BYTES

EXPORT = Export("vol", 16 * BLOCK_BYTES)
ERRORS = {int(known) for known in wire.Errno}


class Volume:
    def __init__(self) -> None:
        self.by_pieces = bytearray(EXPORT.size_bytes)
        self.plain = bytearray(EXPORT.size_bytes)

    def serve(self, nbd: NbdConnection, request: NbdRequest, payload: memoryview) -> None:
        offset, length = request.offset, request.length
        assert not (offset | length) % wire.SECTOR_BYTES and offset + length <= EXPORT.size_bytes
        parts = pieces(request, payload)
        for piece in parts:
            self._change(piece)
        if request.command == Command.WRITE:
            self.plain[offset : offset + length] = payload
        elif request.command == Command.WRITE_ZEROES:
            self.plain[offset : offset + length] = bytes(length)
        elif request.command == Command.TRIM:  # a hint: which part it reaches is ours to say
            first, last = -(-offset // BLOCK_BYTES) * BLOCK_BYTES, (offset + length) // BLOCK_BYTES * BLOCK_BYTES
            self.plain[first:last] = bytes(max(last - first, 0))
        assert self.by_pieces == self.plain
        self._answer(nbd, request, parts)

    def _change(self, piece: Piece) -> None:
        start, end = piece.block * BLOCK_BYTES, (piece.block + piece.count) * BLOCK_BYTES
        assert end <= EXPORT.size_bytes
        if piece.kind == RequestKind.ZERO:
            self.by_pieces[start:end] = bytes(end - start)
        elif piece.payload:
            at = start + piece.skip
            assert at + len(piece.payload) <= end
            self.by_pieces[at : at + len(piece.payload)] = piece.payload

    def _answer(self, nbd: NbdConnection, request: NbdRequest, parts: list[Piece]) -> None:
        if request.command == Command.BLOCK_STATUS:
            extents = cut_status(request, [(1, True)] * parts[0].count)
            assert 0 < sum(length for length, _ in extents) <= request.length
            assert len(extents) == 1 or not request.flags & CommandFlag.REQ_ONE
            assert nbd.status(request, extents)
        elif request.command == Command.READ:
            start, end = parts[0].block * BLOCK_BYTES, (parts[-1].block + parts[-1].count) * BLOCK_BYTES
            content = cut_read(request, bytes(self.by_pieces[start:end]))
            assert bytes(content) == self.plain[request.offset : request.offset + request.length]
            assert b"".join(nbd.reply(request, 0, content)).endswith(content)
        else:
            assert nbd.reply(request, 0) and nbd.reply(request, 5)


def run(data: bytes) -> None:
    if not data:
        return
    shape, stream = data[0], data[1:]
    if shape & 128:
        _before_tls(stream)
        return
    nbd = NbdConnection(EXPORT, secured=bool(shape & 1), refusal="not you" if shape & 2 else "")
    nbd.replies.clear()
    volume, unread, step = Volume(), b"", 1 + (shape >> 2) * 9
    for at in range(0, len(stream), step):
        unread += stream[at : at + step]
        while True:
            consumed = nbd.receive(memoryview(unread), 3, 1 << 18)
            assert 0 <= consumed <= len(unread) and nbd.wanted <= REQUEST_MEMORY_BYTES_MAX
            _check_replies(nbd)
            for request, payload in nbd.requests:
                volume.serve(nbd, request, payload)
            stopped, nbd.requests = bool(nbd.requests), []
            unread = unread[consumed:]
            if not stopped:
                break
    assert bool(nbd.closed_because) == (nbd.phase == Phase.CLOSED)


def _check_replies(nbd: NbdConnection) -> None:
    for reply in nbd.replies:
        if reply.startswith(struct.pack(">I", wire.STRUCTURED_REPLY_MAGIC)):
            assert struct.unpack_from(">I", reply, wire.CHUNK.size)[0] in ERRORS
        elif reply.startswith(struct.pack(">I", wire.SIMPLE_REPLY_MAGIC)):
            assert wire.SIMPLE_REPLY.unpack(reply)[1] in ERRORS
    nbd.replies.clear()


def _before_tls(stream: bytes) -> None:
    prelude, at = Prelude(), 0
    while prelude.wanted and len(stream) - at >= prelude.wanted:
        count = prelude.wanted
        prelude.receive(stream[at : at + count])
        at += count
    assert prelude.secure + bool(prelude.closed_because) + bool(prelude.wanted) == 1


def seeds() -> Iterator[bytes]:
    """Sessions of honest clients."""

    def option(number: int, data: bytes = b"") -> bytes:
        return wire.OPTION.pack(wire.IHAVEOPT, number, len(data)) + data

    def ask(command: int, offset: int, length: int, flags: int = 0) -> bytes:
        payload = b"w" * length if command == Command.WRITE else b""
        return wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, 7, offset, length) + payload

    hello = struct.pack(">I", 3)
    contexts = struct.pack(">I3sI", 3, b"vol", 1) + struct.pack(">I15s", 15, wire.ALLOCATION)
    go = option(8) + option(9, contexts) + option(10, contexts) + option(7, struct.pack(">I3sHH", 3, b"vol", 1, 3))
    requests = [
        ask(Command.READ, 0, 8192),
        ask(Command.READ, 512, 1024, CommandFlag.DF),
        ask(Command.WRITE, 4096, 4096, CommandFlag.FUA),
        ask(Command.WRITE, 3584, 1024),
        ask(Command.FLUSH, 0, 0),
        ask(Command.TRIM, 512, 12288),
        ask(Command.CACHE, 0, 4096),
        ask(Command.WRITE_ZEROES, 8192, 4096, CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO),
        ask(Command.WRITE_ZEROES, 512, 9216),
        ask(Command.BLOCK_STATUS, 0, 65536),
        ask(Command.BLOCK_STATUS, 512, 512, CommandFlag.REQ_ONE),
        ask(Command.DISC, 0, 0),
    ]
    yield b"\x7c" + hello + go + b"".join(requests)
    yield b"\x7d" + go + b"".join(requests)
    yield b"\x04" + hello + option(3) + option(6, struct.pack(">IH", 0, 0)) + option(1, b"vol") + b"".join(requests)
    yield b"\x7e" + hello + go
    yield b"\x80" + hello + option(3) + option(5)
    for request in requests:
        yield b"\x7c" + hello + go + request
