"""Changing the root while everything runs: overlap first, trust follows use, nothing is dropped before it is unused.

    announce   both roots are trusted; the old issuer goes on signing
    sign       the new issuer signs; everybody is asked to renew, now below the new root
    (retired)  the old root is forgotten

The first phase looks superfluous and is not. A node that was off for a day knows the old root only. Were new
certificates handed out at once, it could verify nobody that had one, NATS least of all, and so could never be told.
Therefore `sign` begins when everyone who holds a valid certificate has *said* that it uses the new root (`Issued.used`:
an answer that certs gave may never have arrived), and the old root goes when everyone uses a certificate below the new
one, or when the old ones have ended. Who holds it up is seen in `stos certs ls`; a node that is gone for good is
revoked, or waited for until its certificate ends.

Everything here is pure: facts in, the next record out. Keys are stored before (`keyring`). A step is one
compare-and-set of the record, made by whichever instance comes first.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.certs.ledger import Issued, Known, live
from services.certs.record import Issuer, Record, Root, Rotation
from services.certs.revocation import denies
from stoscore.errors import precondition

KEPT_AFTER_REPLACED_S = 31 * 86_400
"""An issuer that signs no more is known for so long: longer than any certificate lives, which is how it is told
apart from a stranger at a renewal."""
SETTLE_FRACTION = 0.05
SETTLE_MAX_S = 60


def settle_s(life_s: int) -> int:
    """How long a phase lasts at least. The NATS servers, for one, read their files again after they were told."""
    return max(2, min(int(life_s * SETTLE_FRACTION), SETTLE_MAX_S))


def next_number(record: Record) -> int:
    """Of the keys that the next change needs. Raises StosError FAILED_PRECONDITION while the root is being changed."""
    if record.rotation is not None:
        raise precondition(
            f"the root is being changed (phase {record.rotation.phase})", "see `stos certs ls` for who holds it up"
        )
    return record.made + 1


def begin_root(record: Record, root: Root, issuer: Issuer, now_s: int, reason: str = "") -> Record:
    """Announce a new root. Raises StosError as `next_number`."""
    made = record.changed(
        now_s,
        made=next_number(record),
        roots=(*record.roots, root),
        issuers=(*record.issuers, issuer),
    )
    rotation = Rotation(
        phase="announce", root=root.key, issuer=issuer.key, number=made.number, since_s=now_s, reason=reason[:120]
    )
    return made.model_copy(update={"rotation": rotation})


def replace_issuer(record: Record, issuer: Issuer, now_s: int, *, renew_all: bool) -> Record:
    """Another issuer below the same root, which needs no announcement: it travels with what it signs. Raises StosError
    as `next_number`."""
    issuers = tuple(_replaced(old, now_s) if old.key == record.signer else old for old in record.issuers)
    fields = {"made": next_number(record), "issuers": (*issuers, issuer), "signer": issuer.key}
    if renew_all:
        return record.changed(now_s, **fields, renew_issued_before_s=_everybody(record, now_s))
    return record.model_copy(update=fields)


def _replaced(issuer: Issuer, now_s: int) -> Issuer:
    return issuer.model_copy(update={"replaced_s": now_s})


def _everybody(record: Record, now_s: int) -> int:
    """Also certificates of this very second."""
    return max(now_s + 1, record.renew_issued_before_s)


def advance(record: Record, known: Iterable[Known], now_s: int, life_s: int) -> Record | None:
    """The next phase, when its time has come; None when it has not, or nothing is under way."""
    rotation = record.rotation
    if rotation is None:
        return None
    if now_s < rotation.since_s + settle_s(life_s) or waiting_for(record, known, now_s):
        return None
    return _sign(record, rotation, now_s) if rotation.phase == "announce" else _retire(record, rotation, now_s)


def waiting_for(record: Record, known: Iterable[Known], now_s: int) -> list[Known]:
    """Who keeps the phase from ending."""
    if record.rotation is None:
        return []
    return [
        one
        for one in _concerned(record, known, now_s)
        if not any(_fits(record, certificate) for certificate in one.certificates)
    ]


def _concerned(record: Record, known: Iterable[Known], now_s: int) -> list[Known]:
    """Those who hold a certificate that is valid and not denied."""

    def holds_one(one: Known) -> bool:
        return any(cert.ends_s > now_s and not denies(record, one, cert) for cert in one.certificates)

    return [one for one in live(known, now_s) if holds_one(one)]


def _fits(record: Record, issued: Issued) -> bool:
    """Its owner is ready for the end of this phase."""
    rotation = record.rotation
    assert rotation is not None
    if issued.used < rotation.number:
        return False
    return rotation.phase == "announce" or any(
        issuer.key == issued.issuer and issuer.root == rotation.root for issuer in record.issuers
    )


def _sign(record: Record, rotation: Rotation, now_s: int) -> Record:
    issuers = tuple(_replaced(old, now_s) if old.key == record.signer else old for old in record.issuers)
    after = record.changed(
        now_s, issuers=issuers, signer=rotation.issuer, renew_issued_before_s=_everybody(record, now_s)
    )
    next_phase = rotation.model_copy(update={"phase": "sign", "number": after.number, "since_s": now_s})
    return after.model_copy(update={"rotation": next_phase})


def _retire(record: Record, rotation: Rotation, now_s: int) -> Record:
    return record.changed(
        now_s,
        roots=tuple(root for root in record.roots if root.key == rotation.root),
        issuers=tuple(issuer for issuer in record.issuers if issuer.root == rotation.root),
        rotation=None,
    )


def without_replaced(record: Record, now_s: int) -> Record | None:
    """Without issuers that signed their last so long ago that nothing of theirs is valid; None when there are none.
    Nobody needs to be told: trust states name roots only."""
    kept = tuple(
        issuer
        for issuer in record.issuers
        if not issuer.replaced_s or now_s < issuer.replaced_s + KEPT_AFTER_REPLACED_S
    )
    return None if kept == record.issuers else record.model_copy(update={"issuers": kept})
