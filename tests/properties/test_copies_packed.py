"""Copies over the wire, packed and as they are: any mix of blocks arrives as it was, and nothing else is taken in."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zstandard import ZstdCompressor

from services.replica import codec
from services.replica.codec import Envelope
from services.replica.peers import (
    COPY_PACKED,
    PACKED_BLOCKS_MAX,
    Frame,
    FrameError,
    Type,
    pack,
    pack_data,
    pack_ranges,
    present_sums,
    split_copy,
)
from services.replica.peers.frames import weight
from services.replica.replication import messages as ms
from services.replica.store import block_sums
from stoscore.units import BLOCK_BYTES, MIB
from tests.support.over_the_wire import over_the_wire

ENVELOPE = Envelope(bytes(range(16)), sender=7, target=8, epoch=5)
TEXT = (b"neighbouring blocks travel in one message, packed where that pays\n" * 64)[:BLOCK_BYTES]
BLOCK = st.sampled_from(("zeros", "text", "random", "ones"))
SKIPPABLE = struct.pack("<II", 0x184D2A50, BLOCK_BYTES) + bytes(BLOCK_BYTES)


def content(kind: str, rng: Random) -> bytes:
    made = {"zeros": bytes(BLOCK_BYTES), "text": TEXT, "ones": b"\1" * BLOCK_BYTES}
    return made.get(kind) or rng.randbytes(BLOCK_BYTES)


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.lists(BLOCK, min_size=1, max_size=8), min_size=1, max_size=8), seed=st.integers(0, 1 << 20))
def test_any_mix_of_blocks_arrives_as_it_was(pieces: list[list[str]], seed: int) -> None:
    rng = Random(seed)
    ranges, blocks, at = [], [], 0
    for piece in pieces:
        ranges.append((at, len(piece)))
        at += len(piece) + 1
        blocks += [content(kind, rng) for kind in piece]
    sums = block_sums(b"".join(blocks))
    data = b"".join(block for block in blocks if any(block))
    message = ms.Copy(6, 2**44, tuple(ranges), token=1)
    frames = [over_the_wire(codec.pack_message(ENVELOPE, message, (sums, data)))]
    if data:
        frames.append(over_the_wire(codec.pack_packed(ENVELOPE, message, sums, pack_data([data]), len(data))))
    for frame in frames:
        assert codec.unpack_to_replica(frame, 1) == message
        found = split_copy(frame)
        assert (found[0], bytes(found[1]), bytes(found[2])) == (ranges, sums, data)
        assert block_sums(bytes(found[2])) == present_sums(sums)
        assert weight(frame) >= len(data), "a link's turn is as short as for what is not packed"


def test_parts_are_packed_together() -> None:
    rng = Random(3)
    block = rng.randbytes(BLOCK_BYTES)
    assert len(pack_data([block, memoryview(block)])) < BLOCK_BYTES + 200, "the second is known from the first"


@settings(max_examples=200, deadline=None)
@given(count=st.integers(0, 4), size=st.integers(0, 5 * BLOCK_BYTES), cut=st.integers(0, 200), flip=st.integers(0, 255))
def test_nothing_comes_out_but_what_the_sums_name_or_the_one_error(count: int, size: int, cut: int, flip: int) -> None:
    sums = b"".join(struct.pack("<Q", at + 1) for at in range(count))
    packed = bytearray(pack_data([bytes(size)]))
    packed[cut % len(packed)] ^= flip
    body = pack_ranges([(0, count)] if count else []) + sums + bytes(packed)
    frame = Frame(
        Type.COPY, COPY_PACKED, bytes(16), 0, 0, 0, 0, 0, 0, 0, min(count, 1), count * BLOCK_BYTES, memoryview(body)
    )
    try:
        data = split_copy(frame)[2]
    except FrameError as error:
        assert str(error)
    else:
        assert len(data) == count * BLOCK_BYTES > 0


def packed_frame(count: int, z: int, packed: bytes) -> Frame:
    body = pack_ranges([(0, count)]) + b"\1" * 8 * count + packed
    header = pack(Type.COPY, flags=COPY_PACKED, id=2**44, x=1, y=1, z=z, length=len(body))
    return over_the_wire((header, body))


def bomb(claims: int, size: int) -> bytes:
    """A frame of zeros whose header claims another size: an eight byte size field, then blocks that repeat a byte."""
    header = struct.pack("<IBQ", 0xFD2FB528, 0b1110_0000, claims)
    runs = b""
    while size:
        run = min(size, 128 * 1024)
        size -= run
        runs += struct.pack("<I", run << 3 | 1 << 1 | (not size))[:3] + b"\0"
    return header + runs


def test_the_bomb_of_these_tests_is_one() -> None:
    (frame,) = [packed_frame(1, BLOCK_BYTES, bomb(BLOCK_BYTES, BLOCK_BYTES))]
    assert bytes(split_copy(frame)[2]) == bytes(BLOCK_BYTES)
    assert len(bomb(1 << 30, 1 << 30)) < 40_000


@pytest.mark.parametrize(
    ("count", "z", "packed"),
    [
        (1, BLOCK_BYTES, bomb(1 << 30, 1 << 30)),
        (1, BLOCK_BYTES, bomb(BLOCK_BYTES, 1 << 30)),
        (1, BLOCK_BYTES, bomb(BLOCK_BYTES, BLOCK_BYTES - 1)),
        (1, BLOCK_BYTES, bomb(1 << 63, BLOCK_BYTES)),
        (1, 1 << 63, bomb(1 << 63, BLOCK_BYTES)),
        (1, 0, pack_data([TEXT])),
        (1, 2 * BLOCK_BYTES, pack_data([TEXT, TEXT])),
        (2, 2 * BLOCK_BYTES, pack_data([TEXT])),
        (PACKED_BLOCKS_MAX + 1, (PACKED_BLOCKS_MAX + 1) * BLOCK_BYTES, pack_data([TEXT] * (PACKED_BLOCKS_MAX + 1))),
        (1, BLOCK_BYTES, pack_data([TEXT])[:-1]),
        (1, BLOCK_BYTES, pack_data([TEXT])[:6]),
        (1, BLOCK_BYTES, pack_data([TEXT]) + b"\0"),
        (1, BLOCK_BYTES, pack_data([TEXT]) * 2),
        (1, BLOCK_BYTES, b""),
        (1, BLOCK_BYTES, TEXT),
        (1, BLOCK_BYTES, SKIPPABLE),
        (1, BLOCK_BYTES, SKIPPABLE + pack_data([TEXT])),
        (1, BLOCK_BYTES, ZstdCompressor(write_content_size=False).compress(TEXT)),
    ],
)
def test_what_does_not_unpack_to_just_these_blocks_is_refused(count: int, z: int, packed: bytes) -> None:
    with pytest.raises(FrameError):
        split_copy(packed_frame(count, z, packed))


def test_as_many_blocks_as_may_be_packed_are_unpacked() -> None:
    data = TEXT * PACKED_BLOCKS_MAX
    frame = packed_frame(PACKED_BLOCKS_MAX, MIB, pack_data([data]))
    assert bytes(split_copy(frame)[2]) == data
    assert weight(frame) == MIB


def test_only_a_copy_is_packed() -> None:
    body = pack_ranges([(0, 1)]) + b"\1" * 8 + pack_data([TEXT])
    header = pack(Type.FETCHED, flags=COPY_PACKED, y=1, z=BLOCK_BYTES, length=len(body))
    with pytest.raises(FrameError):
        split_copy(over_the_wire((header, body)))
