"""Issues identities: from proven evidence to a certificate and a NATS credential.

This is the one place where signing happens. Enrolment and renewal differ only in the attestor that proves who is
asking. Nothing is remembered here but keys: several instances work on one vault, so every call looks at the record
and the ledger as they are now. Calls block, on the disk or on Kubernetes; the service makes them in threads.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from services.certs import issue, nats_jwt, revocation
from services.certs import record as records
from services.certs.attestors import Attestor, Claim, Desk
from services.certs.founding import known_seal, open_authority
from services.certs.keyring import check_keys
from services.certs.ledger import Issued, Known, Ledger
from services.certs.nats_trust import server_trust
from services.certs.record import Record
from services.certs.roles import ROLES, USER_ROLES, check_role
from services.certs.settings import CertsSettings
from services.certs.tokens import Token, hash_secret
from services.certs.vault import Entry, Vault, change
from stoscore import identity as identities
from stoscore import plugins
from stoscore.certs_messages import Credentials, SignedTrust, TrustRequest
from stoscore.enrolment import HOST_NAME as CERTS_HOST_NAME
from stoscore.enrolment import EnrolRequest, JoinToken, certificate_request
from stoscore.errors import Code, StosError, invalid, precondition
from stoscore.identity import NATS_HOST_NAME, RENEW_FRACTION, Identity, make_uri
from stoscore.nkey import valid_public_key
from stoscore.spiffe import node_host_name, role_of
from stoscore.telemetry import get_logger
from stoscore.trust import sign_trust

CERTS, NATS, NODE = "certs", "nats", "node"
"""Roles that are found by a host name."""
OURSELVES = "itself"
"""In place of an attestor: an instance of certs vouches for itself, by opening the vault."""
SIGNED_AGAIN_MAX = 8

log = get_logger("certs")


class Authority:
    """One cluster's authority over its vault. `now` is the wall clock, in UTC."""

    def __init__(self, settings: CertsSettings, vault: Vault, now: Callable[[], datetime]):
        self.settings = settings
        self.vault = vault
        self.now = now
        opened = open_authority(settings, vault, now)
        self.keyring = opened.keyring
        self.ledger = Ledger(vault)
        self.cluster = opened.record.cluster
        self.founded_s = opened.record.founded_s
        self.nats_keys = self._nats_keys(opened.record)
        self.own: Identity | None = None
        """svc/certs*, which signs what is told about the trust; None until this instance has it."""
        self._attestors: dict[str, Attestor] = plugins.load_all("stos.attestors")
        self._life = timedelta(seconds=settings.certificate_life_s)
        self._checked = ("", opened.record)
        self._signed: tuple[tuple[int, str], SignedTrust] | None = None
        self._lock = threading.Lock()

    def _nats_keys(self, record: Record) -> nats_jwt.NatsKeys:
        return nats_jwt.NatsKeys(
            operator=self.keyring.seed("nats-operator"),
            account=record.nats_account,
            system=self.keyring.seed("nats-system"),
            roles={role: self.keyring.seed(f"nats-role-{role}") for role in sorted(ROLES)},
        )

    def now_s(self) -> int:
        return int(self.now().timestamp())

    # --- the record ---

    def record(self) -> Record:
        """As it is in the vault now. Raises StosError FAILED_PRECONDITION when its keys are not this vault's any
        more: somebody restored another one under our feet."""
        entry = self.vault.get(records.NAME)
        if entry is None:
            raise precondition("the vault lost the authority's record", "restore it: see docs/runbooks/ca-lost.md")
        with self._lock:
            if entry.revision == self._checked[0]:
                return self._checked[1]
        return self._check(entry)

    def _check(self, entry: Entry) -> Record:
        record = records.decode(entry.data)
        known_seal(self.settings, self.vault, record)
        check_keys(self.keyring, record)
        if record.cluster != self.cluster:
            raise precondition(f"the vault is of cluster {record.cluster} now, not {self.cluster}", "start certs again")
        with self._lock:
            self._checked = (entry.revision, record)
        return record

    def change(self, decide: Callable[[Record], Record | None]) -> Record:
        """Replace the record, deciding anew when another instance was faster. None: nothing is to be done."""

        def work(before: bytes | None) -> bytes | None:
            if before is None:
                raise precondition("the vault lost the authority's record", "restore it: see docs/runbooks/ca-lost.md")
            after = decide(records.decode(before))
            return None if after is None else after.encode()

        change(self.vault, records.NAME, work)
        return self.record()

    def nats_revocations(self) -> dict[str, int]:
        """Public NATS user key -> credentials issued up to that second are dead."""
        return self.record().nats_revocations()

    def signed_trust(self, record: Record | None = None) -> SignedTrust | None:
        """What everybody is told, signed by this instance; None while it has no identity that may sign it."""
        own, record = self.own, record or self.record()
        if own is None or self._denied(record, own):
            return None
        made_for = (record.number, own.peer.serial)
        with self._lock:
            if self._signed is not None and self._signed[0] == made_for:
                return self._signed[1]
        signed = sign_trust(own, record.trust())
        with self._lock:
            self._signed = (made_for, signed)
        return signed

    def in_use(self, kind: str, name: str, request: TrustRequest) -> None:
        """An identity says what it has in use. That is written down while the root is being changed, which waits for
        it."""
        record = self.record()
        if record.rotation is None or not request.serial:
            return
        known = self.ledger.find(kind, name)
        number = min(request.number, record.number)
        if known and any(one.serial == request.serial and one.used < number for one in known.certificates):
            self.ledger.in_use(kind, name, request.serial, number)

    @staticmethod
    def _denied(record: Record, identity: Identity) -> bool:
        peer = identity.peer
        return revocation.denial_of(record, peer.kind, peer.name, peer.serial, peer.issued_s) is not None

    # --- join tokens ---

    def make_token(self, kind: str, name: str, valid_s: int, role: str = "") -> str:
        """The text of a new join token. Raises StosError INVALID_ARGUMENT for an identity that can't be."""
        try:
            make_uri(self.cluster, kind, name)
        except StosError:
            raise invalid(f"{kind}/{name} can't be an identity", "a name is an RFC 1123 label") from None
        if kind == "user" and not role:
            raise invalid(f"what may {kind}/{name} do?", f"say --role {', --role '.join(USER_ROLES)}")
        role = role or role_of(kind, name)
        check_role(kind, name, role)
        if role == CERTS:
            raise invalid("certs issues its own identities, to itself only", "start another instance on the same vault")
        now_s = self.now_s()
        self.ledger.forget_old_tokens(now_s)
        record = self.record()
        secret, token_id = secrets.token_urlsafe(32), secrets.token_hex(8)
        made_s = record.issue_time(kind, name, now_s)
        self.ledger.add_token(Token(token_id, hash_secret(secret), kind, name, role, made_s, now_s + valid_s))
        log.info("join token made", extra={"identity": f"{kind}/{name}", "token_id": token_id})
        addresses = ",".join(self.settings.addresses)
        return JoinToken(addresses, self.cluster, kind, name, record.roots_pem, token_id, secret).encode()

    # --- issuing ---

    async def enrol(self, request: EnrolRequest, *, only: tuple[str, str] | None = None) -> Credentials:
        """Credentials for the identity that the evidence proves. With `only` (kind, name), evidence for another one
        is refused. Raises StosError UNAUTHENTICATED, PERMISSION_DENIED or INVALID_ARGUMENT."""
        key = issue.requested_key(request.csr_pem)
        if request.nats_public_key and not valid_public_key(request.nats_public_key, "U"):
            raise invalid("nats_public_key is no public user key of NATS")
        attestor = self._attestors.get(request.attestor)
        if attestor is None:
            raise invalid(f"there is no attestor {request.attestor!r}", f"known: {', '.join(self._attestors)}")
        desk = Desk(self.settings, self.now(), self.cluster, request.csr_pem, issue.key_fingerprint(key), self)
        claim = await attestor.attest(request.evidence, desk)
        if only is not None and (claim.kind, claim.name) != only:
            raise StosError(
                Code.PERMISSION_DENIED, f"{only[0]}/{only[1]} asks in the name of {claim.kind}/{claim.name}"
            )
        if role_of(claim.kind, claim.name) == CERTS:
            raise StosError(Code.PERMISSION_DENIED, "certs issues its own identities, to itself only")
        return await asyncio.to_thread(self.issue, claim, request.csr_pem, request.nats_public_key, request.attestor)

    def issue(self, claim: Claim, csr_pem: str, nats_key: str, attestor: str) -> Credentials:
        """Credentials for a proven identity. It is written into the ledger before it is handed out, and when the
        record was changed meanwhile (a revocation, a new issuer) it is not handed out but issued again: whoever
        revokes reads the ledger after the record, so one of the two sees the other."""
        for _ in range(SIGNED_AGAIN_MAX):
            record = self.record()
            known = self.ledger.find(claim.kind, claim.name)
            self._check_admitted(record, known, claim)
            issued, credentials = self._sign(record, claim, self._role(claim, known), csr_pem, nats_key, attestor)
            if self.record().number == record.number:
                return credentials
            self.ledger.withdraw(claim.kind, claim.name, issued.serial)
        raise StosError(Code.ABORTED, "the authority changes all the time", next_step="try again")

    def _check_admitted(self, record: Record, known: Known | None, claim: Claim) -> None:
        """Evidence from before a revocation proves who somebody was."""
        at_s = revocation.revoked_at(record, known, claim.kind, claim.name)
        as_of_s = claim.as_of_s
        if as_of_s is None:
            as_of_s = known.readmitted_s if known else 0
        denied = claim.serial and revocation.denial_of(record, claim.kind, claim.name, claim.serial, as_of_s)
        if as_of_s < at_s or denied:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"{claim.kind}/{claim.name} is revoked",
                next_step="if it is to come back, give it a new token from `stos certs token`",
            )

    def _role(self, claim: Claim, known: Known | None) -> str:
        role = claim.role or role_of(claim.kind, claim.name)
        if claim.kind == "user" and not claim.role:
            role = known.role if known else ""
        if not role:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"{claim.kind}/{claim.name} is not in the ledger, so nobody knows what it may do",
                next_step="give it a new token from `stos certs token`",
            )
        check_role(claim.kind, claim.name, role)
        return role

    def _sign(
        self, record: Record, claim: Claim, role: str, csr_pem: str, nats_key: str, attestor: str
    ) -> tuple[Issued, Credentials]:
        signer = record.issuer(record.signer)
        pair = self.keyring.pair(signer.key, signer.certificate_pem)
        issued_s = record.issue_time(claim.kind, claim.name, self.now_s())
        leaf = issue.issue_leaf(
            pair.certificate,
            pair.key,
            issue.requested_key(csr_pem),
            uri=make_uri(self.cluster, claim.kind, claim.name),
            hosts=self._hosts(role, claim.name),
            now=datetime.fromtimestamp(issued_s, UTC),
            life=self._life,
            serial=x509.random_serial_number(),
        )
        ends_s = int(leaf.not_valid_after_utc.timestamp())
        issued = Issued(
            serial=f"{leaf.serial_number:x}",
            issued_s=issued_s,
            ends_s=ends_s,
            attestor=attestor,
            issuer=signer.key,
            trust=record.number,
            nats_key=nats_key,
            used=record.number if attestor == OURSELVES else 0,
        )
        readmitted_s = claim.as_of_s if claim.readmits and claim.as_of_s is not None else 0
        self.ledger.issued(claim.kind, claim.name, role, issued, readmitted_s)
        log.info(
            "issued",
            extra={
                "identity": f"{claim.kind}/{claim.name}",
                "role": role,
                "attestor": attestor,
                "serial": issued.serial,
                "until": leaf.not_valid_after_utc.isoformat(),
            },
        )
        user = nats_jwt.user_jwt(self.nats_keys, role, claim.name, nats_key, issued_s, ends_s) if nats_key else ""
        return issued, Credentials(
            certificate_pem=issue.pem(leaf) + signer.certificate_pem,
            trust_pem=record.roots_pem,
            nats_jwt=user,
            renew_after_s=int(self.settings.certificate_life_s * RENEW_FRACTION),
            role=role,
            trust=self.signed_trust(record),
            nats_server=server_trust(self) if role == NATS else None,
        )

    def _hosts(self, role: str, name: str) -> list[str]:
        if role == NATS:
            return [NATS_HOST_NAME, *self.settings.nats_names]
        if role == NODE:
            return [node_host_name(name)]
        return [CERTS_HOST_NAME] if role == CERTS else []

    # --- identities of this process ---

    def own_identity(self, directory: Path, kind: str, name: str, role: str = "") -> Identity:
        """An identity of this process itself, issued or renewed without any network."""
        with suppress(StosError):
            identity = Identity.load(directory)
            if not self.is_due(identity):
                return identity
        claim = Claim(kind, name, as_of_s=self.record().issue_time(kind, name, self.now_s()), role=role)
        csr_pem = certificate_request(identities.next_key(directory), make_uri(self.cluster, kind, name))
        issued = self.issue(claim, csr_pem, identities.nats_public_key(directory), OURSELVES)
        identities.install(directory, issued)
        return Identity.load(directory)

    def is_due(self, identity: Identity) -> bool:
        """It is to be issued anew: because of its age, of what everybody was asked, or of a revocation."""
        record = self.record()
        issuers = {issue.load(one.certificate_pem).subject for one in record.issuers}
        return (
            identity.cluster != self.cluster
            or self.now() >= identity.renew_at
            or identity.peer.issued_s < record.renew_issued_before_s
            or self._denied(record, identity)
            or identity.certificate.issuer not in issuers
        )
