"""The NBD negotiation, byte by byte: what a client may ask, and what each wrong question costs it."""

from __future__ import annotations

import struct

import pytest

from services.replica.nbd import wire
from services.replica.nbd.protocol import Export, NbdConnection, Phase
from services.replica.nbd.wire import Option, Reply

EXPORT = Export("vol-1", 1 << 20)


def connection(*, flags: int = 3) -> NbdConnection:
    """A connection that has greeted and got the client's flags."""
    nbd = NbdConnection(EXPORT)
    assert b"".join(nbd.replies) == struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)
    nbd.replies.clear()
    feed(nbd, struct.pack(">I", flags))
    return nbd


def feed(nbd: NbdConnection, data: bytes) -> int:
    return nbd.receive(memoryview(data), 128, 1 << 26)


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def named(name: bytes, *requests: int) -> bytes:
    return struct.pack(f">I{len(name)}sH{len(requests)}H", len(name), name, len(requests), *requests)


def replies(nbd: NbdConnection) -> list[tuple[int, int, bytes]]:
    """(option, reply type, data) of all option replies so far."""
    raw, nbd.replies, found = b"".join(nbd.replies), [], []
    while raw:
        magic, number, reply, length = struct.unpack_from(">QIII", raw)
        assert magic == 0x3E889045565A9
        found.append((number, reply, raw[20 : 20 + length]))
        raw = raw[20 + length :]
    return found


@pytest.mark.parametrize("name", [b"vol-1", b""])
def test_go_tells_size_flags_and_block_sizes_and_enters_transmission(name: bytes) -> None:
    nbd = connection()
    feed(nbd, option(Option.GO, named(name, wire.Info.BLOCK_SIZE)))
    *infos, last = replies(nbd)
    facts = {struct.unpack_from(">H", data)[0]: data[2:] for _, reply, data in infos if reply == Reply.INFO}
    size, flags = struct.unpack(">QH", facts[wire.Info.EXPORT])
    assert size == 1 << 20
    assert flags == 0b1000_0110_1101  # HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES FAST_ZERO
    assert struct.unpack(">III", facts[wire.Info.BLOCK_SIZE]) == (4096, 4096, 32 << 20)
    assert facts[wire.Info.NAME] == b"vol-1"
    assert last == (Option.GO, Reply.ACK, b"")
    assert nbd.phase == Phase.TRANSMISSION


def test_info_tells_the_same_and_goes_on_haggling() -> None:
    nbd = connection()
    feed(nbd, option(Option.INFO, named(b"vol-1")) + option(Option.GO, named(b"vol-1")))
    answered = replies(nbd)
    half = len(answered) // 2
    assert [entry[1:] for entry in answered[:half]] == [entry[1:] for entry in answered[half:]]
    assert nbd.phase == Phase.TRANSMISSION


def test_structured_replies_bring_the_df_flag() -> None:
    nbd = connection()
    feed(nbd, option(Option.STRUCTURED_REPLY))
    assert replies(nbd) == [(Option.STRUCTURED_REPLY, Reply.ACK, b"")]
    assert nbd.structured
    feed(nbd, option(Option.GO, named(b"")))
    _, _, data = replies(nbd)[0]
    assert struct.unpack(">HQH", data)[2] & wire.TransmissionFlag.SEND_DF


def test_list_names_the_export() -> None:
    nbd = connection()
    feed(nbd, option(Option.LIST))
    assert replies(nbd) == [
        (Option.LIST, Reply.SERVER, struct.pack(">I", 5) + b"vol-1"),
        (Option.LIST, Reply.ACK, b""),
    ]


@pytest.mark.parametrize(("flags", "zeroes"), [(3, 0), (1, 124)])
def test_export_name_enters_transmission(flags: int, zeroes: int) -> None:
    nbd = connection(flags=flags)
    feed(nbd, option(Option.EXPORT_NAME, b"vol-1"))
    reply = b"".join(nbd.replies)
    assert struct.unpack_from(">Q", reply)[0] == 1 << 20
    assert len(reply) == 10 + zeroes
    assert nbd.phase == Phase.TRANSMISSION


def test_unknown_export_by_name_can_only_hang_up() -> None:
    nbd = connection()
    feed(nbd, option(Option.EXPORT_NAME, b"other"))
    assert nbd.phase == Phase.CLOSED
    assert "other" in nbd.closed_because
    assert not nbd.replies


@pytest.mark.parametrize("number", [Option.GO, Option.INFO])
def test_unknown_export_is_told_and_the_client_may_try_another(number: int) -> None:
    nbd = connection()
    feed(nbd, option(number, named(b"other")))
    ((_, reply, _),) = replies(nbd)
    assert reply == Reply.ERR_UNKNOWN
    feed(nbd, option(Option.GO, named(b"vol-1")))
    assert nbd.phase == Phase.TRANSMISSION


@pytest.mark.parametrize("number", [4, 9, 10, 11, 77, 0, 0xFFFFFFFF])
def test_unknown_options_are_unsupported_and_skipped(number: int) -> None:
    nbd = connection()
    feed(nbd, option(number, b"whatever") + option(Option.LIST))
    assert [reply for _, reply, _ in replies(nbd)] == [Reply.ERR_UNSUP, Reply.SERVER, Reply.ACK]


@pytest.mark.parametrize("number", [Option.LIST, Option.STRUCTURED_REPLY, Option.STARTTLS])
def test_data_where_none_belongs_is_invalid(number: int) -> None:
    nbd = connection()
    feed(nbd, option(number, b"x"))
    ((_, reply, _),) = replies(nbd)
    assert reply == Reply.ERR_INVALID
    assert not nbd.structured


def test_tls_is_refused_politely() -> None:
    nbd = connection()
    feed(nbd, option(Option.STARTTLS))
    ((_, reply, _),) = replies(nbd)
    assert reply == Reply.ERR_POLICY
    assert nbd.phase == Phase.OPTIONS


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 5, struct.pack(">IH", 1, 0), struct.pack(">I5sH", 5, b"vol-1", 1), named(b"vol-1") + b"x"],
)
def test_malformed_go_is_invalid(data: bytes) -> None:
    nbd = connection()
    feed(nbd, option(Option.GO, data))
    ((_, reply, _),) = replies(nbd)
    assert reply == Reply.ERR_INVALID
    assert nbd.phase == Phase.OPTIONS


def test_abort_is_acknowledged_and_ends() -> None:
    nbd = connection()
    feed(nbd, option(Option.ABORT))
    assert replies(nbd) == [(Option.ABORT, Reply.ACK, b"")]
    assert nbd.phase == Phase.CLOSED


@pytest.mark.parametrize(
    "data",
    [
        b"IHAVEOPX" + struct.pack(">II", Option.LIST, 0),
        b"IHAVEOPT" + struct.pack(">II", Option.GO, 1 << 20),
        option(99) * wire.OPTIONS_MAX,
    ],
    ids=["bad magic", "huge option", "endless haggling"],
)
def test_what_ends_the_negotiation(data: bytes) -> None:
    nbd = connection()
    feed(nbd, data)
    assert nbd.phase == Phase.CLOSED
    assert nbd.closed_because


def test_unknown_client_flags_end_the_connection() -> None:
    nbd = connection(flags=4)
    assert nbd.phase == Phase.CLOSED


def test_an_option_waits_for_its_data() -> None:
    nbd = connection()
    data = option(Option.GO, named(b"vol-1"))
    for end in range(len(data)):
        assert feed(nbd, data[:end]) == 0
        assert nbd.wanted > end
    assert feed(nbd, data) == len(data)
    assert nbd.phase == Phase.TRANSMISSION
