"""NBD requests and replies: what is passed on, and which error the specification names for the rest."""

from __future__ import annotations

import errno as os_errno
import struct

import pytest

from services.replica.nbd import wire
from services.replica.nbd.protocol import Export, NbdConnection, NbdRequest, Phase
from services.replica.nbd.wire import Command, Errno, Option

SIZE = 1 << 30
LARGEST = 32 << 20


def connected(structured: bool = False) -> NbdConnection:
    nbd = NbdConnection(Export("v", SIZE))
    hello = struct.pack(">I", 3)
    if structured:
        hello += b"IHAVEOPT" + struct.pack(">II", Option.STRUCTURED_REPLY, 0)
    hello += b"IHAVEOPT" + struct.pack(">II", Option.EXPORT_NAME, 0)
    nbd.receive(memoryview(hello), 128, LARGEST)
    nbd.replies.clear()
    assert nbd.phase == Phase.TRANSMISSION
    return nbd


def request(
    command: int, offset: int = 0, length: int = 4096, *, flags: int = 0, handle: int = 7, data: bytes = b""
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, handle, offset, length) + data


def feed(nbd: NbdConnection, data: bytes, requests_max: int = 128, bytes_max: int = 1 << 26) -> int:
    return nbd.receive(memoryview(data), requests_max, bytes_max)


def test_requests_of_one_wake_up_come_out_in_order() -> None:
    nbd = connected()
    data = bytes(range(256)) * 16
    stream = (
        request(Command.WRITE, 4096, data=data, flags=1)
        + request(Command.READ, 8192, 8192, handle=8)
        + request(Command.FLUSH, 0, 0, handle=9)
        + request(Command.TRIM, 0, 1 << 29, handle=10)
        + request(Command.WRITE_ZEROES, 0, 4096, flags=0b10011, handle=11)
        + request(Command.CACHE, 0, SIZE, handle=12)
        + request(Command.READ, 512, 1024, handle=13)
    )
    assert feed(nbd, stream) == len(stream)
    assert [arrived for arrived, _ in nbd.requests] == [
        NbdRequest(Command.WRITE, 1, 7, 4096, 4096),
        NbdRequest(Command.READ, 0, 8, 8192, 8192),
        NbdRequest(Command.FLUSH, 0, 9, 0, 0),
        NbdRequest(Command.TRIM, 0, 10, 0, 1 << 29),
        NbdRequest(Command.WRITE_ZEROES, 0b10011, 11, 0, 4096),
        NbdRequest(Command.CACHE, 0, 12, 0, SIZE),
        NbdRequest(Command.READ, 0, 13, 512, 1024),
    ]
    assert [bytes(payload) for _, payload in nbd.requests] == [data, b"", b"", b"", b"", b"", b""]


BAD = [
    (request(Command.READ, SIZE, 4096), Errno.EINVAL),
    (request(Command.READ, SIZE - 4096, 8192), Errno.EINVAL),
    (request(Command.READ, (1 << 64) - 4096, 4096), Errno.EINVAL),
    (request(Command.TRIM, SIZE - 4096, 8192), Errno.EINVAL),
    (request(Command.WRITE, SIZE, 4096, data=bytes(4096)), Errno.ENOSPC),
    (request(Command.WRITE_ZEROES, SIZE - 4096, 8192), Errno.ENOSPC),
    (request(Command.READ, 256, 4096), Errno.EINVAL),
    (request(Command.READ, 0, 513), Errno.EINVAL),
    (request(Command.READ, SIZE - 512, 1024), Errno.EINVAL),
    (request(Command.WRITE, SIZE - 512, 1024, data=bytes(1024)), Errno.ENOSPC),
    (request(Command.READ, 0, 0), Errno.EINVAL),
    (request(Command.WRITE, 1, 3, data=b"abc"), Errno.EINVAL),
    (request(Command.FLUSH, 0, 4096), Errno.EINVAL),
    (request(Command.READ, flags=2), Errno.EINVAL),
    (request(Command.READ, flags=0x8000), Errno.EINVAL),
    (request(Command.READ, flags=8), Errno.EINVAL),
    (request(Command.WRITE, flags=4, data=bytes(4096)), Errno.EINVAL),
    (request(Command.TRIM, flags=2), Errno.EINVAL),
    (request(Command.CACHE, flags=1), Errno.EINVAL),
    (request(Command.CACHE, SIZE, 512), Errno.EINVAL),
    (request(Command.WRITE_ZEROES, 512, 4096, flags=16), Errno.ENOTSUP),
    (request(Command.WRITE_ZEROES, 0, 512, flags=18), Errno.ENOTSUP),
    (request(Command.BLOCK_STATUS), Errno.EINVAL),
    (request(Command.BLOCK_STATUS, flags=1), Errno.EINVAL),
    (request(8), Errno.EINVAL),
    (request(0xFFFF), Errno.EINVAL),
]


@pytest.mark.parametrize(("bad", "errno"), BAD)
def test_a_bad_request_is_answered_and_the_next_one_served(bad: bytes, errno: int) -> None:
    nbd = connected()
    good = request(Command.READ, handle=99)
    assert feed(nbd, bad + good) == len(bad + good)
    assert nbd.replies == [struct.pack(">IIQ", 0x67446698, errno, 7)]
    assert [arrived.handle for arrived, _ in nbd.requests] == [99]


@pytest.mark.parametrize(("bad", "errno"), BAD)
def test_with_structured_replies_errors_are_chunks_with_a_reason(bad: bytes, errno: int) -> None:
    nbd = connected(structured=True)
    feed(nbd, bad)
    (reply,) = nbd.replies
    magic, flags, kind, handle, length, error, text_bytes = struct.unpack_from(">IHHQIIH", reply)
    assert (magic, flags, kind, handle, error) == (0x668E33EF, 1, (1 << 15) + 1, 7, errno)
    assert length == 6 + text_bytes == len(reply) - 20
    assert text_bytes


@pytest.mark.parametrize(("structured", "errno"), [(True, Errno.EOVERFLOW), (False, Errno.EINVAL)])
def test_a_read_above_the_largest_payload(structured: bool, errno: int) -> None:
    nbd = connected(structured)
    feed(nbd, request(Command.READ, 0, LARGEST + 4096))
    assert not nbd.requests
    assert errno in struct.unpack_from(">IIQ" if not structured else ">IHHQII", nbd.replies[0])


def test_df_belongs_to_structured_replies_only() -> None:
    for structured in (True, False):
        nbd = connected(structured)
        feed(nbd, request(Command.READ, flags=4))
        assert bool(nbd.requests) == structured


def test_the_payload_of_a_refused_write_is_skipped_in_pieces() -> None:
    nbd = connected()
    data = request(Command.WRITE, 100, 4096, data=bytes(4096)) + request(Command.READ, handle=99)
    at = 0
    for end in range(1, len(data) + 1, 61):
        at += feed(nbd, data[at:end])
    feed(nbd, data[at:])
    assert len(nbd.replies) == 1
    assert [arrived.handle for arrived, _ in nbd.requests] == [99]


def test_a_write_waits_for_its_whole_payload() -> None:
    nbd = connected()
    data = request(Command.WRITE, 0, 8192, data=b"w" * 8192)
    assert feed(nbd, data[:-1]) == 0
    assert nbd.wanted == len(data)
    assert feed(nbd, data) == len(data)
    assert bytes(nbd.requests[0][1]) == b"w" * 8192


def test_a_batch_stops_at_its_limits() -> None:
    nbd = connected()
    one = request(Command.READ, 0, 8192)
    assert feed(nbd, one * 5, requests_max=2) == 2 * len(one)
    assert feed(nbd, one * 3, bytes_max=8193) == 2 * len(one)
    assert len(nbd.requests) == 4


@pytest.mark.parametrize(
    "data",
    [b"\0" * 28, struct.pack(">IHHQQI", 0x25609514, 0, 0, 0, 0, 4096), request(Command.WRITE, 0, LARGEST + 1)],
    ids=["zeroes", "bad magic", "huge write"],
)
def test_what_ends_the_connection(data: bytes) -> None:
    nbd = connected()
    assert feed(nbd, data) == len(data)
    assert nbd.phase == Phase.CLOSED
    assert nbd.closed_because
    assert not nbd.requests


def test_after_disconnect_nothing_is_heard() -> None:
    nbd = connected()
    data = request(Command.READ) + request(Command.DISC, 0, 0) + request(Command.READ) + b"junk"
    assert feed(nbd, data) == len(data)
    assert nbd.phase == Phase.LEAVING
    assert len(nbd.requests) == 1
    assert feed(nbd, b"more junk") == 9


def test_replies() -> None:
    read, write = NbdRequest(Command.READ, 0, 5, 4096, 4096), NbdRequest(Command.WRITE, 0, 6, 0, 4096)
    data = b"d" * 4096
    simple, structured = connected(), connected(structured=True)
    assert b"".join(simple.reply(read, 0, data)) == struct.pack(">IIQ", 0x67446698, 0, 5) + data
    chunk = struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 5, 8 + 4096, 4096) + data
    assert b"".join(structured.reply(read, 0, data)) == chunk
    for nbd in (simple, structured):
        assert b"".join(nbd.reply(write, 0)) == struct.pack(">IIQ", 0x67446698, 0, 6)
    status = NbdRequest(Command.BLOCK_STATUS, 0, 8, 512, 8192)
    chunk = struct.pack(">IHHQI", 0x668E33EF, 1, 5, 8, 20) + struct.pack(">IIIII", 1, 3584, 0, 4608, 3)
    assert structured.status(status, [(3584, True), (4608, False)]) == chunk
    assert b"".join(simple.reply(read, 5)) == struct.pack(">IIQ", 0x67446698, 5, 5)
    assert b"".join(structured.reply(read, 5)) == struct.pack(">IHHQIIH", 0x668E33EF, 1, (1 << 15) + 1, 5, 6, 5, 0)


@pytest.mark.parametrize("structured", [False, True])
def test_many_replies_are_the_single_ones_in_a_row(structured: bool) -> None:
    nbd = connected(structured)
    done: list[tuple[NbdRequest, bytes | memoryview]] = [
        (NbdRequest(Command.READ, 0, 5, 4096, 4096), b"d" * 4096),
        (NbdRequest(Command.WRITE, 0, 6, 0, 4096), b""),
        (NbdRequest(Command.READ, 0, 7, 8192, 512), memoryview(b"e" * 512)),
        (NbdRequest(Command.FLUSH, 0, 8, 0, 0), b""),
    ]
    one_by_one = [part for request, data in done for part in nbd.reply(request, 0, data)]
    assert b"".join(nbd.replies_to(done)) == b"".join(one_by_one)


@pytest.mark.parametrize(
    ("errno", "sent"),
    [(5, 5), (os_errno.EDQUOT, 28), (os_errno.EFBIG, 28), (os_errno.EROFS, 1), (os_errno.ENODEV, 5), (108, 108)],
)
def test_only_the_protocols_errors_leave(errno: int, sent: int) -> None:
    assert wire.wire_errno(errno) == sent
