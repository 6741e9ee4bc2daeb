"""Revoking: what becomes of the record when an identity, or one certificate of it, is to be accepted no more.

A denial names certificates by the time at which they were issued, so it needs no list of them and can't miss one;
it stays until the last certificate that it can match has ended. Everything here is pure.
"""

from __future__ import annotations

from services.certs.ledger import Issued, Known
from services.certs.record import Denial, Record
from stoscore.errors import Code, StosError, not_found
from stoscore.limits import TRUST_DENIED_MAX

REASON_CHARS_MAX = 120


def deny_identity(record: Record, known: Known, now_s: int, life_s: int, reason: str) -> Record:
    """All that the identity holds. What another instance issued at the same time with a clock that is ahead is in the
    ledger, or will be refused there; so the line is drawn after the latest certificate."""
    before_s = max(now_s, *(one.issued_s for one in known.certificates), 0) + 1
    denial = Denial(
        kind=known.kind,
        name=known.name,
        issued_before_s=before_s,
        expires_s=max(before_s + life_s, known.ends_s),
        reason=_printable(reason),
        nats_keys={one.nats_key: before_s - 1 for one in known.certificates if one.nats_key},
    )
    return _with(record, denial, now_s)


def deny_serial(record: Record, known: Known, serial: str, now_s: int, reason: str) -> Record:
    """One certificate, and the NATS credentials up to the one that came with it. Raises StosError NOT_FOUND."""
    found = next((one for one in known.certificates if one.serial == serial and one.ends_s > now_s), None)
    if found is None:
        raise not_found(
            f"{known} holds no valid certificate with the serial number {serial}",
            "see `stos certs show` for those it holds",
        )
    denial = Denial(
        kind=known.kind,
        name=known.name,
        serial=serial,
        expires_s=found.ends_s,
        reason=_printable(reason),
        nats_keys={found.nats_key: found.issued_s} if found.nats_key else {},
    )
    return _with(record, denial, now_s)


def _with(record: Record, denial: Denial, now_s: int) -> Record:
    """One entry per identity, or per certificate."""
    keys = dict(denial.nats_keys)
    others = []
    for old in record.denials:
        if (old.kind, old.name) != (denial.kind, denial.name):
            others.append(old)
        elif not denial.serial or old.serial == denial.serial:
            # The new one covers it; NATS keys that the ledger has forgotten are still to be refused.
            keys = {key: max(until_s, keys.get(key, 0)) for key, until_s in (old.nats_keys | keys).items()}
        else:
            others.append(old)
    if len(others) >= TRUST_DENIED_MAX:
        raise StosError(
            Code.RESOURCE_EXHAUSTED,
            f"{TRUST_DENIED_MAX} identities and certificates are denied already",
            next_step="`stos certs rotate --root` makes all old certificates worthless at once",
        )
    return record.changed(now_s, denials=(*others, denial.model_copy(update={"nats_keys": keys})))


def without_ended(record: Record, now_s: int) -> Record | None:
    """Without denials that match nothing any more; None when there are none."""
    kept = tuple(denial for denial in record.denials if denial.expires_s > now_s)
    return None if kept == record.denials else record.changed(now_s, denials=kept)


def denial_of(record: Record, kind: str, name: str, serial: str, issued_s: int) -> Denial | None:
    """The denial that matches a certificate."""
    for denial in record.denials:
        if (denial.kind, denial.name) == (kind, name) and (
            denial.serial == serial if denial.serial else issued_s < denial.issued_before_s
        ):
            return denial
    return None


def denies(record: Record, known: Known, issued: Issued) -> bool:
    return denial_of(record, known.kind, known.name, issued.serial, issued.issued_s) is not None


def revoked_at(record: Record, known: Known | None, kind: str, name: str) -> int:
    """The second from which on an administrator's word lets the identity in again; 0 when it was never revoked. By
    the record, which knows first, and by the ledger, which remembers longer."""
    moments = [known.revoked_s] if known else []
    moments += [d.issued_before_s for d in record.denials if (d.kind, d.name) == (kind, name) and not d.serial]
    return max(moments, default=0)


def _printable(reason: str) -> str:
    """Everybody's log and terminal shows it."""
    return "".join(char if char.isprintable() else " " for char in reason)[:REASON_CHARS_MAX]
