"""Issues identities: from proven evidence to a certificate and a NATS credential.

This is the one place where signing happens. Enrolment and renewal differ only in the attestor that proves
who is asking.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from services.certs import issue, nats_jwt
from services.certs.attestors import Attestor, Claim, Desk
from services.certs.roles import NATS_SERVER, ROLES, check_role
from services.certs.settings import CertsSettings
from services.certs.tokens import Token, hash_secret
from services.certs.vault import Issuer, Vault
from stoscore import identity as identities
from stoscore import plugins
from stoscore.enrolment import HOST_NAME as CERTS_HOST_NAME
from stoscore.enrolment import EnrolRequest, IssuedIdentity, JoinToken, certificate_request, role_of
from stoscore.errors import Code, StosError, invalid
from stoscore.identity import BACKDATED_S, NATS_HOST_NAME, RENEW_FRACTION, Identity, make_uri
from stoscore.messages import Credentials
from stoscore.nkey import valid_public_key
from stoscore.telemetry import get_logger

log = get_logger("certs")

assert timedelta(seconds=BACKDATED_S) == issue.BACKDATED


class Authority:
    """One cluster's authority over its vault. `now` is the wall clock, in UTC."""

    def __init__(self, settings: CertsSettings, vault: Vault, now: Callable[[], datetime]):
        self.settings = settings
        self.vault = vault
        self.now = now
        self.cluster = vault.cluster(settings.cluster)
        self.root = vault.root(self.cluster, now())
        self.nats_keys = vault.nats_keys(sorted(ROLES))
        self._issuers = vault.issuers()
        self._attestors: dict[str, Attestor] = plugins.load_all("stos.attestors")
        self._life = timedelta(seconds=settings.certificate_life_s)

    @property
    def root_pem(self) -> str:
        return issue.pem(self.root.certificate)

    def issuer(self) -> Issuer:
        """The one that signs now; a new one takes over long before the last one ends."""
        now = self.now()
        if not self._issuers or issue.must_replace_issuer(self._issuers[-1].certificate, now):
            self._issuers.append(self.vault.add_issuer(self.root, now))
        return self._issuers[-1]

    # --- join tokens ---

    def make_token(self, kind: str, name: str, valid_s: int) -> str:
        """The text of a new join token. Raises StosError INVALID_ARGUMENT for an identity that can't be."""
        try:
            make_uri(self.cluster, kind, name)
        except StosError:
            raise invalid(f"{kind}/{name} can't be an identity", "a name is an RFC 1123 label") from None
        check_role(kind, name, role_of(kind, name))
        now_s = int(self.now().timestamp())
        self.vault.forget_old_tokens(now_s)
        secret, token_id = secrets.token_urlsafe(32), secrets.token_hex(8)
        self.vault.save(Token(token_id, hash_secret(secret), kind, name, now_s + valid_s))
        log.info("join token made", extra={"identity": f"{kind}/{name}", "token_id": token_id})
        return JoinToken(self.settings.address, self.cluster, kind, name, self.root_pem, token_id, secret).encode()

    # --- issuing ---

    async def enrol(self, request: EnrolRequest, *, only: Claim | None = None) -> Credentials:
        """Credentials for the identity that the evidence proves. With `only`, evidence for another identity is
        refused. Raises StosError UNAUTHENTICATED or INVALID_ARGUMENT."""
        key = issue.requested_key(request.csr_pem)
        if request.nats_public_key and not valid_public_key(request.nats_public_key, "U"):
            raise invalid("nats_public_key is no public user key of NATS")
        attestor = self._attestors.get(request.attestor)
        if attestor is None:
            raise invalid(f"there is no attestor {request.attestor!r}", f"known: {', '.join(self._attestors)}")
        issuers = [issuer.certificate for issuer in self._issuers]
        desk = Desk(self.now(), request.csr_pem, issue.key_fingerprint(key), self.vault, issuers)
        claim = await attestor.attest(request.evidence, desk)
        if only is not None and claim != only:
            raise StosError(
                Code.PERMISSION_DENIED, f"{only.kind}/{only.name} asks in the name of {claim.kind}/{claim.name}"
            )
        return self.sign(claim, request.csr_pem, request.nats_public_key, request.attestor)

    def sign(self, claim: Claim, csr_pem: str, nats_key: str, attestor: str) -> Credentials:
        """Credentials for a proven identity."""
        role = role_of(claim.kind, claim.name)
        check_role(claim.kind, claim.name, role)
        now = self.now()
        issuer = self.issuer()
        leaf = issue.issue_leaf(
            issuer.certificate,
            issuer.key,
            issue.requested_key(csr_pem),
            uri=make_uri(self.cluster, claim.kind, claim.name),
            hosts=self._hosts(role),
            now=now,
            life=self._life,
            serial=x509.random_serial_number(),
        )
        end = leaf.not_valid_after_utc
        user = ""
        if nats_key and role in ROLES:
            user = nats_jwt.user_jwt(
                self.nats_keys, role, claim.name, nats_key, int(now.timestamp()), int(end.timestamp())
            )
        self.vault.record(_issued(claim, role, leaf, attestor))
        log.info(
            "issued",
            extra={
                "identity": f"{claim.kind}/{claim.name}",
                "attestor": attestor,
                "serial": f"{leaf.serial_number:x}",
                "until": end.isoformat(),
            },
        )
        return Credentials(
            certificate_pem=issue.pem(leaf) + issue.pem(issuer.certificate),
            trust_pem=self.root_pem,
            nats_jwt=user,
            nats_servers=[f"tls://{self.settings.nats_host}:{self.settings.nats_port}"],
            renew_after_s=int(self.settings.certificate_life_s * RENEW_FRACTION),
        )

    def _hosts(self, role: str) -> list[str]:
        if role == NATS_SERVER:
            return [NATS_HOST_NAME, *self.settings.nats_names]
        return [CERTS_HOST_NAME] if role == "certs" else []

    def own_identity(self, directory: Path, kind: str, name: str) -> Identity:
        """An identity of this process itself, issued or renewed without any network."""
        try:
            identity = Identity.load(directory)
            if identity.cluster == self.cluster and self.now() < identity.renew_at:
                return identity
        except StosError as error:
            log.debug("%s; issued anew", error)
        claim = Claim(kind, name)
        csr_pem = certificate_request(identities.next_key(directory), make_uri(self.cluster, kind, name))
        issued = self.sign(claim, csr_pem, identities.nats_public_key(directory), "itself")
        identities.install(directory, issued.certificate_pem, issued.trust_pem, issued.nats_jwt)
        return Identity.load(directory)

    def root_sha256(self) -> str:
        return self.root.certificate.fingerprint(hashes.SHA256()).hex()


def _issued(claim: Claim, role: str, leaf: x509.Certificate, attestor: str) -> IssuedIdentity:
    return IssuedIdentity(
        kind=claim.kind,
        name=claim.name,
        role=role,
        serial=f"{leaf.serial_number:x}",
        attestor=attestor,
        not_before=leaf.not_valid_before_utc.isoformat(),
        not_after=leaf.not_valid_after_utc.isoformat(),
    )
