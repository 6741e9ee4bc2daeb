"""What a request and its answer look like on the bus, and the strict reading of both.

A request is the JSON of a `Message`. An answer is one of

    {"v": 1, "ok": true, "result": {…}}
    {"v": 1, "ok": false, "error": {"code": …, "message": …, "next_step": …, "details": {…}}}

so that no answer can ever be taken for a request: it has fields that no request knows.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from stoscore.errors import Code, StosError, invalid
from stoscore.messages import Message

M = TypeVar("M", bound=Message)

VERSION = 1
TRACEPARENT = "traceparent"
REQUEST_ID = "Stos-Request-Id"
TIMEOUT_MS = "Stos-Timeout-Ms"


def encode_request(message: Message) -> bytes:
    return message.model_dump_json().encode()


def make_request(kind: type[M], /, **values: object) -> M:
    """A message from what a user wrote. Raises StosError INVALID_ARGUMENT, as its receiver would."""
    return decode_request(kind, json.dumps(values).encode())


def decode_request(kind: type[M], data: bytes) -> M:
    """Raises StosError: INVALID_ARGUMENT for what is no JSON, has an unknown field or a wrong type,
    UNSUPPORTED_VERSION for another version."""
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _explain(kind, data, error) from None


def _explain(kind: type[Message], data: bytes, error: ValidationError) -> StosError:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return invalid(f"the message is no JSON: {data[:60]!r}")
    if not isinstance(content, dict):
        return invalid("the message is no JSON object")
    version = content.get("v", VERSION)
    if version != VERSION:
        return StosError(
            Code.UNSUPPORTED_VERSION,
            f"the message has version {str(version)[:40]}, this service speaks {VERSION}",
            next_step="upgrade the older side",
        )
    problems = error.errors(include_url=False, include_input=False)[:3]
    text = "; ".join(f"{'.'.join(str(part) for part in item['loc'])[:80]}: {item['msg']}" for item in problems)
    return invalid(f"bad {kind.__name__}: {text}")


_RESULT, _END = b'{"v":1,"ok":true,"result":', b"}"


def encode_result(result: Message) -> bytes:
    return _RESULT + result.model_dump_json().encode() + _END


def encode_error(error: StosError) -> bytes:
    return json.dumps({"v": VERSION, "ok": False, "error": error.to_wire()}).encode()


def decode_answer(kind: type[M], data: bytes) -> M:
    """The result, or the StosError that the other side answered with. An answer that can't be read raises
    INTERNAL: that is the answering side's fault, not the caller's."""
    if data.startswith(_RESULT) and data.endswith(_END):
        # As `encode_result` writes it, and large ones come in hundreds: read once. What is wrong is told below.
        with suppress(ValidationError):
            return kind.model_validate_json(data[len(_RESULT) : -len(_END)], strict=True)
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("v") != VERSION:
        raise StosError(Code.INTERNAL, f"unreadable answer: {data[:60]!r}")
    if content.get("ok") is not True:
        wire = content.get("error")
        raise StosError.from_wire(wire if isinstance(wire, dict) else {})
    try:
        return kind.model_validate_json(json.dumps(content.get("result")), strict=True)
    except ValidationError as error:
        what = f"unreadable {kind.__name__} in an answer: {error.error_count()} errors"
        raise StosError(Code.INTERNAL, what) from None
