"""Reads, or writes, in a row, parsed and answered at once, are what they would be one by one."""

from __future__ import annotations

import random
import struct
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.nbd.protocol import Export, NbdConnection
from services.replica.nbd.runs import Reads, Writes, leading_run
from services.replica.replication.frontend import MANY, MANY_BLOCKS, SMALL_BLOCKS
from stoscore.units import BLOCK_BYTES

SIZE = 64 * BLOCK_BYTES
READ, WRITE = 0, 1
EVERYTHING = (SIZE, 1 << 10, 1 << 30)


def request(offset: int, length: int = BLOCK_BYTES, handle: int = 7, *, flags: int = 0, command: int = 0) -> bytes:
    """With its content, if it is a write."""
    header = struct.pack(">IHHQQI", 0x25609513, flags, command, handle, offset, length)
    return header + (random.Random(handle).randbytes(length) if command == WRITE else b"")


def connected(*, structured: bool = False) -> NbdConnection:
    nbd = NbdConnection(Export("v", SIZE))
    hello = struct.pack(">I", 3) + (b"IHAVEOPT" + struct.pack(">II", 8, 0) if structured else b"")
    nbd.receive(memoryview(hello + b"IHAVEOPT" + struct.pack(">II", 1, 0)), 1, 1)
    return nbd


def leading(
    data: bytes, size: int = SIZE, requests_max: int = 1 << 10, bytes_max: int = 1 << 30
) -> Reads | Writes | None:
    return leading_run(memoryview(data), size, requests_max, bytes_max)


def together(data: bytes, **limits: int) -> int:
    run = leading(data, **limits)
    return len(run.handles) if run is not None else 0


def test_reads_in_a_row() -> None:
    reads = leading(request(8192, 8192, 1) + request(0, 8192, 1 << 63) + request(4096, 8192, 3)[:27])
    assert reads is not None
    assert reads.blocks == [2, 0] and reads.length == 8192
    assert [one.handle for one in reads.requests()] == [1, 1 << 63]


def test_writes_in_a_row() -> None:
    first, second = request(8192, 8192, 1, command=WRITE), request(0, 8192, 1 << 63, command=WRITE)
    run = leading(first + second + request(4096, 8192, 3, command=WRITE)[:-1])
    assert isinstance(run, Writes)
    assert run.blocks == [2, 0] and run.length == 8192
    assert run.data == first[28:] + second[28:]
    assert run.received_bytes == len(first + second)


def test_they_end_where_something_else_begins() -> None:
    two = request(0) + request(4096)
    others = [
        request(0, flags=1),
        request(0, flags=4),
        request(0, command=3, length=0),
        request(0, command=WRITE),
        request(0, 8192),
        b"not a request at all, but as long",
    ]
    for other in others:
        assert together(two + other + two) == 2
        assert together(other + two) == together(request(0) + other + two) == 0


def test_writes_end_where_something_else_begins() -> None:
    two = request(0, command=WRITE) + request(4096, command=WRITE)
    others = [
        request(0),
        request(0, command=WRITE, flags=1),
        request(0, command=3, length=0),
        request(0, 8192, command=WRITE),
        b"not a request at all, but as long",
    ]
    for other in others:
        assert together(two + other + two) == 2
        assert together(other + two) == together(request(0, command=WRITE) + other + two) == 0


def test_what_is_wrong_with_one_is_left_to_the_usual_way() -> None:
    for command in (READ, WRITE):
        good = request(0, command=command)
        for offset in (SIZE, 2048, (1 << 64) - 4096):
            bad = request(offset, command=command)
            assert together(good + bad) == together(good + good + bad) == 0
        for length in (0, 512, (SMALL_BLOCKS + 1) * BLOCK_BYTES):
            assert together(2 * request(0, length, command=command), size=1 << 40) == 0
    assert together(2 * request(0, 1 << 31), size=1 << 40) == 0


@pytest.mark.parametrize("command", [READ, WRITE])
def test_a_run_keeps_the_limits(command: int) -> None:
    many = request(0, command=command) * (MANY + 5)
    assert together(many) == MANY
    assert together(many, requests_max=3) == 3
    assert together(many, requests_max=1) == 0
    assert together(many, bytes_max=5 * BLOCK_BYTES + 1) == 5
    assert together(many, bytes_max=BLOCK_BYTES) == 0
    assert together(MANY * request(0, SMALL_BLOCKS * BLOCK_BYTES, command=command)) == MANY_BLOCKS // SMALL_BLOCKS


def mostly(command: int, *others: int) -> st.SearchStrategy[bytes]:
    """A request of that kind, now and then another or one that is not plain."""
    return st.builds(
        request,
        st.sampled_from([0, 4096, 8192, 12288, SIZE - 4096, SIZE, 512]),
        st.sampled_from([4096, 4096, 4096, 4096, 8192, 512]),
        st.integers(0, (1 << 64) - 1),
        flags=st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1]),
        command=st.sampled_from([*[command] * 6, *others]),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(mostly(READ, WRITE, 7), min_size=2, max_size=12), st.booleans(), st.integers(0, 27))
def test_reads_are_what_they_are_one_by_one(requests: list[bytes], structured: bool, more: int) -> None:
    data = b"".join(requests) + request(0)[:more]
    reads = leading(data)
    if not isinstance(reads, Reads):
        return
    count = len(reads.handles)
    nbd = connected(structured=structured)
    nbd.replies.clear()
    nbd.receive(memoryview(data[: reads.received_bytes]), 1 << 10, 1 << 30)
    assert not nbd.replies
    assert [asked for asked, _ in nbd.requests] == reads.requests()
    assert [asked.offset // BLOCK_BYTES for asked, _ in nbd.requests] == reads.blocks
    contents = [bytes([at]) * reads.length for at in range(count)]
    expected = [nbd.reply(asked, 0, content) for (asked, _), content in zip(nbd.requests, contents, strict=True)]
    assert b"".join(reads.replies(b"".join(contents), structured)) == b"".join(chain.from_iterable(expected))


@settings(max_examples=300, deadline=None)
@given(st.lists(mostly(WRITE, READ, 6), min_size=2, max_size=12), st.booleans(), st.integers(0, 4123))
def test_writes_are_what_they_are_one_by_one(requests: list[bytes], structured: bool, more: int) -> None:
    data = b"".join(requests) + request(0, command=WRITE)[:more]
    writes = leading(data)
    if not isinstance(writes, Writes):
        return
    nbd = connected(structured=structured)
    nbd.replies.clear()
    received = memoryview(data[: writes.received_bytes])
    assert nbd.receive(received, 1 << 10, 1 << 30) == len(received)
    assert not nbd.replies
    assert [asked for asked, _ in nbd.requests] == writes.requests()
    assert [asked.offset // BLOCK_BYTES for asked, _ in nbd.requests] == writes.blocks
    assert b"".join(bytes(payload) for _, payload in nbd.requests) == writes.data
    expected = [nbd.reply(asked, 0) for asked, _ in nbd.requests]
    assert writes.replies() == b"".join(chain.from_iterable(expected))
