"""Any bytes in any pieces become frames or the one error, never anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.peers import payloads
from services.replica.peers.frames import (
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    Frame,
    FrameError,
    FrameReader,
    Type,
    pack,
)
from stoscore.units import BLOCK_BYTES

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
BODIES = [kind for kind in Type if PAYLOAD_BYTES_MAX[kind]]
"""Types that may have a payload."""
FRAMES = st.tuples(
    st.sampled_from(BODIES),
    st.fixed_dictionaries(
        {
            "flags": st.integers(0, 255),
            "volume": st.binary(min_size=16, max_size=16),
            "sender": U64,
            "target": U64,
            "generation": U32,
            "attach_epoch": U32,
            "epoch": U64,
            "id": U64,
            "x": U64,
            "y": U64,
            "z": U64,
        }
    ),
    st.binary(max_size=300),
)


def read(reader: FrameReader, stream: bytes, cuts: list[int]) -> list[tuple[object, ...]]:
    """Every frame as plain values; `cuts` are the sizes of the first pieces."""
    found: list[tuple[object, ...]] = []
    sizes = iter(cuts)
    while stream:
        room = reader.get_buffer()
        assert len(room) > 0
        count = min(len(room), len(stream), next(sizes, len(stream)))
        room[:count] = stream[:count]
        stream = stream[count:]
        found += [(*frame[:-1], bytes(frame.payload)) for frame in reader.received(count)]
    return found


@given(
    st.lists(FRAMES, max_size=12),
    st.lists(st.integers(1, 500), max_size=60),
    st.integers(HEADER_BYTES, 2048),
)
def test_frames_come_out_as_they_went_in_whatever_the_pieces(
    frames: list[tuple[Type, dict[str, Any], bytes]], cuts: list[int], buffer_bytes: int
) -> None:
    stream = b"".join(pack(kind, length=len(body), **fields) + body for kind, fields, body in frames)
    expected = [(int(kind), *(fields[name] for name in Frame._fields[1:-1]), body) for kind, fields, body in frames]
    assert read(FrameReader(buffer_bytes=buffer_bytes), stream, cuts) == expected


@given(st.sampled_from(list(Type)), st.integers(1, 2**32 - 1))
def test_a_payload_is_refused_by_its_header_when_its_type_may_not_have_it(kind: Type, more: int) -> None:
    most = PAYLOAD_BYTES_MAX[kind]
    if most:
        assert read(FrameReader(), pack(kind, length=most), []) == []
    too_long = pack(kind, length=min(most + more, 2**32 - 1))
    with pytest.raises(FrameError, match=kind.name):
        read(FrameReader(), too_long, [])


@given(st.binary(max_size=2000), st.lists(st.integers(1, 200), max_size=30))
@settings(max_examples=300)
def test_any_bytes_are_frames_or_the_one_error(stream: bytes, cuts: list[int]) -> None:
    try:
        for frame in read(FrameReader(payload_bytes_max=500, buffer_bytes=256), stream, cuts):
            assert frame[0] in set(Type)
    except FrameError as error:
        assert str(error)


@given(st.lists(FRAMES, min_size=1, max_size=4), st.data())
def test_a_flipped_byte_is_another_frame_or_the_one_error(
    frames: list[tuple[Type, dict[str, Any], bytes]], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(pack(kind, length=len(body), **fields) + body for kind, fields, body in frames))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    try:
        read(FrameReader(payload_bytes_max=500, buffer_bytes=256), bytes(stream), [])
    except FrameError as error:
        assert str(error)


@given(st.binary(max_size=3 * BLOCK_BYTES), st.integers(0, 255), U64 | st.integers(0, 4), U64 | st.integers(0, 4))
@settings(max_examples=300)
def test_any_payload_is_values_or_the_one_error(payload: bytes, flags: int, y: int, z: int) -> None:
    frame = Frame(Type.COPY, flags, bytes(16), 0, 0, 0, 0, 0, 0, 0, y, z, memoryview(payload))
    for read_it in (
        lambda: payloads.unpack_ranges(frame.payload),
        lambda: payloads.unpack_u64s(frame.payload),
        lambda: payloads.unpack_claims(frame.payload),
        lambda: payloads.unpack_greeting(frame.payload),
        lambda: payloads.unpack_refused(frame.payload),
        lambda: payloads.unpack_copies(frame.payload),
        lambda: payloads.split_blocks(frame),
        lambda: payloads.split_copy(frame),
        lambda: payloads.check_range(frame),
    ):
        try:
            read_it()
        except FrameError as error:
            assert str(error)
