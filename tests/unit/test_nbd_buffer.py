"""The receive buffer: bytes come out as they went in, with few copies and bounded memory."""

from __future__ import annotations

import random

from services.replica.nbd.buffer import BUFFER_BYTES, ReceiveBuffer


def test_bytes_survive_any_mix_of_reads_and_consumption() -> None:
    rng = random.Random(7)
    buffer, written, read = ReceiveBuffer(), bytearray(), bytearray()
    for _ in range(3000):
        space = buffer.space()
        assert len(space)
        chunk = rng.randbytes(rng.randint(1, min(len(space), 90_000)))
        space[: len(chunk)] = chunk
        buffer.received(len(chunk))
        written += chunk
        count = rng.randint(0, len(buffer)) if len(buffer) < 100_000 else len(buffer)
        read += buffer.unread()[:count]
        buffer.consumed(count, rng.choice([28, 28, 5000]))
    read += buffer.unread()
    assert read == written
    assert buffer.capacity == BUFFER_BYTES


def test_a_large_request_gets_a_large_buffer_and_gives_it_back() -> None:
    buffer, wanted = ReceiveBuffer(), 32 << 20
    buffer.space()[:28] = b"h" * 28
    buffer.received(28)
    buffer.consumed(0, wanted)
    while len(buffer) < wanted:
        space = buffer.space()
        buffer.received(min(len(space), 200_000))
    assert buffer.capacity == wanted
    assert bytes(buffer.unread()[:28]) == b"h" * 28
    buffer.consumed(wanted, 28)
    assert buffer.capacity == BUFFER_BYTES
