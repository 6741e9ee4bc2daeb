"""Payload shapes: what is packed is unpacked, and impossible ones are refused."""

from __future__ import annotations

import pytest

from services.replica.peers.frames import Frame, FrameError, Type
from services.replica.peers.payloads import (
    Claim,
    Greeting,
    Refused,
    check_range,
    pack_claims,
    pack_ranges,
    pack_u64s,
    present_sums,
    split_blocks,
    split_copy,
    unpack_claims,
    unpack_greeting,
    unpack_json,
    unpack_ranges,
    unpack_refused,
    unpack_u64s,
)
from stoscore.limits import VOLUME_BYTES_MAX
from stoscore.units import BLOCK_BYTES

BLOCKS_MAX = VOLUME_BYTES_MAX // BLOCK_BYTES


def frame(payload: bytes, *, type: int = Type.WRITE, y: int = 0, z: int = 0) -> Frame:
    return Frame(type, 0, bytes(16), 0, 0, 0, 0, 0, 0, 0, y, z, memoryview(payload))


def test_ranges_u64s_and_claims_round_trip() -> None:
    ranges = [(0, 1), (17, 4), (BLOCKS_MAX - 1, 1)]
    assert unpack_ranges(pack_ranges(ranges)) == ranges
    values = [0, 1, 2**64 - 1]
    assert list(unpack_u64s(memoryview(pack_u64s(values)))) == values
    claims = [Claim(bytes(16), 0, 7), Claim(bytes(range(16)), 2**32 - 1, 2**64 - 1)]
    assert unpack_claims(pack_claims(claims)) == claims


@pytest.mark.parametrize(
    "payload",
    [b"x", pack_ranges([(0, 0)]), pack_ranges([(BLOCKS_MAX, 1)]), pack_ranges([(2**64 - 1, 2**64 - 1)])],
)
def test_impossible_ranges_are_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        unpack_ranges(payload)


def test_rows_of_a_wrong_length_are_refused() -> None:
    for unpack in (unpack_u64s, unpack_claims):
        with pytest.raises(FrameError):
            unpack(b"1234567")


def test_blocks_are_split_into_sums_and_data() -> None:
    payload = bytes(range(16)) + b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES
    sums, data = split_blocks(frame(payload, y=5, z=2))
    assert (bytes(sums), bytes(data)) == (payload[:16], payload[16:])


@pytest.mark.parametrize(("y", "z"), [(0, 0), (0, 1), (0, 3), (BLOCKS_MAX, 2), (0, 2**64 - 1)])
def test_blocks_of_a_wrong_count_are_refused(y: int, z: int) -> None:
    with pytest.raises(FrameError):
        split_blocks(frame(bytes(2 * (8 + BLOCK_BYTES)), y=y, z=z))


def test_a_range_in_the_header_is_checked() -> None:
    assert check_range(frame(b"", type=Type.ZERO, y=3, z=4)) == (3, 4)
    with pytest.raises(FrameError):
        check_range(frame(b"", type=Type.ZERO, y=3, z=0))


def test_a_copy_carries_data_only_of_blocks_that_have_any() -> None:
    sums = bytes(8) + b"\1" * 8 + bytes(8)
    payload = pack_ranges([(4, 1), (9, 2)]) + sums + b"d" * BLOCK_BYTES
    ranges, found, data = split_copy(frame(payload, type=Type.COPY, y=2))
    assert ranges == [(4, 1), (9, 2)]
    assert bytes(found) == sums
    assert bytes(data) == b"d" * BLOCK_BYTES
    assert present_sums(found) == b"\1" * 8
    assert present_sums(b"\2" + bytes(8) + b"\2" * 7) == b"\2" + bytes(8) + b"\2" * 7, "zeros that are no checksum"


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (pack_ranges([(4, 1)]), 2),
        (pack_ranges([(4, 2)]) + bytes(8), 1),
        (pack_ranges([(4, 1)]) + b"\1" * 8, 1),
        (pack_ranges([(4, 1)]) + bytes(8) + bytes(BLOCK_BYTES), 1),
        (pack_ranges([(4, BLOCKS_MAX - 4)]), 1),
        (b"", 2**64 - 1),
    ],
)
def test_a_copy_that_does_not_add_up_is_refused(payload: bytes, count: int) -> None:
    with pytest.raises(FrameError):
        split_copy(frame(payload, type=Type.COPY, y=count))


def test_greetings_and_refusals_round_trip() -> None:
    greeting = Greeting("n1", "stos", "0.1.0", 3)
    assert unpack_greeting(greeting.pack()) == greeting
    refused = Refused("not here", "n2")
    assert unpack_refused(refused.pack()) == refused


def test_a_newer_greeting_is_understood_well_enough_to_be_refused_by_name() -> None:
    newer = b'{"protocol": 9, "node": "n1", "cluster": "stos", "version": "9.0", "zstd": true}'
    assert unpack_greeting(newer) == Greeting("n1", "stos", "9.0", 9)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 4000,
        b'{"protocol": "1", "node": "n1", "cluster": "stos"}',
        b'{"protocol": true, "node": "n1", "cluster": "stos"}',
        b'{"protocol": 1, "node": "../n1", "cluster": "stos"}',
        b'{"protocol": 1, "node": "n1"}',
    ],
)
def test_what_is_no_greeting_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        unpack_greeting(payload)


def test_what_is_no_refusal_or_object_is_refused() -> None:
    for payload in (b"{}", b'{"message": 1}', b'{"message": "x", "hint": 1}'):
        with pytest.raises(FrameError):
            unpack_refused(payload)
    with pytest.raises(FrameError):
        unpack_json(b"1")
