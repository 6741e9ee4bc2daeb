"""Requests in bytes as requests on whole blocks, against a volume that is an array of bytes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.nbd.pieces import DATA_BLOCKS_MAX, ZERO_BLOCKS_MAX, Piece, cut_read, cut_status, pieces, whole
from services.replica.nbd.protocol import NbdRequest
from services.replica.nbd.wire import Command, CommandFlag
from services.replica.replication.frontend import RequestKind
from stoscore.units import BLOCK_BYTES, MIB

SECTORS = 8 * 6
"""Of the volume."""


def request(command: int, offset: int, length: int, flags: int = 0) -> NbdRequest:
    return NbdRequest(command, flags, 1, offset, length)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    first = draw(st.integers(0, SECTORS - 1))
    return first * 512, draw(st.integers(1, SECTORS - first)) * 512


def apply(volume: bytearray, piece: Piece) -> None:
    at, size = piece.block * BLOCK_BYTES + piece.skip, len(piece.payload)
    if piece.kind == RequestKind.ZERO:
        size = piece.count * BLOCK_BYTES
    volume[at : at + size] = piece.payload or bytes(size)


@settings(max_examples=300, deadline=None)
@given(ranges(), st.sampled_from([Command.WRITE, Command.WRITE_ZEROES, Command.TRIM]))
def test_pieces_change_what_the_request_changes(where: tuple[int, int], command: Command) -> None:
    offset, length = where
    payload = bytes(1 + at % 255 for at in range(length)) if command == Command.WRITE else b""
    before = b"\xff" * (SECTORS * 512)
    volume, wanted = bytearray(before), bytearray(before)
    wanted[offset : offset + length] = payload or bytes(length)
    found = pieces(request(command, offset, length), memoryview(payload))
    for piece in found:
        apply(volume, piece)
        assert piece.kind != RequestKind.PATCH or (piece.count == 1 and 0 < len(piece.payload) < BLOCK_BYTES)
        assert piece.kind != RequestKind.WRITE or len(piece.payload) == piece.count * BLOCK_BYTES
    assert sum(piece.kind == RequestKind.PATCH for piece in found) <= 2, "only its ends"
    for one, after in pairwise(found):
        assert one.block + one.count <= after.block
    if command == Command.TRIM:
        assert all(have in (want, old) for have, want, old in zip(volume, wanted, before, strict=True)), "a hint"
        assert not any(piece.kind == RequestKind.PATCH for piece in found)
    else:
        assert volume == wanted


@settings(max_examples=100, deadline=None)
@given(ranges())
def test_a_read_is_cut_out_of_the_blocks_that_it_touches(where: tuple[int, int]) -> None:
    offset, length = where
    volume = bytes(at * 7 % 251 for at in range(SECTORS * 512))
    read = request(Command.READ, offset, length)
    found = pieces(read, memoryview(b""))
    assert all(piece.kind == RequestKind.READ and 0 < piece.count <= DATA_BLOCKS_MAX for piece in found)
    blocks = b"".join(volume[one.block * BLOCK_BYTES : (one.block + one.count) * BLOCK_BYTES] for one in found)
    assert cut_read(read, blocks) == volume[offset : offset + length]


def test_what_is_one_piece() -> None:
    assert whole(request(Command.READ, 4096, 8192)) == RequestKind.READ
    assert whole(request(Command.FLUSH, 0, 0)) == RequestKind.FLUSH
    assert whole(request(Command.BLOCK_STATUS, 0, 1 << 31)) == RequestKind.STATUS
    assert whole(request(Command.TRIM, 0, ZERO_BLOCKS_MAX * BLOCK_BYTES)) == RequestKind.ZERO
    assert whole(request(Command.TRIM, 0, (ZERO_BLOCKS_MAX + 1) * BLOCK_BYTES)) == -1
    assert whole(request(Command.WRITE, 512, 4096)) == -1
    assert pieces(request(Command.CACHE, 0, 4096), memoryview(b"")) == []
    assert pieces(request(Command.TRIM, 512, 4096), memoryview(b"")) == []


def test_large_data_are_cut() -> None:
    most = DATA_BLOCKS_MAX * BLOCK_BYTES
    assert whole(request(Command.WRITE, 0, most)) == RequestKind.WRITE
    assert whole(request(Command.WRITE, 0, most + BLOCK_BYTES)) == -1
    payload = bytes(32 * MIB)
    written = pieces(request(Command.WRITE, 512, len(payload)), memoryview(payload))
    read = pieces(request(Command.READ, 512, len(payload)), memoryview(b""))
    for found in (written, read):
        assert max(piece.count for piece in found) == DATA_BLOCKS_MAX
        assert found[0].block == 0 and sum(piece.count for piece in found) == len(payload) // BLOCK_BYTES + 1
    assert [piece.kind for piece in written].count(RequestKind.PATCH) == 2


def test_large_zeros_are_cut() -> None:
    length = (1 << 32) - BLOCK_BYTES
    found = pieces(request(Command.WRITE_ZEROES, BLOCK_BYTES, length), memoryview(b""))
    assert all(0 < piece.count <= ZERO_BLOCKS_MAX for piece in found)
    assert found[0].block == 1 and sum(piece.count for piece in found) == length // BLOCK_BYTES


def test_extents_are_cut_to_what_was_asked_for() -> None:
    status = request(Command.BLOCK_STATUS, 512, 12288)
    assert cut_status(status, [(1, True), (2, False), (9, True)]) == [(3584, True), (8192, False), (512, True)]
    assert cut_status(status, [(1, True)]) == [(3584, True)], "the primary may stop early"
    one = request(Command.BLOCK_STATUS, 512, 1024, CommandFlag.REQ_ONE)
    assert cut_status(one, [(1, False), (7, True)][:1]) == [(1024, False)]
    several = request(Command.BLOCK_STATUS, 512, 12288, CommandFlag.REQ_ONE)
    assert cut_status(several, [(1, True), (2, False), (1, True)]) == [(3584, True)]
