"""A one-time join token, made by an administrator for one identity."""

from __future__ import annotations

import asyncio

from services.certs.attestors import Claim, Desk, known_and_revoked, take
from services.certs.tokens import Token, redeem


class JoinTokenAttestor:
    name = "join-token"

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        token_id, secret = take(evidence, ("token_id", "secret"))
        return await asyncio.to_thread(self._use, token_id, secret, desk)

    def _use(self, token_id: str, secret: str, desk: Desk) -> Claim:
        now_s = int(desk.now.timestamp())

        def use(token: Token | None) -> Token:
            revoked_s = known_and_revoked(desk, token.kind, token.name)[1] if token else 0
            return redeem(token, secret, desk.key_fingerprint, now_s, revoked_s)

        # Stored before the answer leaves, or a crash would make the token good twice.
        used = desk.books.ledger.use_token(token_id, use)
        return Claim(used.kind, used.name, as_of_s=used.made_s, role=used.role, readmits=True)


attestor = JoinTokenAttestor()
