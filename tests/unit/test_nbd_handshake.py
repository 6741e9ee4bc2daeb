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
    assert flags == 0b1101_0110_1101  # HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN CACHE FAST_ZERO
    assert struct.unpack(">III", facts[wire.Info.BLOCK_SIZE]) == (512, 4096, 32 << 20)
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


@pytest.mark.parametrize("number", [4, 11, 77, 0, 0xFFFFFFFF])
def test_unknown_options_are_unsupported_and_skipped(number: int) -> None:
    nbd = connection()
    feed(nbd, option(number, b"whatever") + option(Option.LIST))
    assert [reply for _, reply, _ in replies(nbd)] == [Reply.ERR_UNSUP, Reply.SERVER, Reply.ACK]


def contexts(name: bytes, *queries: bytes) -> bytes:
    texts = b"".join(struct.pack(">I", len(query)) + query for query in queries)
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + texts


ALLOCATION = b"base:allocation"
LIST, SET = Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT


@pytest.mark.parametrize(
    ("number", "queries", "found"),
    [
        (LIST, (), True),
        (LIST, (b"base:",), True),
        (LIST, (b"qemu:", ALLOCATION), True),
        (LIST, (b"qemu:dirty-bitmap:x", b"base:other"), False),
        (SET, (), False),
        (SET, (b"base:",), False),
        (SET, (ALLOCATION, ALLOCATION, b"x-mine:y"), True),
        (SET, (b"base:allocations",), False),
    ],
)
def test_metadata_contexts(number: int, queries: tuple[bytes, ...], found: bool) -> None:
    nbd = connection()
    feed(nbd, option(Option.STRUCTURED_REPLY) + option(number, contexts(b"vol-1", *queries)))
    _, *answers = replies(nbd)
    assert answers.pop() == (number, Reply.ACK, b"")
    context = struct.pack(">I", 1 if number == SET else 0) + ALLOCATION
    assert answers == [(number, Reply.META_CONTEXT, context)] * found


@pytest.mark.parametrize("number", [LIST, SET])
@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"", Reply.ERR_INVALID),
        (contexts(b"vol-1", ALLOCATION)[:-1], Reply.ERR_INVALID),
        (contexts(b"vol-1", ALLOCATION) + b"x", Reply.ERR_INVALID),
        (contexts(b"vol-1", b"without a namespace"), Reply.ERR_INVALID),
        (contexts(b"vol-1", b"x:" + bytes(4096)), Reply.ERR_INVALID),
        (struct.pack(">I", 1 << 31) + b"vol-1", Reply.ERR_INVALID),
        (struct.pack(">I5sI", 5, b"vol-1", (1 << 32) - 1), Reply.ERR_INVALID),
        (contexts(b"other", ALLOCATION), Reply.ERR_UNKNOWN),
    ],
)
def test_malformed_requests_for_contexts(number: int, data: bytes, reply: int) -> None:
    nbd = connection()
    feed(nbd, option(Option.STRUCTURED_REPLY) + option(number, data))
    _, *answers = replies(nbd)
    assert [kind for _, kind, _ in answers] == [reply]
    assert nbd.phase == Phase.OPTIONS


@pytest.mark.parametrize("number", [LIST, SET])
def test_contexts_need_structured_replies(number: int) -> None:
    nbd = connection()
    feed(nbd, option(number, contexts(b"vol-1", ALLOCATION)))
    assert [kind for _, kind, _ in replies(nbd)] == [Reply.ERR_INVALID]


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ([contexts(b"vol-1", ALLOCATION)], True),
        ([], False),
        ([contexts(b"", ALLOCATION)], False),
        ([contexts(b"vol-1", ALLOCATION), contexts(b"vol-1")], False),
        ([contexts(b"vol-1", ALLOCATION), contexts(b"vol-1", b"broken")], False),
        ([contexts(b"vol-1", b"broken"), contexts(b"vol-1", ALLOCATION)], True),
    ],
    ids=["selected", "nothing", "another name", "replaced by none", "replaced by a failure", "after a failure"],
)
def test_block_status_needs_a_context_selected_last_and_for_the_same_name(asked: list[bytes], allowed: bool) -> None:
    nbd = connection()
    feed(nbd, option(Option.STRUCTURED_REPLY) + b"".join(option(SET, data) for data in asked))
    feed(nbd, option(Option.GO, named(b"vol-1")))
    replies(nbd)
    feed(nbd, struct.pack(">IHHQQI", 0x25609513, 0, 7, 1, 0, 4096))
    assert bool(nbd.requests) == allowed
    assert bool(nbd.replies) != allowed


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
