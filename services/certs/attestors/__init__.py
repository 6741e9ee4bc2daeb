"""Attestors: each proves in its own way which identity a newcomer is entitled to.

An attestor is a plugin of the group `stos.attestors`. It is given the evidence of an enrolment and says which
identity it proves, or refuses; certs alone signs. What the signing request says about names is not evidence, and no
attestor reads it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from stoscore.errors import invalid

if TYPE_CHECKING:
    from services.certs.ledger import Known, Ledger
    from services.certs.record import Record
    from services.certs.settings import CertsSettings

EVIDENCE_CHARS_MAX = 20_000


class Books(Protocol):
    """What certs knows. Reading it blocks: in threads."""

    ledger: Ledger

    def record(self) -> Record: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What an attestor may look at besides the evidence."""

    settings: CertsSettings
    now: datetime
    cluster: str
    csr_pem: str
    key_fingerprint: str
    """SHA-256 of the key that is to be certified"""
    books: Books


@dataclass(frozen=True, slots=True)
class Claim:
    """A proven identity."""

    kind: str
    name: str
    as_of_s: int | None = None
    """Unix seconds by certs' clock: from when the evidence is. What was revoked later is refused. None: it has no date,
    and counts unless the identity is revoked."""
    serial: str = ""
    """of the certificate that proves it"""
    role: str = ""
    """what the evidence says about it; by default what certs knows"""
    readmits: bool = False
    """An administrator's word, which ends a revocation that is older."""


class Attestor(Protocol):
    """What an entry point of the group names."""

    name: str

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        """The identity that the evidence proves. Raises StosError UNAUTHENTICATED, INVALID_ARGUMENT for evidence of
        another form."""


def take(evidence: dict[str, str], names: Collection[str]) -> list[str]:
    """These parts of the evidence, which must be all there is. Raises StosError INVALID_ARGUMENT."""
    if set(evidence) != set(names) or any(len(evidence[name]) > EVIDENCE_CHARS_MAX for name in names):
        raise invalid(f"the evidence must be {' and '.join(names)}, and nothing else")
    return [evidence[name] for name in names]


def known_and_revoked(desk: Desk, kind: str, name: str) -> tuple[Known | None, int]:
    """What the ledger knows of an identity, and when it was revoked (0: never)."""
    from services.certs.revocation import revoked_at

    known = desk.books.ledger.find(kind, name)
    return known, revoked_at(desk.books.record(), known, kind, name)


__all__ = ["Attestor", "Claim", "Desk", "known_and_revoked", "take"]
