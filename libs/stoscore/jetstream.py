"""The few calls of JetStream that we need, as plain requests.

Only svc/certs (which makes the streams) and svc/nats (which reads and writes them for others) may use them: the
server sends JetStream's answers to whatever reply subject a request names, so whoever may ask it anything could
overwrite any stored message with an answer.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stoscore.bus import Bus
from stoscore.errors import Code, StosError, unavailable
from stoscore.nats_session import Msg
from stoscore.subjects import AUDIT_STREAM, CATALOGUE_BUCKET, EVENTS_STREAM

BUCKET_STREAM = f"KV_{CATALOGUE_BUCKET}"
STREAMS = (BUCKET_STREAM, EVENTS_STREAM, AUDIT_STREAM)
API = "$JS.API.STREAM"
WRONG_LAST_SEQUENCE = 10071
NOTHING_FOUND = 10037
STREAM_EXISTS = 10058


def call(verb: str, stream: str) -> str:
    """The subject of a request: CREATE, UPDATE, INFO or MSG.GET."""
    return f"{API}.{verb}.{stream}"


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored message."""

    sequence: int
    subject: str
    data: bytes
    headers: bytes
    at_unix_ms: int
    """when the server stored it"""


async def ensure_stream(bus: Bus, config: dict[str, Any]) -> None:
    """Make the stream, or bring an existing one to this configuration. Raises StosError."""
    try:
        await _ask(bus, "CREATE", config["name"], config)
    except StosError as error:
        if error.details.get("err_code") != STREAM_EXISTS:
            raise
        await _ask(bus, "UPDATE", config["name"], config)


async def info(bus: Bus, stream: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Its configuration and state. Raises StosError."""
    return await _ask(bus, "INFO", stream, request or {})


async def find(bus: Bus, stream: str, query: dict[str, Any]) -> Stored | None:
    """One message: {"last_by_subj": …}, {"seq": n}, or {"seq": n, "next_by_subj": …} for the first from n on. From
    the stream's leader, so that a compare-and-set that follows does not fail on a stale read. Raises StosError."""
    try:
        message = (await _ask(bus, "MSG.GET", stream, query))["message"]
    except StosError as error:
        if error.details.get("err_code") == NOTHING_FOUND:
            return None
        raise
    return Stored(
        int(message["seq"]),
        str(message["subject"]),
        base64.b64decode(message.get("data", "")),
        base64.b64decode(message.get("hdrs", "")),
        int(datetime.fromisoformat(message["time"]).timestamp() * 1000),
    )


async def store(bus: Bus, subject: str, data: bytes, headers: dict[str, str]) -> None:
    """Publish to a stream's subject and wait until it is stored. Raises StosError."""
    try:
        _checked(await bus.call(subject, data, headers=headers))
    except StosError as error:
        raise _explained(error) from None


async def _ask(bus: Bus, verb: str, stream: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return _checked(await bus.call(call(verb, stream), json.dumps(request).encode()))
    except StosError as error:
        raise _explained(error) from None


def _checked(msg: Msg) -> dict[str, Any]:
    try:
        answer = json.loads(msg.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise StosError(Code.INTERNAL, f"unreadable answer of JetStream: {msg.data[:60]!r}")
    error = answer.get("error")
    if error:
        raise StosError(
            Code.UNAVAILABLE,
            f"JetStream refused: {error.get('description', error)}",
            details={"err_code": error.get("err_code", 0)},
        )
    return answer


def _explained(error: StosError) -> StosError:
    if error.details.get("no_responders"):
        return unavailable("the stream is not there", "the certs service makes it when it reaches NATS")
    return error
