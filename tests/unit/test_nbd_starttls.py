"""What an NBD server on TCP says before TLS, byte by byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replica.nbd.protocol import Export, NbdConnection, Phase
from services.replica.nbd.starttls import OPTIONS_MAX, Prelude
from services.replica.nbd.wire import Option, Reply

FLAGS = struct.pack(">I", 3)


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def feed(prelude: Prelude, stream: bytes) -> bytes:
    """Gives it exactly what it wants, step by step; returns what it did not want any more."""
    while prelude.wanted and len(stream) >= prelude.wanted:
        piece, stream = stream[: prelude.wanted], stream[prelude.wanted :]
        prelude.receive(piece)
    return stream


def replies(prelude: Prelude) -> list[tuple[int, int, bytes]]:
    raw, found = b"".join(prelude.replies), []
    prelude.replies = []
    while raw:
        magic, number, reply, length = struct.unpack_from(">QIII", raw)
        assert magic == 0x3E889045565A9
        found.append((number, reply, raw[20 : 20 + length]))
        raw = raw[20 + length :]
    return found


@pytest.fixture
def prelude() -> Prelude:
    made = Prelude()
    assert b"".join(made.replies) == b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
    made.replies = []
    return made


@pytest.mark.parametrize(("flags", "zeroes"), [(1, True), (3, False)])
def test_starttls_is_acknowledged_and_the_rest_is_left_to_tls(prelude: Prelude, flags: int, zeroes: bool) -> None:
    left = feed(prelude, struct.pack(">I", flags) + option(Option.STARTTLS) + b"\x16\x03\x01")
    assert replies(prelude) == [(Option.STARTTLS, Reply.ACK, b"")]
    assert prelude.secure
    assert prelude.wanted == 0
    assert prelude.zeroes is zeroes
    assert left == b"\x16\x03\x01"


@pytest.mark.parametrize("number", [Option.LIST, Option.INFO, Option.GO, Option.STRUCTURED_REPLY, 10, 4242])
def test_every_other_option_needs_tls_first(prelude: Prelude, number: int) -> None:
    feed(prelude, FLAGS + option(number, b"\0\0\0\0\0\0"))
    ((answered, reply, _),) = replies(prelude)
    assert (answered, reply) == (number, Reply.ERR_TLS_REQD)
    assert not prelude.secure
    feed(prelude, option(Option.STARTTLS))
    assert prelude.secure


def test_an_export_that_is_asked_for_without_tls_ends_the_connection(prelude: Prelude) -> None:
    feed(prelude, FLAGS + option(Option.EXPORT_NAME, b"vol-1"))
    assert replies(prelude) == []
    assert "without TLS" in prelude.closed_because


def test_a_client_may_give_up(prelude: Prelude) -> None:
    feed(prelude, FLAGS + option(Option.ABORT))
    assert replies(prelude) == [(Option.ABORT, Reply.ACK, b"")]
    assert prelude.closed_because


def test_starttls_takes_no_data(prelude: Prelude) -> None:
    feed(prelude, FLAGS + option(Option.STARTTLS, b"x"))
    assert [reply for _, reply, _ in replies(prelude)] == [Reply.ERR_INVALID]
    assert not prelude.secure


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack(">I", 0) + option(Option.STARTTLS),
        struct.pack(">I", 2) + option(Option.STARTTLS),
        struct.pack(">I", 7) + option(Option.STARTTLS),
        FLAGS + b"GET / HTTP/1.1\r\n\r\n",
        FLAGS + b"IHAVEOPT" + struct.pack(">II", 5, 1 << 20),
        FLAGS + option(Option.LIST) * (OPTIONS_MAX + 1),
    ],
)
def test_what_is_no_honest_negotiation_is_ended(prelude: Prelude, stream: bytes) -> None:
    feed(prelude, stream)
    assert prelude.closed_because
    assert not prelude.secure


@given(st.binary(max_size=600))
def test_any_bytes_end_in_one_of_three_ways(stream: bytes) -> None:
    prelude = Prelude()
    feed(prelude, stream)
    assert prelude.secure + bool(prelude.closed_because) + bool(prelude.wanted) == 1


# ---- behind TLS ----------------------------------------------------------------------------------------


def secured(refusal: str = "") -> NbdConnection:
    nbd = NbdConnection(Export("vol-1", 1 << 20), secured=True, zeroes=False, refusal=refusal)
    assert nbd.replies == []
    return nbd


def test_behind_tls_the_negotiation_goes_on_without_a_second_greeting() -> None:
    nbd = secured()
    nbd.receive(memoryview(option(Option.EXPORT_NAME, b"vol-1")), 1, 1)
    assert b"".join(nbd.replies) == struct.pack(">QH", 1 << 20, 0b1101_0110_1101)
    assert nbd.phase == Phase.TRANSMISSION


def test_tls_begins_only_once() -> None:
    nbd = secured()
    nbd.receive(memoryview(option(Option.STARTTLS)), 1, 1)
    assert struct.unpack_from(">QIII", nbd.replies[0])[2] == Reply.ERR_INVALID
    assert nbd.phase == Phase.OPTIONS


@pytest.mark.parametrize("number", [Option.GO, Option.INFO, Option.LIST, Option.STRUCTURED_REPLY])
def test_who_may_not_use_the_export_is_told_so_whatever_it_asks(number: int) -> None:
    nbd = secured("not for you")
    nbd.receive(memoryview(option(number, b"\0\0\0\0\0\0")), 1, 1)
    (reply,) = nbd.replies
    assert struct.unpack_from(">QIII", reply)[1:3] == (number, Reply.ERR_POLICY)
    assert reply.endswith(b"not for you")
    assert nbd.phase == Phase.OPTIONS
    assert not nbd.structured


def test_who_may_not_use_the_export_does_not_get_in_the_old_way_either() -> None:
    nbd = secured("not for you")
    nbd.receive(memoryview(option(Option.EXPORT_NAME, b"vol-1")), 1, 1)
    assert nbd.replies == []
    assert nbd.phase == Phase.CLOSED
