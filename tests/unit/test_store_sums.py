"""Checksums: zeros are 0, nothing else is, and a mismatch names its block."""

import os
import struct

import pytest
from xxhash import xxh3_64_intdigest

from services.replica.store import block_sums, node, nodes, verify_sums
from services.replica.store.sums import has_zero
from stoscore.units import BLOCK_BYTES


def test_a_sum_is_xxh3_of_its_block_little_endian() -> None:
    data = os.urandom(3 * BLOCK_BYTES)
    want = [xxh3_64_intdigest(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
    assert block_sums(data) == struct.pack("<3Q", *want)
    assert block_sums(memoryview(data)[BLOCK_BYTES : 2 * BLOCK_BYTES]) == struct.pack("<Q", want[1])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_zeros_have_the_sum_zero(count: int) -> None:
    assert block_sums(bytes(count * BLOCK_BYTES)) == bytes(count * 8)
    assert verify_sums(bytes(count * BLOCK_BYTES), bytes(count * 8)) == []


def test_zero_blocks_among_others() -> None:
    block = os.urandom(BLOCK_BYTES)
    sums = struct.unpack("<3Q", block_sums(block + bytes(BLOCK_BYTES) + block))
    assert sums[0] == sums[2] != 0 == sums[1]


def test_verify_names_every_bad_block() -> None:
    data = bytearray(os.urandom(4 * BLOCK_BYTES))
    sums = block_sums(data)
    assert verify_sums(memoryview(data), memoryview(sums)) == []
    data[BLOCK_BYTES] ^= 1
    data[-1] ^= 0x80
    assert verify_sums(data, sums) == [1, 3]


def test_a_block_that_became_zeros_is_no_zero_block() -> None:
    assert verify_sums(bytes(BLOCK_BYTES), block_sums(os.urandom(BLOCK_BYTES))) == [0]
    assert verify_sums(os.urandom(BLOCK_BYTES), bytes(8)) == [0]


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match="whole number of blocks"):
        block_sums(b"short")
    with pytest.raises(ValueError, match="do not belong"):
        verify_sums(bytes(BLOCK_BYTES), bytes(16))


def test_has_zero_looks_at_whole_sums_only() -> None:
    assert not has_zero(struct.pack("<QQ", 0xFF, 0xFF << 56))
    assert has_zero(struct.pack("<QQ", 1, 0))
    assert has_zero(bytes(8))
    assert not has_zero(struct.pack("<Q", 1))


def test_nodes_are_zero_when_all_children_are() -> None:
    full = os.urandom(256 * 8)
    assert node(bytes(256 * 8)) == 0
    assert nodes(full + bytes(256 * 8) + full[:16]) == struct.pack(
        "<3Q", xxh3_64_intdigest(full), 0, xxh3_64_intdigest(full[:16])
    )
