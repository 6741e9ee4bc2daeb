"""Requests and answers on the bus: there and back, and never anything but a value or a StosError."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoscore import certs_messages, messages, process_messages
from stoscore.envelope import decode_answer, decode_request, encode_error, encode_request, encode_result
from stoscore.errors import Code, StosError
from stoscore.messages import AttachVolume, Empty, Message

KINDS = [
    kind
    for module in (messages, certs_messages, process_messages)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_there_and_back() -> None:
    request = AttachVolume(node="n1")
    assert decode_request(AttachVolume, encode_request(request)) == request
    assert decode_answer(AttachVolume, encode_result(request)) == request


def test_an_error_there_and_back() -> None:
    sent = StosError(Code.NOT_PRIMARY, "no", next_step="ask n2", details={"hint": "n2"})
    with pytest.raises(StosError) as caught:
        decode_answer(Empty, encode_error(sent))
    assert caught.value.to_wire() == sent.to_wire()


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b'{"v":2,"ok":true}', b'{"ok":true,"result":{}}'])
def test_an_unreadable_answer_is_the_other_sides_fault(data: bytes) -> None:
    with pytest.raises(StosError) as caught:
        decode_answer(Empty, data)
    assert caught.value.code is Code.INTERNAL


def test_an_answer_is_never_a_request() -> None:
    for answer in (encode_result(Empty()), encode_error(StosError(Code.INTERNAL, "x"))):
        for kind in KINDS:
            with pytest.raises(StosError):
                decode_request(kind, answer)


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_accepted_or_the_one_error(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with contextlib.suppress(StosError):
            assert isinstance(decode(AttachVolume, data), AttachVolume)
