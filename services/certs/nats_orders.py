"""Orders to the running NATS servers: read your files again.

A NATS server reads its certificate when it starts and when it is told to. It is told over NATS itself, in the
system account: that works for a process beside us and for a pod elsewhere alike, and needs neither its process
id nor a shell.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from services.certs.authority import Authority
from services.certs.nats_jwt import system_user_jwt
from stoscore.errors import Code, StosError, unavailable
from stoscore.files import write_private
from stoscore.identity import NATS_JWT, Identity, nats_public_key
from stoscore.nats_session import Msg, Session
from stoscore.telemetry import get_logger

NAME = "certs-system"
ANSWERS_S = 1.0
"""How long servers are waited for; each answers within milliseconds."""

log = get_logger("certs")


def _identity(authority: Authority, directory: Path) -> Identity:
    """An identity of certs whose NATS credential is one of the system account."""
    identity = authority.own_identity(directory, "svc", NAME)
    credential = system_user_jwt(
        authority.nats_keys,
        NAME,
        nats_public_key(directory),
        int(authority.now().timestamp()),
        int(identity.not_after.timestamp()),
    )
    write_private(directory / NATS_JWT, credential.encode("ascii"))
    return identity


async def reload_servers(authority: Authority, servers: list[str]) -> int:
    """Every server of the cluster reads its configuration and certificate again. Returns how many did. Raises
    StosError UNAVAILABLE when there is no connection or nobody answered."""
    identity = _identity(authority, authority.vault.directory / "identity-system")
    inbox = f"{identity.inbox_prefix}.orders"
    session = await Session.open(identity, servers, NAME, inbox, lambda _: None)
    try:
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        session.subscribe(f"{inbox}.*", "", answers.put_nowait)
        session.publish("$SYS.REQ.SERVER.PING", b"", f"{inbox}.ping")
        found = [_server_id(answer) for answer in await _gather(answers)]
        for server in found:
            session.publish(f"$SYS.REQ.SERVER.{server}.RELOAD", b"", f"{inbox}.reload")
        done = await _gather(answers, len(found)) if found else []
    finally:
        await session.close()
    refused = [answer["error"] for answer in done if answer.get("error")]
    if refused or not done:
        raise unavailable(f"the NATS servers did not read their files again: {refused or 'no answer'}")
    log.info("NATS servers read their files again", extra={"servers": len(done)})
    return len(done)


def _server_id(answer: dict[str, Any]) -> str:
    server = answer.get("server")
    return str(server.get("id", "")) if isinstance(server, dict) else ""


async def _gather(answers: asyncio.Queue[Msg], enough: int | None = None) -> list[dict[str, Any]]:
    """What arrives in time."""
    found: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(ANSWERS_S):
            while enough is None or len(found) < enough:
                found.append(_object((await answers.get()).data))
    except TimeoutError:
        pass
    return found


def _object(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise StosError(Code.INTERNAL, f"unreadable answer of NATS: {data[:60]!r}")
    return answer
