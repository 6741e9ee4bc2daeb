"""A one-time join token, made by an administrator for one identity."""

from __future__ import annotations

from services.certs.attestors import Claim, Desk
from services.certs.tokens import redeem


class JoinTokenAttestor:
    name = "join-token"

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        token = desk.tokens.find(evidence.get("token_id", ""))
        used = redeem(token, evidence.get("secret", ""), desk.key_fingerprint, int(desk.now.timestamp()))
        if used != token:
            # On disk before the answer leaves, or a crash would make the token good twice; and without an
            # await since it was read, or two requests with one token could both be first.
            desk.tokens.save(used)
        return Claim(used.kind, used.name)


attestor = JoinTokenAttestor()
