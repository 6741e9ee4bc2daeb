"""Replication messages as frames and back. Pure.

The frame's header carries what every message needs (volume, both ends' incarnations, generation, epochs), so the
messages themselves carry only their own content. Payloads stay where they are: `token` names one in the shell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.replica.brain import Beat, BeatAnswer, Claims, Confirm, PairMessage
from services.replica.peers import (
    ADDRESS,
    ADDRESSED,
    COPY_PACKED,
    FUA,
    HEADER_BYTES,
    JOINED_LEVELS,
    JOINED_MANY,
    JOINED_PACKED,
    JOINED_PAST,
    JOINED_UNCLEAN,
    MAGIC,
    OPENED_FELT,
    OPENED_MANY,
    TRACED,
    Claim,
    Frame,
    FrameError,
    FrameReader,
    Type,
    check_range,
    pack,
    pack_asks,
    pack_claims,
    pack_extents,
    pack_ranges,
    pack_u64s,
    unpack_claims,
    unpack_ranges,
    unpack_refused,
    unpack_u64s,
)
from services.replica.peers.payloads import Refused
from services.replica.replication import messages as ms
from stoscore.limits import valid_snapshot_name
from stoscore.units import BLOCK_BYTES, SUM_BYTES

CLEANS = 1
Followed = ms.Write | ms.WriteMany | ms.Zero | ms.Flush
"""What the primary asks of its copies for a client."""
_FLAGS_AT = 3
"""Flag of FLUSH: it ends a sync that covered the marked regions."""

_JOINED = (JOINED_UNCLEAN, JOINED_MANY, JOINED_PACKED, JOINED_PAST, JOINED_LEVELS)
"""Flags of JOINED, in the order of the fields that they stand for."""

Parts = tuple[bytes | memoryview, ...]
_WRITE, _ACK, _IO_DONE, _IO_DATA = int(Type.WRITE), int(Type.ACK), int(Type.IO_DONE), int(Type.IO_DATA)
_WRITES, _IO_DONES, _IO_DATAS = int(Type.WRITES), int(Type.IO_DONES), int(Type.IO_DATAS)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the header says besides the message; packed once, for all messages that share it."""

    volume: bytes
    sender: int = 0
    target: int = 0
    generation: int = 0
    attach_epoch: int = 0
    epoch: int = 0
    address: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        address = ADDRESS.pack(self.volume, self.sender, self.target, self.generation, self.attach_epoch, self.epoch)
        object.__setattr__(self, "address", address)

    def pack(
        self, kind: int, *, flags: int = 0, length: int = 0, id: int = 0, x: int = 0, y: int = 0, z: int = 0
    ) -> bytes:
        return ADDRESSED.pack(MAGIC, kind, flags, length, self.address, id, x, y, z)


# ---- between nodes --------------------------------------------------------------------------------------


def pack_pair(message: PairMessage) -> Parts:
    match message:
        case Beat(number, nonce, version):
            return (pack(Type.BEAT, id=number, x=nonce, y=version),)
        case BeatAnswer(number, nonce, version, revision, promised_ns, promiser):
            quoted = _version(version)
            header = pack(
                Type.BEAT_ANSWER, sender=promiser, epoch=promised_ns, id=number, x=nonce, y=quoted, z=revision
            )
            return (header,)
        case Claims(nonce, version, entries):
            body = _pack_entries(entries)
            return (pack(Type.CLAIMS, x=nonce, y=version, length=len(body)), body)
        case Confirm(nonce, version, revision, entries, promiser):
            body = _pack_entries(entries)
            quoted = _version(version)
            return (pack(Type.CONFIRM, sender=promiser, x=nonce, y=quoted, z=revision, length=len(body)), body)


def _version(version: int) -> int:
    """-1, "no claims seen", travels as the largest number: no claims list has it."""
    return version & (1 << 64) - 1


def _pack_entries(entries: dict[str, tuple[int, int]]) -> bytes:
    return pack_claims(Claim(bytes.fromhex(volume), *entry) for volume, entry in entries.items())


def unpack_pair(frame: Frame) -> PairMessage:
    if frame.type == Type.BEAT:
        return Beat(frame.id, frame.x, frame.y)
    if frame.type == Type.BEAT_ANSWER:
        return BeatAnswer(frame.id, frame.x, frame.y, frame.z, frame.epoch, frame.sender)
    entries = {bytes(claim.volume).hex(): (claim.generation, claim.epoch) for claim in unpack_claims(frame.payload)}
    if frame.type == Type.CLAIMS:
        return Claims(frame.x, frame.y, entries)
    return Confirm(frame.x, frame.y, frame.z, entries, frame.sender)


def unpack_pair_bytes(raw: bytes) -> PairMessage:
    """One pair message as it comes over the bus: a whole frame. Raises FrameError."""
    reader = FrameReader(buffer_bytes=max(len(raw), HEADER_BYTES))
    reader.get_buffer()[: len(raw)] = raw
    frames = reader.received(len(raw))
    if len(frames) != 1 or reader.missing_bytes != HEADER_BYTES or frames[0].type not in PAIR:
        raise FrameError("that is not one message between a pair of nodes")
    return unpack_pair(frames[0])


# ---- primary, replica, frontend -------------------------------------------------------------------------


def _joined(envelope: Envelope, message: ms.Joined, _: Parts) -> Parts:
    body = pack_ranges(message.share)
    told = (message.unclean, message.takes_many, message.takes_packed, message.takes_past, message.takes_levels)
    flags = sum(flag for flag, holds in zip(_JOINED, told, strict=True) if holds)
    header = envelope.pack(
        Type.JOINED, flags=flags, id=message.number, x=message.last_seq, y=message.commit, length=len(body)
    )
    return header, body


def _write(envelope: Envelope, message: ms.Write, payload: Parts) -> Parts:
    seq, commit, block, count, _ = message
    length = count * (SUM_BYTES + BLOCK_BYTES)
    return ADDRESSED.pack(MAGIC, _WRITE, 0, length, envelope.address, seq, commit, block, count), *payload


def _write_many(envelope: Envelope, message: ms.WriteMany, payload: Parts) -> Parts:
    body = pack_ranges(message.ranges)
    length = len(body) + sum(map(len, payload))
    header = ADDRESSED.pack(
        MAGIC, _WRITES, 0, length, envelope.address, message.seq, message.commit, 0, len(message.ranges)
    )
    return header, body, *payload


def _zero(envelope: Envelope, message: ms.Zero, _: Parts) -> Parts:
    return (envelope.pack(Type.ZERO, id=message.seq, x=message.commit, y=message.block, z=message.count),)


def _ack(envelope: Envelope, message: ms.Ack, _: Parts) -> Parts:
    body = pack_u64s(message.seqs)
    return ADDRESSED.pack(MAGIC, _ACK, 0, len(body), envelope.address, 0, 0, 0, 0), body


def pack_traced(envelope: Envelope, message: Followed, payload: Parts, key: int) -> Parts:
    """What is followed. No message between copies has an attach epoch: the key of the trace travels in its place; that
    of many writes in `y`."""
    if isinstance(message, ms.WriteMany):
        body = pack_ranges(message.ranges)
        length, count = len(body) + sum(map(len, payload)), len(message.ranges)
        header = envelope.pack(_WRITES, flags=TRACED, length=length, id=message.seq, x=message.commit, y=key, z=count)
        return header, body, *payload
    plain, *rest = pack_message(replace(envelope, attach_epoch=key), message, payload)
    flagged = bytearray(plain)
    flagged[_FLAGS_AT] |= TRACED
    return bytes(flagged), *rest


def _done_many(envelope: Envelope, message: ms.DoneMany, _: Parts) -> Parts:
    body = pack_u64s(message.requests)
    return ADDRESSED.pack(MAGIC, _IO_DONES, 0, len(body), envelope.address, 0, message.session, 0, 0), body


def _flush(envelope: Envelope, message: ms.Flush, _: Parts) -> Parts:
    flags = CLEANS if message.cleans else 0
    return (envelope.pack(Type.FLUSH, flags=flags, id=message.ticket, x=message.commit, y=message.settled),)


def _digest(envelope: Envelope, message: ms.Digest, _: Parts) -> Parts:
    body = pack_ranges(message.ranges)
    return envelope.pack(Type.DIGEST, id=message.number, x=message.level, length=len(body)), body


def _digests(envelope: Envelope, message: ms.Digests, payload: Parts) -> Parts:
    length = sum(map(len, payload))
    return envelope.pack(Type.DIGESTS, id=message.number, x=message.level, length=length), *payload


def _copy(envelope: Envelope, message: ms.Copy, payload: Parts) -> Parts:
    body = pack_ranges(message.ranges)
    length = len(body) + sum(map(len, payload))
    header = envelope.pack(Type.COPY, id=message.as_of, x=message.number, y=len(message.ranges), length=length)
    return header, body, *payload


def pack_packed(envelope: Envelope, message: ms.Copy, sums: bytes | memoryview, packed: bytes, size: int) -> Parts:
    """A copy whose data, `size` bytes, are packed. Only to a replica that reads those."""
    body = pack_ranges(message.ranges)
    length = len(body) + len(sums) + len(packed)
    count = len(message.ranges)
    header = envelope.pack(
        Type.COPY, flags=COPY_PACKED, id=message.as_of, x=message.number, y=count, z=size, length=length
    )
    return header, body, sums, packed


def _fetch(envelope: Envelope, message: ms.Fetch, _: Parts) -> Parts:
    body = pack_ranges(message.ranges)
    return envelope.pack(Type.FETCH, id=message.number, length=len(body)), body


def _fetched(envelope: Envelope, message: ms.Fetched, payload: Parts) -> Parts:
    body = pack_ranges(message.ranges)
    length = len(body) + sum(map(len, payload))
    return envelope.pack(Type.FETCHED, id=message.number, y=len(message.ranges), length=length), body, *payload


def _rotten(envelope: Envelope, message: ms.Rotten, _: Parts) -> Parts:
    body = pack_ranges(message.ranges)
    return envelope.pack(Type.ROTTEN, length=len(body)), body


def _failed(envelope: Envelope, message: ms.Failed, _: Parts) -> Parts:
    body = Refused(message.reason).pack()
    return envelope.pack(Type.FAILED, length=len(body)), body


def _seal(envelope: Envelope, message: ms.Seal, _: Parts) -> Parts:
    name = message.snapshot.encode("ascii")
    header = envelope.pack(Type.SEAL, id=message.seq, x=message.commit, y=message.size_blocks, length=len(name))
    return header, name


def _unpack_seal(frame: Frame) -> ms.Seal:
    name = bytes(frame.payload).decode("ascii", "replace")
    if not valid_snapshot_name(name):
        raise FrameError("a seal without a name that a snapshot can have")
    return ms.Seal(frame.id, frame.x, frame.y, name)


def _refused(envelope: Envelope, message: ms.OpenRefused, _: Parts) -> Parts:
    body = Refused(message.code.name, message.hint).pack()
    header = envelope.pack(Type.REFUSED, id=message.session, x=message.code, z=message.newest, length=len(body))
    return header, body


_PACK: dict[type, Callable[[Envelope, Any, Parts], Parts]] = {
    ms.Join: lambda e, m, _: (e.pack(Type.JOIN, id=m.number),),
    ms.Joined: _joined,
    ms.Write: _write,
    ms.WriteMany: _write_many,
    ms.Zero: _zero,
    ms.Ack: _ack,
    ms.Flush: _flush,
    ms.Flushed: lambda e, m, _: (e.pack(Type.FLUSHED, id=m.ticket),),
    ms.CommitPoint: lambda e, m, _: (e.pack(Type.COMMIT, x=m.commit),),
    ms.Digest: _digest,
    ms.Digests: _digests,
    ms.Copy: _copy,
    ms.Copied: lambda e, m, _: (e.pack(Type.COPIED, x=m.number),),
    ms.Fetch: _fetch,
    ms.Fetched: _fetched,
    ms.Rotten: _rotten,
    ms.Failed: _failed,
    ms.Prepare: lambda e, m, _: (e.pack(Type.PREPARE, id=m.number),),
    ms.Prepared: lambda e, m, _: (e.pack(Type.PREPARED, id=m.number, x=int(m.ready)),),
    ms.Seal: _seal,
    ms.Sealed: lambda e, m, _: (e.pack(Type.SEALED, id=m.seq),),
    ms.Rooted: lambda e, m, _: (e.pack(Type.ROOTED, id=m.seq, x=m.root or 0, y=int(m.root is None)),),
    ms.OpenRefused: _refused,
    ms.Done: lambda e, m, _: (ADDRESSED.pack(MAGIC, _IO_DONE, 0, 0, e.address, m.request, m.session, m.errno, 0),),
    ms.DoneMany: _done_many,
    ms.Serving: lambda e, m, _: (e.pack(Type.SERVING),),
}


def pack_message(envelope: Envelope, message: ms.DataMessage, payload: Parts = ()) -> Parts:
    """Header and payload parts, to be sent in one piece."""
    return _PACK[type(message)](envelope, message, payload)


def pack_opened(envelope: Envelope, message: ms.Opened, size_blocks: int, copies: bytes) -> Parts:
    header = envelope.pack(
        Type.OPENED, flags=OPENED_MANY | OPENED_FELT, id=message.session, x=size_blocks, length=len(copies)
    )
    return header, copies


def pack_read(envelope: Envelope, session: int, request: int, block: int, sums: bytes, data: bytes) -> Parts:
    """The answer to a read: checksums and data."""
    count = len(sums) // SUM_BYTES
    length = len(sums) + len(data)
    return ADDRESSED.pack(MAGIC, _IO_DATA, 0, length, envelope.address, request, session, block, count), sums, data


def pack_reads(
    envelope: Envelope, session: int, asks: Sequence[ms.Ask], sums: bytes, data: bytes | memoryview
) -> Parts:
    """The answers to many reads: all checksums, then all data."""
    body = pack_asks(asks)
    length = len(body) + len(sums) + len(data)
    header = ADDRESSED.pack(MAGIC, _IO_DATAS, 0, length, envelope.address, 0, session, 0, len(asks))
    return header, body, sums, data


def pack_status(envelope: Envelope, session: int, request: int, block: int, extents: list[tuple[int, bool]]) -> Parts:
    """The answer to a status."""
    body = pack_extents(extents)
    return envelope.pack(Type.IO_EXTENTS, id=request, x=session, y=block, length=len(body)), body


TO_REPLICA = frozenset({
    Type.JOIN, Type.WRITE, Type.WRITES, Type.ZERO, Type.FLUSH, Type.COMMIT, Type.DIGEST, Type.COPY, Type.FETCH,
    Type.PREPARE, Type.SEAL,
})  # fmt: skip
TO_PRIMARY = frozenset({
    Type.JOINED, Type.ACK, Type.FLUSHED, Type.DIGESTS, Type.COPIED, Type.FAILED, Type.FETCHED, Type.ROTTEN,
    Type.PREPARED, Type.SEALED, Type.ROOTED,
})  # fmt: skip
TO_FRONTEND = frozenset({
    Type.OPENED, Type.REFUSED, Type.IO_DONE, Type.IO_DONES, Type.IO_DATA, Type.IO_DATAS, Type.IO_EXTENTS, Type.SERVING,
})  # fmt: skip
FROM_FRONTEND = frozenset({
    Type.IO_WRITE, Type.IO_WRITES, Type.IO_READ, Type.IO_READS, Type.IO_ZERO, Type.IO_FLUSH, Type.IO_STATUS,
})  # fmt: skip
PAIR = frozenset({Type.BEAT, Type.BEAT_ANSWER, Type.CLAIMS, Type.CONFIRM})
ANSWERS = TO_PRIMARY | TO_FRONTEND
"""What comes back on the link that it was asked on: only from a node that we dialled. SERVING takes either way: a
new primary says it on the link that it has."""
ASKED = TO_REPLICA | FROM_FRONTEND | PAIR | {Type.BRAIN, Type.OPEN, Type.FELT, Type.CLOSE, Type.SERVING}
"""What arrives on a link that the other node dialled."""
_IO = {
    int(Type.IO_WRITE): ms.Io.WRITE,
    int(Type.IO_READ): ms.Io.READ,
    int(Type.IO_ZERO): ms.Io.ZERO,
    int(Type.IO_FLUSH): ms.Io.FLUSH,
    int(Type.IO_STATUS): ms.Io.STATUS,
}


def unpack_to_replica(frame: Frame, token: int) -> ms.ToReplica:
    """Raises FrameError."""
    if frame.type == _WRITE:
        return ms.Write(frame.id, frame.x, frame.y, frame.z, token)
    match frame.type:
        case Type.ZERO:
            return ms.Zero(frame.id, frame.x, *check_range(frame))
        case Type.FLUSH:
            return ms.Flush(frame.id, frame.x, bool(frame.flags & CLEANS), frame.y)
        case Type.COMMIT:
            return ms.CommitPoint(frame.x)
        case Type.DIGEST:
            return ms.Digest(frame.id, frame.x, tuple(unpack_ranges(frame.payload)))
        case Type.COPY:
            ranges = unpack_ranges(frame.payload[: frame.y * 16])
            return ms.Copy(frame.x, frame.id, tuple(ranges), token)
        case Type.FETCH:
            return ms.Fetch(frame.id, tuple(unpack_ranges(frame.payload)))
        case Type.JOIN:
            return ms.Join(frame.id)
        case Type.PREPARE:
            return ms.Prepare(frame.id)
        case Type.SEAL:
            return _unpack_seal(frame)
    raise FrameError(f"frame type {frame.type} is no message to a replica")


def unpack_to_primary(frame: Frame, token: int) -> ms.ToPrimary:
    """Raises FrameError."""
    match frame.type:
        case Type.ACK:
            return ms.Ack(unpack_u64s(frame.payload))
        case Type.FLUSHED:
            return ms.Flushed(frame.id)
        case Type.COPIED:
            return ms.Copied(frame.x)
        case Type.DIGESTS:
            return ms.Digests(frame.id, frame.x, token)
        case Type.JOINED:
            share = tuple(unpack_ranges(frame.payload))
            return ms.Joined(frame.id, frame.x, frame.y, share, *(bool(frame.flags & flag) for flag in _JOINED))
        case Type.FETCHED:
            return ms.Fetched(frame.id, tuple(unpack_ranges(frame.payload[: frame.y * 16])), token)
        case Type.ROTTEN:
            return ms.Rotten(tuple(unpack_ranges(frame.payload)))
        case Type.FAILED:
            return ms.Failed(unpack_refused(frame.payload).message)
        case Type.PREPARED:
            return ms.Prepared(frame.id, frame.x == 1)
        case Type.SEALED:
            return ms.Sealed(frame.id)
        case Type.ROOTED:
            return ms.Rooted(frame.id, None if frame.y else frame.x)
    raise FrameError(f"frame type {frame.type} is no message to a primary")


def unpack_request(frame: Frame, token: int) -> ms.Request:
    """A frontend's request; its range is checked against the volume by the caller."""
    return ms.Request(frame.x, frame.id, _IO[frame.type], frame.y, frame.z, bool(frame.flags & FUA), token)
