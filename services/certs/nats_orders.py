"""Telling the running NATS servers about our account: roles that changed, users that are revoked.

The servers keep the account's statement themselves (resolver "full") and take a newer one from a user of the system
account. A server that hears of a revocation ends the connections of that user at once. One that is down then is told
when certs reaches it again, or by the other servers.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

from services.certs.nats_jwt import LOOKUP, PING, UPDATE, account_content, next_account, system_user_jwt
from services.certs.roles import ROLES
from stoscore.access import inbox_of
from stoscore.errors import unavailable
from stoscore.nats_session import Msg, Session
from stoscore.nkey import USER, make_seed, public_key
from stoscore.telemetry import get_logger

if TYPE_CHECKING:
    from services.certs.authority import Authority
    from stoscore.identity import Identity

NAME = "system"
ANSWERS_S = 1.0
"""How long servers are waited for; each answers within milliseconds."""
CREDENTIAL_S = 60
BEGAN_S = int(time.time())
"""What this program says about the roles is taken to be newer than any statement that was made before it began."""

log = get_logger("certs")


async def push_account(authority: Authority, servers: list[str]) -> int:
    """Every server that can be reached has our account's statement of now: returns how many. Changes nothing where
    nothing is new. Raises StosError UNAVAILABLE when there is no connection, or not all of the servers took it."""
    if authority.own is None:
        raise unavailable("this instance of certs has no identity yet")
    ours = await asyncio.to_thread(_ours, authority)
    session = await _open(authority, servers, authority.own)
    try:
        desk = _Desk(session)
        running = len(await desk.ask(PING, b""))
        answers = await desk.ask(LOOKUP.format(authority.nats_keys.account), b"", enough=running)
        kept = [answer.data.decode("ascii", "replace") for answer in answers]
        if len(kept) < running:
            raise unavailable(f"only {len(kept)} of {running} NATS servers say what they know of the account")
        account = next_account(authority.nats_keys, ours, kept, BEGAN_S, authority.now_s())
        if account is None:
            return running
        taken = [_object(answer) for answer in await desk.ask(UPDATE, account.encode("ascii"), enough=running)]
    finally:
        await session.close()
    refused = [answer["error"] for answer in taken if answer.get("error")]
    if refused or len(taken) < max(running, 1):
        told = refused or f"{len(taken)} of {running} answered"
        raise unavailable(f"the NATS servers did not take the account's statement: {told}")
    log.info("NATS servers know the account", extra={"servers": running, "revoked": len(ours["revocations"])})
    return running


def _ours(authority: Authority) -> dict[str, Any]:
    store_bytes = authority.settings.nats_store_bytes
    return account_content(authority.nats_keys, ROLES, store_bytes, authority.nats_revocations())


async def _open(authority: Authority, servers: list[str], own: Identity) -> Session:
    """With our own certificate, and a credential that is made for this one occasion."""
    seed = make_seed(USER, os.urandom(32))
    now_s = authority.now_s()
    credential = system_user_jwt(authority.nats_keys, NAME, public_key(seed), now_s, now_s + CREDENTIAL_S)
    inbox = f"{inbox_of('svc', NAME)}.orders"
    return await Session.open(own, servers, NAME, inbox, lambda _: None, credential=lambda: (credential, seed))


class _Desk:
    """Requests that every server answers."""

    def __init__(self, session: Session):
        self._session = session
        self._answers: asyncio.Queue[Msg] = asyncio.Queue()
        self._asked = 0
        session.subscribe(f"{session.inbox}.*", "", self._answers.put_nowait)

    async def ask(self, subject: str, payload: bytes, enough: int | None = None) -> list[Msg]:
        """What arrives in time, or is enough."""
        self._asked += 1
        reply = f"{self._session.inbox}.{self._asked}"
        self._session.publish(subject, payload, reply)
        found: list[Msg] = []
        try:
            async with asyncio.timeout(ANSWERS_S):
                while enough is None or len(found) < enough:
                    answer = await self._answers.get()
                    if answer.subject == reply and answer.data:
                        found.append(answer)
        except TimeoutError:
            pass
        return found


def _object(msg: Msg) -> dict[str, Any]:
    try:
        answer = json.loads(msg.data)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"error": f"unreadable answer {msg.data[:60]!r}"}
