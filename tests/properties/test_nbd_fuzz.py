"""Whatever a client sends is accepted, answered with the protocol's error, or ends the connection; and it
makes no difference in which pieces it arrives."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.nbd.protocol import REQUEST_MEMORY_BYTES_MAX, Export, NbdConnection, NbdRequest, Phase
from services.replica.nbd.wire import SECTOR_BYTES

EXPORT = Export("vol", 1 << 20)
KNOWN_ERRORS = {1, 5, 12, 22, 28, 75, 95, 108}


def option(number: int, data: bytes) -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def request(command: int, flags: int, handle: int, offset: int, length: int) -> bytes:
    payload = bytes([handle & 255]) * length if command == 1 and length < 1 << 16 else b""
    return struct.pack(">IHHQQI", 0x25609513, flags, command, handle, offset, length) + payload


u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
names = st.sampled_from([b"", b"vol", b"other", b"\xff\xfe", b"v" * 300])
go_data = st.builds(
    lambda name, infos, lie: (
        struct.pack(">I", max(len(name) + lie, 0)) + name + struct.pack(f">H{len(infos)}H", len(infos), *infos)
    ),
    names,
    st.lists(u16, max_size=3),
    st.sampled_from([0, 0, 0, 1, -1, 1 << 20]),
)
queries = st.sampled_from([b"base:allocation", b"base:", b"qemu:x", b"", b"\xff"])
context_data = st.builds(
    lambda name, asked, lie: (
        struct.pack(">I", len(name))
        + name
        + struct.pack(">I", max(len(asked) + lie, 0))
        + b"".join(struct.pack(">I", len(query)) + query for query in asked)
    ),
    names,
    st.lists(queries, max_size=3),
    st.sampled_from([0, 0, 0, 1, -1, 1 << 31]),
)
options = st.one_of(
    st.builds(option, st.sampled_from([6, 7]), go_data),
    st.builds(option, st.sampled_from([9, 10]), context_data),
    st.builds(option, st.integers(0, 12), st.one_of(st.just(b""), names, st.binary(max_size=40))),
)
aligned = st.integers(0, 2400).map(lambda sector: sector * SECTOR_BYTES)
good_request = st.builds(
    request,
    st.sampled_from([0, 1, 4, 5, 6, 7]),
    st.sampled_from([0, 1]),
    u64,
    aligned,
    aligned.filter(bool).map(lambda n: min(n, 8192)),
)
requests = st.one_of(
    good_request,
    st.builds(request, st.integers(0, 9), st.sampled_from([0, 0, 1, 2, 4, 8, 16, 0x8000]), u64, u64 | aligned, u32),
)
hello = st.sampled_from([0, 1, 2, 3, 3, 3, 3, 4, 1 << 31]).map(lambda flags: struct.pack(">I", flags))
selected = option(8, b"") + option(10, struct.pack(">II I15s", 0, 1, 15, b"base:allocation"))
enter = st.sampled_from([b"", option(1, b"vol"), selected + option(7, struct.pack(">IH", 0, 0))])
sessions = st.builds(
    lambda first, opts, go, reqs, tail: first + b"".join(opts) + go + b"".join(reqs) + tail,
    hello,
    st.lists(options, max_size=4),
    enter,
    st.lists(requests, max_size=8),
    st.binary(max_size=60),
)
streams = st.one_of(sessions, st.binary(max_size=400))


def play(stream: bytes, cuts: list[int]) -> tuple[list[tuple[NbdRequest, bytes]], bytes, Phase]:
    """Feed the stream in pieces through a small server's loop; returns what came out."""
    nbd, unread, arrived, replies = NbdConnection(EXPORT), b"", [], b""
    ends = [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    begin = 0
    for end in ends:
        unread, begin = unread + stream[begin:end], end
        while True:
            consumed = nbd.receive(memoryview(unread), 2, 1 << 20)
            assert 0 <= consumed <= len(unread)
            arrived += [(one, bytes(payload)) for one, payload in nbd.requests]
            replies += b"".join(nbd.replies)
            stopped_by_limit = bool(nbd.requests)
            nbd.requests, nbd.replies = [], []
            unread = unread[consumed:]
            if not stopped_by_limit:
                break
        assert nbd.wanted <= REQUEST_MEMORY_BYTES_MAX
        assert len(unread) < max(nbd.wanted, 1) or nbd.phase == Phase.CLOSED
        assert bool(nbd.closed_because) == (nbd.phase == Phase.CLOSED)
    return arrived, replies, nbd.phase


@settings(max_examples=300, deadline=None)
@given(streams, st.lists(st.integers(0, 2000), max_size=6))
def test_any_bytes_in_any_pieces(stream: bytes, cuts: list[int]) -> None:
    arrived, replies, phase = play(stream, cuts)
    assert (arrived, replies, phase) == play(stream, [])
    for one, payload in arrived:
        assert one.command in (0, 1, 3, 4, 5, 6, 7)
        assert one.offset % SECTOR_BYTES == one.length % SECTOR_BYTES == 0
        assert one.offset + one.length <= EXPORT.size_bytes
        assert len(payload) == (one.length if one.command == 1 else 0)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(requests, min_size=1, max_size=10))
def test_every_request_is_passed_on_or_answered_with_a_known_error(structured: bool, reqs: list[bytes]) -> None:
    opening = struct.pack(">I", 3) + (option(8, b"") if structured else b"") + option(1, b"vol")
    nbd = NbdConnection(EXPORT)
    nbd.receive(memoryview(opening), 1, 1)
    nbd.replies.clear()
    nbd.receive(memoryview(b"".join(reqs)), 100, 1 << 40)
    for reply in nbd.replies:
        if structured:
            magic, flags, kind, _, _, error = struct.unpack_from(">IHHQII", reply)
            assert (magic, flags, kind) == (0x668E33EF, 1, 0x8001)
        else:
            magic, error = struct.unpack_from(">II", reply)
            assert magic == 0x67446698
        assert error in KNOWN_ERRORS
    if nbd.phase == Phase.TRANSMISSION and nbd.wanted == 28:
        skipping = nbd._discard_bytes > 0
        assert skipping or len(nbd.requests) + len(nbd.replies) == len(reqs)
