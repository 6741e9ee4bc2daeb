"""The frames of the peer link: one fixed header, then a payload, found in whatever pieces arrive.

    | magic type flags length | volume | sender target | generation attach_epoch epoch | id x y z | payload
      2     1    1     4        16       8      8        4          4            8       4 * 8     length

All numbers are little-endian. A header names both ends' incarnations and the epochs with every message
(rules I1, I4, W1), so a receiver can refuse a frame by its header alone, and one shape for all types keeps
parsing at one `unpack_from` a frame. What `id`, `x`, `y` and `z` mean is told beside each `Type`; payload
shapes are in `payloads`.

A frame that is not ours or too large raises `FrameError`, the one error of this room, and ends the link:
after it nothing on that byte stream can be trusted to start where a frame starts.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from stoscore.limits import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX
from stoscore.units import BLOCK_BYTES, KIB, MIB, SUM_BYTES

MAGIC = 0x5354
HEADER = struct.Struct("<HBBI16sQQIIQQQQQ")
HEADER_BYTES = HEADER.size
ADDRESS = struct.Struct("<16sQQIIQ")
"""The middle of a header, which is the same in all messages to one replica under one record and epoch: packed once."""
ADDRESSED = struct.Struct(f"<HBBI{ADDRESS.size}sQQQQ")
assert ADDRESSED.size == HEADER_BYTES
NO_VOLUME = bytes(16)

BUFFER_BYTES = 512 * KIB
"""A link's usual receive buffer: some wake-ups' worth (the TLS layer hands over at most 256 KiB a time)."""
BUFFER_BYTES_KEPT = 4 * MIB
"""A buffer that grew beyond this for one large frame is given back once it is empty."""
FREE_BYTES_MIN = 64 * KIB
"""With less room than this behind the unfinished frame, the frame moves to the front."""


class FrameError(Exception):
    """The peer's fault: bytes that are no frame of this protocol."""


class Type(IntEnum):
    """What a frame is. The comments name the header fields that carry something, then the payload."""

    # The link itself
    HELLO = 1  # payload: greeting (json)
    WELCOME = 2  # payload: greeting (json)
    BEAT = 3  # id beat number, x nonce, y claim version
    BEAT_ANSWER = 4  # epoch promised ns, id, x nonce, y claim version, z revision
    CLAIMS = 5  # x nonce, y claim version; payload: claims
    CONFIRM = 6  # x nonce, y claim version, z revision; payload: claims
    BRAIN = 7  # payload: a brain's message (json)
    # Primary and replica
    JOIN = 16  # id join number
    JOINED = 17  # id, x last seq, y commit, flags JOINED_*; payload: ranges
    WRITE = 18  # id seq, x commit, y block, z count; payload: sums, data
    ZERO = 19  # id seq, x commit, y block, z count
    ACK = 20  # payload: seqs
    FLUSH = 21  # id flush number, x commit, y settled
    FLUSHED = 22  # id
    COMMIT = 23  # x commit
    DIGEST = 24  # id request, x level; payload: ranges
    DIGESTS = 25  # id, x level; payload: u64s
    COPY = 26  # id as-of seq, x copy number, y range count, flags, z; payload: ranges, sums, data where sum != 0
    COPIED = 27  # x copy number
    FAILED = 28  # id what failed, x error code
    FETCH = 29  # id request; payload: ranges
    FETCHED = 30  # id request, y range count; payload: ranges, sums, data where sum != 0
    ROTTEN = 31  # payload: ranges
    WRITES = 45  # id seq, x commit, z range count; payload: ranges, sums, data
    # Frontend and primary
    OPEN = 32  # id session
    OPENED = 33  # id session, x size in blocks, flags OPENED_*; payload: copies (json)
    REFUSED = 34  # id session or request, x code; payload: refusal (json)
    IO_WRITE = 35  # id request, x session, y block, z count, flags FUA; payload: sums, data
    IO_READ = 36  # id request, x session, y block, z count
    IO_ZERO = 37  # id request, x session, y block, z count, flags FUA
    IO_FLUSH = 38  # id request, x session
    IO_DONE = 39  # id request, x session, y errno
    IO_DATA = 40  # id request, x session, y block, z count; payload: sums, data
    SERVING = 41  # the header's epoch is served by the sender; payload: copies (json)
    CLOSE = 42  # id session
    IO_STATUS = 43  # id request, x session, y block, z count
    IO_EXTENTS = 44  # id request, x session, y block; payload: extents
    IO_WRITES = 46  # x session, z ask count; payload: asks, sums, data
    IO_READS = 47  # x session, z ask count; payload: asks
    IO_DONES = 48  # x session; payload: requests
    IO_DATAS = 49  # x session, z ask count; payload: asks, sums, data
    FELT = 50  # x session; payload: u64 nanoseconds
    # Primary and replica: snapshots
    PREPARE = 56  # id number
    PREPARED = 57  # id number, x 1 when a layer can be made
    SEAL = 58  # id seq, x commit, y size in blocks; payload: the snapshot's name
    SEALED = 59  # id seq
    ROOTED = 60  # id seq, x root hash, y 1 when the checksums are not proved


FUA = 1
"""Flag of IO_WRITE and IO_ZERO: answer when it is durable."""
TRACED = 128
"""Flag of a frontend's request, and of what the copies are sent for it: it is followed through all nodes
(`services/replica/traced.py`). In IO_READS and IO_WRITES `id` is the request that is; in WRITES `y` names its trace, in
WRITE, ZERO and FLUSH the attach epoch does. Who does not know it ignores it."""
JOINED_UNCLEAN = 1
JOINED_ANYTHING = 2
JOINED_MANY = 4
JOINED_PACKED = 8
JOINED_PAST = 16
JOINED_LEVELS = 32
"""Flags of JOINED: the replica is unclean; any block may differ; it knows WRITES; it reads a COPY that is packed; it
takes a SEAL whose number is of an epoch before; it knows the levels 9 to 11 of DIGEST."""
COPY_PACKED = 1
"""Flag of COPY: its data are packed; `z` says how many bytes they are unpacked."""
OPENED_MANY = 1
OPENED_FELT = 2
"""Flags of OPENED: the primary knows IO_WRITES and IO_READS; it knows FELT."""

GREETING_BYTES_MAX = 4096
"""All that a peer may send before it is known."""
COMPARED_NODES_MAX = 8192
"""Nodes of the hash tree that one DIGEST may ask for: twice what a primary asks for at a time."""
EXTENTS_MAX = 16 * KIB
"""In one IO_EXTENTS."""
HEALED_BLOCKS_MAX = 1024
"""Blocks of one FETCH or ROTTEN: four times what a primary fetches at a time."""
FELT_MAX = 256
"""Requests of which one FELT tells how long they took."""
MANY_MAX = 128
MANY_BLOCKS_MAX = 256
"""Requests, and their blocks (1 MiB), of one WRITES, IO_WRITES, IO_READS or IO_DATAS."""
PACKED_BLOCKS_MAX = 256
"""Whose data are packed in one COPY: a few bytes must not become work for longer than a link's turn."""
SNAPSHOT_CHARS_MAX = 64
_RANGE_BYTES, _ASK_BYTES, _U64_BYTES = 16, 24, 8
_MANY_BYTES = MANY_BLOCKS_MAX * (SUM_BYTES + BLOCK_BYTES)

PAYLOAD_BYTES_MAX: dict[int, int] = {
    Type.HELLO: GREETING_BYTES_MAX,
    Type.WELCOME: GREETING_BYTES_MAX,
    Type.BEAT: 0,
    Type.BEAT_ANSWER: 0,
    Type.CLAIMS: 4 * MIB,
    Type.CONFIRM: 4 * MIB,
    Type.BRAIN: MESSAGE_BYTES_MAX,
    Type.JOIN: 0,
    Type.JOINED: FRAME_BYTES_MAX,
    Type.WRITE: FRAME_BYTES_MAX,
    Type.ZERO: 0,
    Type.ACK: 8192 * _U64_BYTES,
    Type.FLUSH: 0,
    Type.FLUSHED: 0,
    Type.COMMIT: 0,
    Type.DIGEST: COMPARED_NODES_MAX * _RANGE_BYTES,
    Type.DIGESTS: COMPARED_NODES_MAX * _U64_BYTES,
    Type.COPY: FRAME_BYTES_MAX,
    Type.COPIED: 0,
    Type.FAILED: 64 * KIB,
    Type.FETCH: HEALED_BLOCKS_MAX * _RANGE_BYTES,
    Type.FETCHED: FRAME_BYTES_MAX,
    Type.ROTTEN: HEALED_BLOCKS_MAX * _RANGE_BYTES,
    Type.OPEN: 0,
    Type.OPENED: 4 * KIB,
    Type.REFUSED: 64 * KIB,
    Type.IO_WRITE: FRAME_BYTES_MAX,
    Type.IO_READ: 0,
    Type.IO_ZERO: 0,
    Type.IO_FLUSH: 0,
    Type.IO_DONE: 0,
    Type.IO_DATA: FRAME_BYTES_MAX,
    Type.SERVING: 4 * KIB,
    Type.CLOSE: 0,
    Type.IO_STATUS: 0,
    Type.IO_EXTENTS: EXTENTS_MAX * _U64_BYTES,
    Type.WRITES: MANY_MAX * _RANGE_BYTES + _MANY_BYTES,
    Type.IO_WRITES: MANY_MAX * _ASK_BYTES + _MANY_BYTES,
    Type.IO_READS: MANY_MAX * _ASK_BYTES,
    Type.IO_DONES: MANY_MAX * _U64_BYTES,
    Type.IO_DATAS: MANY_MAX * _ASK_BYTES + _MANY_BYTES,
    Type.FELT: FELT_MAX * _U64_BYTES,
    Type.PREPARE: 0,
    Type.PREPARED: 0,
    Type.SEAL: SNAPSHOT_CHARS_MAX,
    Type.SEALED: 0,
    Type.ROOTED: 0,
}
"""What a payload may hold at most, by type: looked at in the header, so that nobody can make us take in 33 MiB
for a beat, nor a list that takes the loop seconds to walk."""

assert PAYLOAD_BYTES_MAX.keys() == set(Type)

_CONSIDERED = frozenset({
    Type.CLAIMS, Type.CONFIRM, Type.BRAIN, Type.JOIN, Type.JOINED, Type.DIGEST, Type.DIGESTS, Type.COPIED,
})  # fmt: skip
CONSIDERED_BYTES = 256 * KIB
"""What a frame weighs that a brain or a recovery thinks about, for up to half a millisecond: it brings next to nothing,
and all volumes that two nodes share may send one at the same moment."""


class Frame(NamedTuple):
    """One received frame. `payload` is a window into the receive buffer: read-only, and valid only until the
    handler returns."""

    type: int
    flags: int
    volume: bytes
    sender: int
    """the sending replica's incarnation; 0 where the sender is none"""
    target: int
    """the incarnation that is meant"""
    generation: int
    attach_epoch: int
    epoch: int
    id: int
    x: int
    y: int
    z: int
    payload: memoryview


def weight(frame: Frame) -> int:
    """The bytes that handling this frame moves, what it brought and what it asks for, or could have moved meanwhile."""
    if frame.type in _CONSIDERED:
        return CONSIDERED_BYTES + len(frame.payload)
    if frame.type == Type.IO_READ:
        return frame.z * BLOCK_BYTES
    if frame.type == Type.COPY:
        return max(frame.z, len(frame.payload))  # what is packed is as much work as it was before
    return frame.z * SUM_BYTES if frame.type == Type.IO_STATUS else len(frame.payload)


def pack(
    type: int,
    *,
    flags: int = 0,
    volume: bytes = NO_VOLUME,
    sender: int = 0,
    target: int = 0,
    generation: int = 0,
    attach_epoch: int = 0,
    epoch: int = 0,
    id: int = 0,
    x: int = 0,
    y: int = 0,
    z: int = 0,
    length: int = 0,
) -> bytes:
    """The header of a frame whose payload of `length` bytes is sent right behind it."""
    return HEADER.pack(MAGIC, type, flags, length, volume, sender, target, generation, attach_epoch, epoch, id, x, y, z)


class FrameReader:
    """Cuts a byte stream into frames inside one buffer that is used again and again.

        get_buffer() -> room at the end     (the transport writes received bytes there)
        received(n)  -> the frames that are now whole; their payloads are windows into the buffer

        | given out already | start: unfinished frame | end: room |

    Bytes are moved only when the room behind the unfinished frame gets short, and never twice for one frame;
    a frame larger than the buffer gets a larger one. A buffer that is replaced stays alive for whoever still
    looks at it, so a handler that breaks the rule reads old bytes and never a crash.
    """

    __slots__ = ("_buffer_bytes", "_end", "_needed", "_payload_bytes_max", "_start", "_view", "_window")

    def __init__(self, *, payload_bytes_max: int = FRAME_BYTES_MAX, buffer_bytes: int = BUFFER_BYTES) -> None:
        assert buffer_bytes >= HEADER_BYTES
        self._payload_bytes_max = payload_bytes_max
        self._buffer_bytes = buffer_bytes
        self._start = 0
        self._end = 0
        self._needed = HEADER_BYTES
        self._use(bytearray(buffer_bytes))

    def _use(self, buffer: bytearray) -> None:
        self._view = memoryview(buffer)
        self._window = self._view.toreadonly()

    @property
    def missing_bytes(self) -> int:
        """What the current frame, or its header, still lacks. Whoever offers no more room than this reads one
        frame and nothing of the next."""
        return self._needed - (self._end - self._start)

    def get_buffer(self) -> memoryview:
        """Room for received bytes, never empty. Call it only when the last frames are done with."""
        size = len(self._view)
        if self._start == self._end:
            self._start = self._end = 0
            if size > BUFFER_BYTES_KEPT:
                self._use(bytearray(self._buffer_bytes))
        elif size - self._start < self._needed or (self._start and size - self._end < min(FREE_BYTES_MIN, size // 2)):
            self._make_room()
        return self._view[self._end :]

    def _make_room(self) -> None:
        """Move the unfinished frame to the front, of a larger buffer when it needs one."""
        rest = self._end - self._start
        size = len(self._view)
        if self._needed > size:
            larger = bytearray(self._needed + self._buffer_bytes)
            larger[:rest] = self._view[self._start : self._end]
            self._use(larger)
        else:
            self._view[:rest] = self._view[self._start : self._end]
        self._start, self._end = 0, rest

    def received(self, count: int) -> list[Frame]:
        """The frames that `count` more bytes complete, in order. Raises FrameError."""
        window, start, end = self._window, self._start, self._end + count
        limit, limits, unpack = self._payload_bytes_max, PAYLOAD_BYTES_MAX, HEADER.unpack_from
        needed = HEADER_BYTES
        frames: list[Frame] = []
        while end - start >= HEADER_BYTES:
            header = unpack(window, start)
            length = header[3]
            if header[0] != MAGIC or length > limits.get(header[1], -1) or length > limit:
                raise FrameError(_what_is_wrong(header, limit))
            stop = start + HEADER_BYTES + length
            if stop > end:
                needed += length
                break
            fields = header[1:3] + header[4:] + (window[start + HEADER_BYTES : stop],)
            frames.append(tuple.__new__(Frame, fields))
            start = stop
        self._start, self._end, self._needed = start, end, needed
        return frames


def _what_is_wrong(header: tuple[int, ...], limit: int) -> str:
    magic, kind, _, length = header[:4]
    if magic != MAGIC:
        return f"no frame of this protocol: it starts with {magic:#06x} instead of {MAGIC:#06x}"
    if kind not in PAYLOAD_BYTES_MAX:
        return f"unknown frame type {kind}"
    allowed = min(limit, PAYLOAD_BYTES_MAX[kind])
    return f"a {Type(kind).name} frame of {length} bytes where at most {allowed} are allowed"
