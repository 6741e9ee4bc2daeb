"""A node's bytes: frames in pieces, their payloads, a brain's messages, and what a frontend makes of answers.

The first byte chooses: even, the rest is a stream; odd, it is one frame whose header is built around it, so that the
fuzzer need not find out lengths.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence

from services.replica import codec
from services.replica.brain import Confirm
from services.replica.brain.messages import BadMessage, decode
from services.replica.peers import (
    COPY_PACKED,
    Frame,
    FrameError,
    FrameReader,
    Type,
    check_range,
    pack,
    pack_claims,
    pack_copies,
    pack_data,
    pack_extents,
    pack_ranges,
    pack_u64s,
    present_sums,
    split_asks,
    split_blocks,
    split_copy,
    split_writes,
    unpack_asks,
    unpack_copies,
    unpack_extents,
    unpack_refused,
    unpack_u64s,
)
from services.replica.peers.payloads import Claim, Greeting, Refused, unpack_greeting
from services.replica.replication.frontend import (
    ClientRequest,
    Data,
    Done,
    DoneMany,
    Event,
    FrontendCore,
    LinkUp,
    Opened,
    RequestKind,
    ServingHint,
)
from services.replica.replication.frontend import Refused as SessionRefused

TYPES = tuple(Type)
FIELDS = struct.Struct("<BBQQQQQ")
"""type, flags, epoch, id, x, y, z"""


def run(data: bytes) -> None:
    if not data:
        return
    stream = data[1:]
    if data[0] & 1:
        if len(stream) < FIELDS.size:
            return
        kind, flags, epoch, id, x, y, z = FIELDS.unpack_from(stream)
        body = stream[FIELDS.size :]
        header = pack(TYPES[kind % len(TYPES)], flags=flags, epoch=epoch, id=id, x=x, y=y, z=z, length=len(body))
        stream = header + body
    core = _with_a_session()
    try:
        for frame in _frames(stream, step=1 + (data[0] >> 1) * 5):
            _handle(frame, core)
    except FrameError:
        pass
    with contextlib.suppress(FrameError):
        codec.unpack_pair_bytes(stream)


def _frames(stream: bytes, step: int) -> Iterator[Frame]:
    reader = FrameReader(buffer_bytes=1024)
    at = 0
    while at < len(stream):
        room = reader.get_buffer()
        count = min(len(room), len(stream) - at, step)
        assert count > 0
        room[:count] = stream[at : at + count]
        at += count
        yield from reader.received(count)


def _with_a_session() -> FrontendCore:
    core = FrontendCore(("n1", "n2"))
    core.step(LinkUp("n1"), 0)
    core.step(Opened("n1", 1, 1, 100), 0)
    for cookie, kind in enumerate((RequestKind.READ, RequestKind.WRITE, RequestKind.PATCH, RequestKind.STATUS), 1):
        core.step(ClientRequest(cookie, kind, cookie * 10, 1, False, cookie), 0)
    return core


def _handle(frame: Frame, core: FrontendCore) -> None:
    """As handlers and frontends do it, without what they look up."""
    kind = frame.type
    if kind in (Type.HELLO, Type.WELCOME):
        unpack_greeting(frame.payload)
    elif kind == Type.BRAIN:
        with contextlib.suppress(BadMessage):
            decode(frame.payload)
    elif kind in codec.PAIR:
        message = codec.unpack_pair(frame)
        assert not isinstance(message, Confirm) or all(len(volume) == 32 for volume in message.entries)
    elif kind == Type.FELT:
        unpack_u64s(frame.payload)
    elif kind in codec.FROM_FRONTEND:
        if kind == Type.IO_WRITES:
            _check_many(*split_asks(frame))
        elif kind == Type.IO_READS:
            unpack_asks(frame.payload)
        else:
            if kind == Type.IO_WRITE:
                split_blocks(frame)
            codec.unpack_request(frame, 0)
    elif kind in codec.TO_REPLICA:
        if kind == Type.WRITES:
            ranges, sums, data = split_writes(frame)
            _check_many([(0, *where) for where in ranges], sums, data)
            return
        if kind == Type.WRITE:
            split_blocks(frame)
        elif kind == Type.COPY:
            ranges, sums, data = split_copy(frame)
            assert sum(count for _, count in ranges) * 8 == len(sums)
            assert len(present_sums(sums)) // 8 * 4096 == len(data)
        codec.unpack_to_replica(frame, 0)
    elif kind in codec.TO_PRIMARY:
        codec.unpack_to_primary(frame, 0)
    elif kind in codec.TO_FRONTEND:
        for event in _events(frame):
            core.step(event, 1)
            core.validate()


def _check_many(asks: Sequence[tuple[int, int, int]], sums: memoryview, data: memoryview) -> None:
    blocks = sum(count for _, _, count in asks)
    assert 0 < blocks == len(sums) // 8 == len(data) // 4096


def _events(frame: Frame) -> list[Event]:
    if frame.type == Type.IO_DATAS:
        asks, sums, data = split_asks(frame)
        _check_many(asks, sums, data)
        return [
            Data("n1", frame.x, ask[0], frame.epoch, 99 + at, RequestKind.READ, ask[2]) for at, ask in enumerate(asks)
        ]
    if frame.type == Type.IO_DONES:
        return [DoneMany("n1", frame.x, unpack_u64s(frame.payload), frame.epoch)]
    return [_event(frame)]


def _event(frame: Frame) -> Event:
    if frame.type == Type.IO_DONE:
        return Done("n1", frame.x, frame.id, frame.epoch, frame.y)
    if frame.type == Type.IO_DATA:
        split_blocks(frame)
        return Data("n1", frame.x, frame.id, frame.epoch, 99, RequestKind.READ, check_range(frame)[1])
    if frame.type == Type.IO_EXTENTS:
        blocks = sum(count for count, _ in unpack_extents(frame.payload))
        return Data("n1", frame.x, frame.id, frame.epoch, 99, RequestKind.STATUS, blocks)
    if frame.type == Type.REFUSED:
        return SessionRefused("n1", frame.id, frame.x, unpack_refused(frame.payload).hint, frame.z)
    unpack_copies(frame.payload)
    if frame.type == Type.OPENED:
        return Opened("n1", frame.id, frame.epoch, frame.x)
    return ServingHint("n1", frame.epoch)


def seeds() -> Iterator[bytes]:
    """One good frame of each type, and a copy that is packed."""
    blocks = bytes(8) + bytes(4096)
    bodies: dict[Type, bytes] = {
        Type.HELLO: Greeting("n1", "c", "0.1").pack(),
        Type.WELCOME: Greeting("n1", "c", "0.1").pack(),
        Type.CLAIMS: pack_claims([Claim(bytes(16), 1, 2)]),
        Type.CONFIRM: pack_claims([Claim(bytes(16), 1, 2)]),
        Type.BRAIN: b'{"version": 1, "kind": "vote", "body": {}}',
        Type.JOINED: pack_ranges([(0, 5)]),
        Type.WRITE: blocks,
        Type.ACK: pack_u64s([1, 2]),
        Type.DIGEST: pack_ranges([(0, 2)]),
        Type.DIGESTS: pack_u64s([0, 1]),
        Type.COPY: pack_ranges([(0, 1)]) + bytes(8),
        Type.FAILED: Refused("no").pack(),
        Type.OPENED: pack_copies({"n1": "0" * 16}),
        Type.REFUSED: Refused("no", "n2").pack(),
        Type.IO_WRITE: blocks,
        Type.IO_DATA: blocks,
        Type.SERVING: pack_copies({"n2": "a" * 16}),
        Type.IO_EXTENTS: pack_extents([(1, True)]),
        Type.SEAL: b"monday",
    }
    for at, kind in enumerate(TYPES):
        body = bodies.get(kind, b"")
        yield b"\x01" + FIELDS.pack(at, 0, 1, 2, 1, 0, 1) + body
        yield b"\xfe" + pack(kind, epoch=1, id=3, x=1, y=0, z=1, length=len(body)) + body
    packed = pack_ranges([(0, 3)]) + pack_u64s([1, 0, 2]) + pack_data([b"text" * 2048])
    yield b"\x01" + FIELDS.pack(TYPES.index(Type.COPY), COPY_PACKED, 1, 2, 1, 1, 8192) + packed
