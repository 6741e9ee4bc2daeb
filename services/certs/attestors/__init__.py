"""Attestors: each proves in its own way which identity a newcomer is entitled to.

An attestor is a plugin of the group `stos.attestors`. It is given the evidence of an enrolment and says
which identity it proves, or refuses; certs alone signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509

from services.certs.tokens import Token


class TokenStore(Protocol):
    """Where tokens are kept. `save` is durable when it returns."""

    def find(self, token_id: str) -> Token | None: ...

    def save(self, token: Token) -> None: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What an attestor may look at: the request's key and text, the time, the open tokens, our issuers."""

    now: datetime
    csr_pem: str
    key_fingerprint: str
    """SHA-256 of the key that is to be certified"""
    tokens: TokenStore
    issuers: list[x509.Certificate]


@dataclass(frozen=True, slots=True)
class Claim:
    """A proven identity."""

    kind: str
    name: str


class Attestor(Protocol):
    """What an entry point of the group names."""

    name: str

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        """The identity that the evidence proves. Raises StosError UNAUTHENTICATED."""
