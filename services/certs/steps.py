"""Changing the authority itself: a new issuer, a new root, and everything that follows from one by and by.

Every function here can be called by all instances at once and be killed anywhere. Keys are made under the next free
number, so that whoever comes after finds and uses them; the change is one compare-and-set of the record; what is
left over is tidied by the next call.
"""

from __future__ import annotations

from services.certs import issue, revocation, rotation
from services.certs.authority import Authority
from services.certs.founding import make_issuer, make_root
from services.certs.record import Issuer, Record, Root
from stoscore.errors import Code, StosError
from stoscore.telemetry import get_logger

AGAIN_MAX = 8

log = get_logger("certs")


def replace_issuer(authority: Authority, *, renew_all: bool) -> Record:
    """A new issuer below the root. Raises StosError FAILED_PRECONDITION while the root is being changed."""
    before = authority.record()
    number = rotation.next_number(before)
    issuer = make_issuer(authority.keyring, before.signing_root, number, authority.now())

    def decide(record: Record) -> Record | None:
        if rotation.next_number(record) != number:
            return None  # another instance did it, just now
        return rotation.replace_issuer(record, issuer, authority.now_s(), renew_all=renew_all)

    return _told(authority, "the issuer is replaced", authority.change(decide))


def begin_root(authority: Authority, reason: str = "") -> Record:
    """Announce a new root; `keep_going` does the rest. Raises StosError FAILED_PRECONDITION while one is announced."""
    for _ in range(AGAIN_MAX):
        number = rotation.next_number(authority.record())
        root = make_root(authority.keyring, authority.cluster, number, authority.now())
        issuer = make_issuer(authority.keyring, root, number, authority.now())

        def decide(record: Record, root: Root = root, issuer: Issuer = issuer, number: int = number) -> Record | None:
            if rotation.next_number(record) != number:
                return None
            return rotation.begin_root(record, root, issuer, authority.now_s(), reason)

        after = authority.change(decide)
        if after.rotation is not None and after.rotation.root == root.key:
            return _told(authority, "a new root is announced", after)
    raise StosError(Code.ABORTED, "the authority is changed by others all the time", next_step="try again")


def keep_going(authority: Authority) -> Record:
    """Whatever is due now. Returns the record after."""
    record = authority.record()
    now_s = authority.now_s()
    if record.rotation is not None:
        record = _advance(authority, record, now_s)
    else:
        record = _before_the_end(authority, record)
    if revocation.without_ended(record, now_s) is not None:
        record = authority.change(lambda current: revocation.without_ended(current, now_s))
    if rotation.without_replaced(record, now_s) is not None:
        record = authority.change(lambda current: rotation.without_replaced(current, now_s))
    removed = authority.keyring.forget_unused(record)
    if removed:
        log.info("keys that sign nothing any more are gone", extra={"keys": removed})
    return record


def _advance(authority: Authority, before: Record, now_s: int) -> Record:
    known = authority.ledger.all()
    life_s = authority.settings.certificate_life_s

    def decide(record: Record) -> Record | None:
        return rotation.advance(record, known, now_s, life_s)

    if decide(before) is None:
        return before
    after = authority.change(decide)
    said = "the new root's issuer signs" if after.rotation else "the old root is retired"
    return _told(authority, said, after)


def _before_the_end(authority: Authority, record: Record) -> Record:
    """Nobody has to remember that an authority ends."""
    root, issuer = record.signing_root, record.issuer(record.signer)
    try:
        if issue.must_replace_root(issue.load(root.certificate_pem), authority.now()):
            return begin_root(authority, "the old one nears its end")
        if issue.must_replace_issuer(issue.load(issuer.certificate_pem), authority.now()):
            return replace_issuer(authority, renew_all=False)
    except StosError as error:
        log.error("the authority nears its end and can't be replaced: %s", error)
    return record


def remember_revocations(authority: Authority, record: Record) -> None:
    """What the record denies, the ledger remembers for longer. Whoever revoked may have been killed in between, so each
    instance looks at every record that is new to it."""
    for denial in record.denials:
        if denial.serial:
            continue
        known = authority.ledger.find(denial.kind, denial.name)
        if known is not None and known.revoked_s < denial.issued_before_s:
            authority.ledger.revoked(denial.kind, denial.name, known.role, denial.issued_before_s)


def _told(authority: Authority, what: str, record: Record) -> Record:
    log.warning("%s", what, extra={"number": record.number, "signer": record.signer, "cluster": authority.cluster})
    return record
