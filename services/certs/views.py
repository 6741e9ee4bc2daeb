"""The authority and its identities as administrators see them: plain values, no secrets."""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

from cryptography.hazmat.primitives.serialization import Encoding

from services.certs import issue, revocation, rotation
from services.certs.ledger import Issued, Known
from services.certs.record import Record
from stoscore.certs_messages import CertificateView, IdentityView, RootView, RotationView

NAMED_MAX = 20
State = Literal["valid", "overdue", "expired", "revoked"]
OVERDUE_FRACTION = 0.6
"""Of a certificate's life: it is renewed after a quarter, and tried again all the time."""


def identity_view(record: Record, known: Known, now_s: int) -> IdentityView:
    latest = known.latest
    return IdentityView(
        kind=known.kind,
        name=known.name,
        role=known.role,
        state=state_of(record, known, now_s),
        certificate=certificate_view(record, known, latest) if latest else None,
    )


def state_of(record: Record, known: Known, now_s: int) -> State:
    latest = known.latest
    if known.revoked or (latest is not None and revocation.denies(record, known, latest)):
        return "revoked"
    if latest is None or latest.ends_s <= now_s:
        return "expired"
    return "overdue" if is_overdue(known, now_s) else "valid"


def is_overdue(known: Known, now_s: int) -> bool:
    """A running process would have renewed by now. People's identities are used now and then."""
    latest = known.latest
    if known.kind == "user" or latest is None:
        return False
    return now_s >= latest.issued_s + (latest.ends_s - latest.issued_s) * OVERDUE_FRACTION


def certificate_view(record: Record, known: Known, issued: Issued) -> CertificateView:
    return CertificateView(
        serial=issued.serial,
        issued_unix_s=issued.issued_s,
        ends_unix_s=issued.ends_s,
        attestor=issued.attestor,
        issuer=issued.issuer,
        denied=revocation.denies(record, known, issued),
    )


def root_view(key: str, certificate_pem: str) -> RootView:
    certificate = issue.load(certificate_pem)
    return RootView(
        key=key,
        sha256=sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
        ends_unix_s=int(certificate.not_valid_after_utc.timestamp()),
    )


def rotation_view(record: Record, known: list[Known], now_s: int) -> RotationView | None:
    if record.rotation is None:
        return None
    waiting = [str(one) for one in rotation.waiting_for(record, known, now_s)]
    return RotationView(
        phase=record.rotation.phase,
        root=record.rotation.root,
        since_unix_s=record.rotation.since_s,
        waiting_for=waiting[:NAMED_MAX],
        waiting_count=len(waiting),
    )
