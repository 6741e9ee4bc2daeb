"""The payload shapes of frames: ranges, u64 rows, claims, blocks with their checksums, greetings.

Every `unpack_*` and `split_*` accepts any bytes and either returns values inside their limits or raises
`FrameError`; nothing that a peer sends can make a shell allocate, loop or index by an unchecked number.
Blocks travel as `sums | data`: 8 bytes of checksum per block, then the blocks; a block whose checksum is 0
reads as zeros, and where a frame says so its data is left out. Where a frame says that its data are packed, they are
unpacked here.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from operator import add
from typing import Any, NamedTuple

from services.replica.peers.frames import COPY_PACKED, MANY_BLOCKS_MAX, PACKED_BLOCKS_MAX, Frame, FrameError, Type
from services.replica.peers.packed import unpack_data
from stoscore.limits import VOLUME_BYTES_MAX, valid_node_name
from stoscore.units import BLOCK_BYTES, SUM_BYTES

PROTOCOL_VERSION = 1
COPY_BLOCKS_MAX = 8192
"""Blocks of one COPY, those that read as zeros and travel without data included."""

_RANGE = struct.Struct("<QQ")
_EXTENT = struct.Struct("<II")
_ASK = struct.Struct("<QQQ")
_CLAIM = struct.Struct("<16sIQ")
_BLOCKS_MAX = VOLUME_BYTES_MAX // BLOCK_BYTES
_ZERO_SUM = bytes(SUM_BYTES)
_INCARNATION = re.compile(r"[0-9a-f]{16}", re.ASCII)


def pack_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    """(block, count) pairs, 16 bytes each."""
    row = tuple(chain.from_iterable(ranges))
    return struct.pack(f"<{len(row)}Q", *row)


def unpack_ranges(payload: memoryview | bytes) -> list[tuple[int, int]]:
    """(block, count) pairs with count >= 1, all inside the largest volume there can be."""
    if len(payload) % _RANGE.size:
        raise FrameError(f"a list of ranges is not {len(payload)} bytes long")
    ranges = list(_RANGE.iter_unpack(payload))
    for block, count in ranges:
        if not count or block + count > _BLOCKS_MAX:
            raise FrameError(f"impossible range: block {block}, count {count}")
    return ranges


def pack_u64s(values: Sequence[int]) -> bytes:
    """Sequence numbers, digests: 8 bytes each."""
    return struct.pack(f"<{len(values)}Q", *values)


def unpack_u64s(payload: memoryview | bytes) -> tuple[int, ...]:
    count, rest = divmod(len(payload), 8)
    if rest:
        raise FrameError(f"a row of 64-bit numbers is not {len(payload)} bytes long")
    return struct.unpack(f"<{count}Q", payload)


class Claim(NamedTuple):
    """One promise's subject (rule P1): this volume, led under this generation and epoch."""

    volume: bytes
    generation: int
    epoch: int


def pack_claims(claims: Iterable[Claim]) -> bytes:
    return b"".join([_CLAIM.pack(*claim) for claim in claims])


def unpack_claims(payload: memoryview | bytes) -> list[Claim]:
    if len(payload) % _CLAIM.size:
        raise FrameError(f"a list of claims is not {len(payload)} bytes long")
    return [Claim(*entry) for entry in _CLAIM.iter_unpack(payload)]


def check_range(frame: Frame) -> tuple[int, int]:
    """(block, count) of a frame that names its range in y and z."""
    if not frame.z or frame.y + frame.z > _BLOCKS_MAX:
        raise FrameError(f"impossible range: block {frame.y}, count {frame.z}")
    return frame.y, frame.z


def pack_extents(extents: Iterable[tuple[int, bool]]) -> bytes:
    """(blocks, they hold data), 8 bytes each."""
    return b"".join([_EXTENT.pack(count, is_data) for count, is_data in extents])


def unpack_extents(payload: memoryview | bytes) -> list[tuple[int, bool]]:
    """One at least, none empty."""
    if not payload or len(payload) % _EXTENT.size:
        raise FrameError(f"a list of extents is not {len(payload)} bytes long")
    found = [(count, bool(state)) for count, state in _EXTENT.iter_unpack(payload)]
    if not all(count for count, _ in found):
        raise FrameError("a list of extents has an empty one")
    return found


def split_blocks(frame: Frame) -> tuple[memoryview, memoryview]:
    """(sums, data) of a WRITE, IO_WRITE or IO_DATA with z blocks."""
    _, count = check_range(frame)
    sums_bytes = count * SUM_BYTES
    if len(frame.payload) != sums_bytes + count * BLOCK_BYTES:
        raise FrameError(f"{len(frame.payload)} bytes of payload are not {count} blocks with their checksums")
    return frame.payload[:sums_bytes], frame.payload[sums_bytes:]


def pack_asks(asks: Sequence[tuple[int, int, int]]) -> bytes:
    """(request, block, count), 24 bytes each."""
    return struct.pack(f"<{3 * len(asks)}Q", *chain.from_iterable(asks))


def unpack_asks(payload: memoryview | bytes) -> tuple[tuple[int, int, int], ...]:
    """One at least, none empty, no more blocks than may travel together."""
    if not payload or len(payload) % _ASK.size:
        raise FrameError(f"a list of requests is not {len(payload)} bytes long")
    return _unpack_asks(payload)[0]


def _unpack_asks(payload: memoryview | bytes) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """And how many blocks they are."""
    asks = tuple(_ASK.iter_unpack(payload))
    _, blocks, counts = zip(*asks, strict=True)
    return asks, _check_many(blocks, counts)


def _check_many(blocks: Sequence[int], counts: Sequence[int]) -> int:
    """Ranges by their first blocks and their lengths: how many blocks they are."""
    together = sum(counts)
    if not all(counts) or max(map(add, blocks, counts)) > _BLOCKS_MAX:
        raise FrameError("an impossible range among those that came together")
    if together > MANY_BLOCKS_MAX:
        raise FrameError(f"{together} blocks together where at most {MANY_BLOCKS_MAX} are allowed")
    return together


def split_asks(frame: Frame) -> tuple[tuple[tuple[int, int, int], ...], memoryview, memoryview]:
    """(asks, sums, data) of an IO_WRITES or IO_DATAS."""
    sums_from = frame.z * _ASK.size
    if not frame.z or sums_from > len(frame.payload):
        raise FrameError(f"{len(frame.payload)} bytes of payload do not hold {frame.z} requests")
    asks, together = _unpack_asks(frame.payload[:sums_from])
    return asks, *_split_many(frame, sums_from, together)


def split_writes(frame: Frame) -> tuple[tuple[tuple[int, int], ...], memoryview, memoryview]:
    """(ranges, sums, data) of a WRITES."""
    sums_from = frame.z * _RANGE.size
    if not frame.z or sums_from > len(frame.payload):
        raise FrameError(f"{len(frame.payload)} bytes of payload do not hold {frame.z} ranges")
    ranges = tuple(_RANGE.iter_unpack(frame.payload[:sums_from]))
    return ranges, *_split_many(frame, sums_from, _check_many(*zip(*ranges, strict=True)))


def _split_many(frame: Frame, sums_from: int, blocks: int) -> tuple[memoryview, memoryview]:
    data_from = sums_from + blocks * SUM_BYTES
    if len(frame.payload) != data_from + blocks * BLOCK_BYTES:
        raise FrameError(f"{len(frame.payload)} bytes of payload are not {blocks} blocks with their checksums")
    return frame.payload[sums_from:data_from], frame.payload[data_from:]


def present_sums(sums: memoryview | bytes) -> bytes:
    """Those of these checksums that belong to blocks that do not read as zeros."""
    raw = bytes(sums)
    if _ZERO_SUM not in raw:
        return raw
    each = (raw[at : at + SUM_BYTES] for at in range(0, len(raw), SUM_BYTES))
    return b"".join(one for one in each if one != _ZERO_SUM)


def split_copy(frame: Frame) -> tuple[list[tuple[int, int]], memoryview, memoryview]:
    """(ranges, sums, data) of a COPY or FETCHED: the sums of all blocks, the data of those whose sum is not 0. Packed
    data are looked at when header and sums agree on how much they have to be, and that may be unpacked at a time."""
    sums_from = frame.y * _RANGE.size
    if sums_from > len(frame.payload):
        raise FrameError(f"{len(frame.payload)} bytes of payload do not hold {frame.y} ranges")
    ranges = unpack_ranges(frame.payload[:sums_from])
    blocks = sum(count for _, count in ranges)
    if blocks > COPY_BLOCKS_MAX:
        raise FrameError(f"a copy of {blocks} blocks where at most {COPY_BLOCKS_MAX} are allowed")
    data_from = sums_from + blocks * SUM_BYTES
    sums, data = frame.payload[sums_from:data_from], frame.payload[data_from:]
    if data_from > len(frame.payload):
        raise FrameError(f"{len(frame.payload)} bytes of payload are not what {len(ranges)} ranges need")
    present = len(present_sums(sums)) // SUM_BYTES
    if frame.type == Type.COPY and frame.flags & COPY_PACKED:
        if not 0 < present <= PACKED_BLOCKS_MAX or frame.z != present * BLOCK_BYTES:
            raise FrameError(f"{present} blocks are not packed as {frame.z} bytes")
        return ranges, sums, memoryview(unpack_data(data, frame.z))
    if len(data) != present * BLOCK_BYTES:
        raise FrameError(f"{len(frame.payload)} bytes of payload are not what {len(ranges)} ranges need")
    return ranges, sums, data


@dataclass(frozen=True, slots=True)
class Greeting:
    """What both ends of a link say first: HELLO and WELCOME."""

    node: str
    cluster: str
    version: str
    """of the software, for the reader of a log"""
    protocol: int = PROTOCOL_VERSION

    def pack(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def unpack_json(payload: memoryview | bytes) -> dict[str, Any]:
    """A JSON object, or FrameError."""
    try:
        body = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise FrameError("a payload that should be JSON is none") from error
    if not isinstance(body, dict):
        raise FrameError("a payload that should be a JSON object is none")
    return body


def unpack_greeting(payload: memoryview | bytes) -> Greeting:
    """Fields that this version does not know are left alone: a newer peer must be able to say which protocol
    it speaks and to be refused by name."""
    body = unpack_json(payload)
    protocol, node, cluster, version = (body.get(key) for key in ("protocol", "node", "cluster", "version"))
    if type(protocol) is not int or not isinstance(node, str) or not isinstance(cluster, str):
        raise FrameError("a greeting names protocol, node and cluster; this one does not")
    if not valid_node_name(node):
        raise FrameError("a greeting names a node whose name is impossible")
    return Greeting(node, cluster, version if isinstance(version, str) else "", protocol)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a link, a session or a request is not accepted."""

    message: str
    hint: str = ""

    def pack(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def unpack_refused(payload: memoryview | bytes) -> Refused:
    body = unpack_json(payload)
    message, hint = body.get("message"), body.get("hint", "")
    if not isinstance(message, str) or not isinstance(hint, str):
        raise FrameError("a refusal says why; this one does not")
    return Refused(message, hint)


def pack_copies(copies: Mapping[str, str]) -> bytes:
    """Node -> incarnation of the volume's copies: whom a frontend may ask from now on."""
    return json.dumps(dict(copies)).encode()


def unpack_copies(payload: memoryview | bytes) -> dict[str, int]:
    """Node -> incarnation as frames carry it; nothing is told by an empty payload. Raises FrameError."""
    if not payload:
        return {}
    found = {}
    for node, incarnation in unpack_json(payload).items():
        if not valid_node_name(node) or not isinstance(incarnation, str) or not _INCARNATION.fullmatch(incarnation):
            raise FrameError("a list of copies names a node or an incarnation that can't be")
        found[node] = int(incarnation, 16)
    return found
