"""The NATS protocol without sockets: what the server says in any pieces, and what we say to it."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoscore import nats_wire as wire
from stoscore.nats_wire import Err, Info, Msg, Parser, Ping, Pong, WireError

HEADERS = b"NATS/1.0\r\nNats-Sequence: 7\r\nA: b:c\r\n\r\n"
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
STREAM = (
    b'INFO {"nonce":"abc","max_payload":1048576}\r\n'
    b"+OK\r\nPING\r\nPONG\r\n"
    b"MSG a.b 1 5\r\nhello\r\n"
    b"MSG a.b 2 reply.to 0\r\n\r\n"
    + b"HMSG a.b 3 %d %d\r\n%s42\r\n" % (len(HEADERS), len(HEADERS) + 2, HEADERS)
    + b"HMSG a.b 4 %d %d\r\n%s\r\n" % (len(NO_RESPONDERS), len(NO_RESPONDERS), NO_RESPONDERS)
    + b"MSG a.b 5 9\r\nPING\r\n\r\n\x00\r\n"
    + b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n"
)
MEANING = [
    Info({"nonce": "abc", "max_payload": 1048576}),
    Ping(),
    Pong(),
    Msg("a.b", 1, "", b"hello"),
    Msg("a.b", 2, "reply.to", b""),
    Msg("a.b", 3, "", b"42", {"Nats-Sequence": "7", "A": "b:c"}),
    Msg("a.b", 4, "", b"", {"Status": "503"}),
    Msg("a.b", 5, "", b"PING\r\n\r\n\x00"),
    Err('Permissions Violation for Publish to "x"'),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    parser = Parser()
    found: list[wire.Operation] = []
    bounds = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(bounds):
        found += parser.feed(STREAM[start:end])
    assert found == MEANING


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG a 1\r\n",
        b"MSG a x 5\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a 1 99999999999\r\n",
        b"MSG a 1 r x 5\r\n",
        b"HMSG a 1 9 5\r\n",
        b"HMSG a 1 5 5\r\nxxxxx\r\n",
        b"MSG a 1 2\r\nxxxx\r\n",
        b"INFO []\r\n",
        b"INFO {\r\n",
        b"x" * (wire.LINE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_nats(data: bytes) -> None:
    with pytest.raises(WireError):
        list(Parser().feed(data))


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"MSG a 1 3\r\n", b"HMSG a 1 2 3\r\n", b"\r\n"])))
def test_an_operation_or_the_one_error(pieces: list[bytes]) -> None:
    parser = Parser()
    with contextlib.suppress(WireError):
        for piece in pieces:
            list(parser.feed(piece))


def test_what_we_say() -> None:
    assert wire.publish("a", "", None, b"x") == b"PUB a 1\r\nx\r\n"
    assert wire.publish("a", "r", None, b"") == b"PUB a r 0\r\n\r\n"
    said = wire.publish("a", "r", {"K": "v"}, b"xy")
    assert said == b"HPUB a r 18 20\r\nNATS/1.0\r\nK: v\r\n\r\nxy\r\n"
    assert wire.subscribe("a.>", "", 3) == b"SUB a.> 3\r\n"
    assert wire.subscribe("a", "q", 3) == b"SUB a q 3\r\n"


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0", "a\tb", "a\n"])
def test_a_subject_can_not_break_out_of_its_line(subject: str) -> None:
    with pytest.raises(ValueError, match="no subject"):
        wire.publish(subject, "", None, b"")
    with pytest.raises(ValueError, match="no subject"):
        wire.subscribe(subject, "", 1)


def test_a_header_can_not_break_out_of_its_line() -> None:
    with pytest.raises(ValueError, match="line ends"):
        wire.publish("a", "", {"K": "v\r\nX: y"}, b"")
