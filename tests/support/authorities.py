"""Authorities of certs inside the test's own process: with a clock that the test sets, and a death at a chosen step."""

from __future__ import annotations

import asyncio
import base64
import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.vault import Entry, Vault, open_vault
from stoscore.certs_messages import Credentials
from stoscore.enrolment import EnrolRequest, certificate_request
from stoscore.invitations import JoinToken
from stoscore.nkey import USER, make_seed, public_key

START_S = 1_900_000_000


class Clock:
    """The wall clock of one instance, by default one for all."""

    def __init__(self, now_s: float = START_S):
        self.now_s = now_s

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


class Killed(BaseException):
    """The process is gone. No handler of errors sees it."""


class DyingVault:
    """A vault whose process is killed instead of making its `changes`-th change; or right after it, before it learns
    that it was made."""

    poll_s = 0.01

    def __init__(self, vault: Vault, changes: int, *, after: bool = False):
        self._vault = vault
        self._left = changes
        self._after = after

    def get(self, name: str) -> Entry | None:
        return self._vault.get(name)

    def below(self, prefix: str) -> list[Entry]:
        return self._vault.below(prefix)

    def put(self, name: str, data: bytes, revision: str) -> Entry:
        self._die_before()
        entry = self._vault.put(name, data, revision)
        self._die_after()
        return entry

    def delete(self, name: str, revision: str) -> None:
        self._die_before()
        self._vault.delete(name, revision)
        self._die_after()

    def close(self) -> None:
        self._vault.close()

    def _die_before(self) -> None:
        if self._left == 0 and not self._after:
            raise Killed

    def _die_after(self) -> None:
        if self._left == 0 and self._after:
            raise Killed
        self._left -= 1


def settings_in(directory: Path, **settings: object) -> CertsSettings:
    return CertsSettings(data_dir=directory, **settings)  # type: ignore[arg-type]


def open_instance(
    directory: Path, clock: Clock | None = None, *, vault: Vault | None = None, **settings: object
) -> Authority:
    """One instance on the vault in the directory."""
    chosen = settings_in(directory, **settings)
    return Authority(chosen, vault or open_vault(chosen), clock or Clock())


class Member:
    """Somebody who enrols: keys, and what was handed out last."""

    def __init__(self, kind: str, name: str):
        self.kind, self.name = kind, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.nats_key = public_key(make_seed(USER, os.urandom(32)))
        self.credentials: Credentials | None = None

    @property
    def certificate(self) -> x509.Certificate:
        assert self.credentials is not None
        return x509.load_pem_x509_certificate(self.credentials.certificate_pem.encode())

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"

    def enrol(self, authority: Authority, token: str) -> Credentials:
        decoded = JoinToken.decode(token)
        return self._ask(authority, "join-token", decoded.evidence(), self.key)

    def join(self, authority: Authority, role: str = "") -> Credentials:
        """With a fresh token."""
        return self.enrol(authority, authority.make_token(self.kind, self.name, 60, role))

    def renew(self, authority: Authority) -> Credentials:
        """For a new key, by the certificate of the old one."""
        assert self.credentials is not None
        key = ec.generate_private_key(ec.SECP256R1())
        csr_pem = certificate_request(key, "")
        proof = self.key.sign(csr_pem.encode(), ec.ECDSA(hashes.SHA256()))
        leaf = self.credentials.certificate_pem
        evidence = {"certificate_pem": leaf, "proof": base64.b64encode(proof).decode()}
        answer = self._ask(authority, "certificate", evidence, key, csr_pem)
        self.key = key
        return answer

    def _ask(
        self,
        authority: Authority,
        attestor: str,
        evidence: dict[str, str],
        key: ec.EllipticCurvePrivateKey,
        csr_pem: str = "",
    ) -> Credentials:
        request = EnrolRequest(
            attestor=attestor,
            evidence=evidence,
            csr_pem=csr_pem or certificate_request(key, ""),
            nats_public_key=self.nats_key,
        )
        self.credentials = asyncio.run(authority.enrol(request))
        return self.credentials
