"""Frames come out of the reader as they went in, whatever the pieces, and nothing else does."""

from __future__ import annotations

import pytest

from services.replica.peers.frames import (
    BUFFER_BYTES_KEPT,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    Frame,
    FrameError,
    FrameReader,
    Type,
    pack,
)
from stoscore.limits import FRAME_BYTES_MAX
from stoscore.units import KIB, MIB

VOLUME = bytes(range(16))


def feed(reader: FrameReader, stream: bytes) -> list[tuple[int, int, bytes]]:
    """(type, id, payload) of the frames, giving the reader as much as it has room for each time."""
    found = []
    while stream:
        room = reader.get_buffer()
        piece, stream = stream[: len(room)], stream[len(room) :]
        room[: len(piece)] = piece
        found += [(frame.type, frame.id, bytes(frame.payload)) for frame in reader.received(len(piece))]
    return found


def test_the_header_is_88_bytes_in_the_documented_order() -> None:
    header = pack(
        Type.WRITE,
        flags=3,
        volume=VOLUME,
        sender=4,
        target=5,
        generation=6,
        attach_epoch=7,
        epoch=8,
        id=9,
        x=10,
        y=11,
        z=12,
        length=13,
    )
    assert len(header) == HEADER_BYTES == 88
    assert HEADER.unpack(header) == (MAGIC, Type.WRITE, 3, 13, VOLUME, 4, 5, 6, 7, 8, 9, 10, 11, 12)


def test_every_field_arrives() -> None:
    reader = FrameReader()
    stream = pack(Type.COPY, flags=1, volume=VOLUME, sender=2**64 - 1, target=5, epoch=8, id=9, z=12, length=3)
    room = reader.get_buffer()
    room[: len(stream) + 3] = stream + b"abc"
    (frame,) = reader.received(len(stream) + 3)
    assert frame == Frame(Type.COPY, 1, VOLUME, 2**64 - 1, 5, 0, 0, 8, 9, 0, 0, 12, frame.payload)
    assert bytes(frame.payload) == b"abc"


def test_payloads_are_read_only() -> None:
    reader = FrameReader()
    stream = pack(Type.ACK, length=8) + bytes(8)
    reader.get_buffer()[: len(stream)] = stream
    (frame,) = reader.received(len(stream))
    with pytest.raises(TypeError):
        frame.payload[0] = 1


def test_one_wake_up_gives_all_its_frames_at_once() -> None:
    reader = FrameReader()
    stream = b"".join(pack(Type.ACK, id=n, length=8) + n.to_bytes(8, "little") for n in range(100))
    reader.get_buffer()[: len(stream)] = stream
    assert [frame.id for frame in reader.received(len(stream))] == list(range(100))


def test_a_frame_larger_than_the_buffer_gets_a_larger_one_and_gives_it_back() -> None:
    reader = FrameReader(buffer_bytes=4 * KIB)
    payload = bytes(range(256)) * (24 * KIB)
    assert len(payload) > BUFFER_BYTES_KEPT
    stream = pack(Type.WRITE, id=1, length=len(payload)) + payload + pack(Type.COMMIT, id=2)
    assert feed(reader, stream) == [(Type.WRITE, 1, payload), (Type.COMMIT, 2, b"")]
    assert len(reader.get_buffer()) == 4 * KIB


def test_there_is_always_room() -> None:
    reader = FrameReader(buffer_bytes=HEADER_BYTES)
    stream = b"".join(pack(Type.WRITE, id=n, length=n) + bytes(n) for n in range(200))
    assert [found[1] for found in feed(reader, stream)] == list(range(200))


def test_one_frame_at_a_time_for_who_offers_only_the_missing_room() -> None:
    reader = FrameReader()
    stream = pack(Type.HELLO, length=10) + bytes(10) + pack(Type.BEAT)
    taken = 0
    frames: list[Frame] = []
    while not frames:
        count = reader.missing_bytes
        reader.get_buffer()[:count] = stream[taken : taken + count]
        frames = reader.received(count)
        taken += count
    assert taken == HEADER_BYTES + 10


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (HEADER.pack(0x5353, Type.ACK, 0, 0, bytes(16), *[0] * 9), "no frame of this protocol"),
        (pack(0), "unknown frame type 0"),
        (pack(255), "unknown frame type 255"),
        (pack(Type.WRITE, length=FRAME_BYTES_MAX + 1), "at most"),
        (b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n".ljust(HEADER_BYTES), "no frame of this protocol"),
    ],
)
def test_what_is_no_frame_is_refused_by_its_header_alone(header: bytes, says: str) -> None:
    reader = FrameReader()
    reader.get_buffer()[:HEADER_BYTES] = header
    with pytest.raises(FrameError, match=says):
        reader.received(HEADER_BYTES)


def test_a_frame_that_is_too_large_costs_no_memory() -> None:
    reader = FrameReader(payload_bytes_max=100, buffer_bytes=4 * KIB)
    header = pack(Type.HELLO, length=30 * MIB)
    reader.get_buffer()[:HEADER_BYTES] = header
    with pytest.raises(FrameError):
        reader.received(HEADER_BYTES)
