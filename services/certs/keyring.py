"""The authority's private keys in the vault: `keys/<name>`, each sealed, each made once.

    keys/root-<n>  keys/issuer-<n>      P-256, PEM
    keys/nats-operator, -system, -role-<role>    seeds of NATS keys

A key has its number before anything names it: instances that want the same next key at once, or an instance that
goes on where another one was killed, find the key that is there and use it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.certs.record import Record
from services.certs.sealing import Seal
from services.certs.vault import Conflict, Vault, create
from stoscore.errors import StosError, precondition
from stoscore.identity import key_pem
from stoscore.nkey import ACCOUNT, OPERATOR, make_seed
from stoscore.spiffe import UNREADABLE

PREFIX = "keys"
_AUTHORITY_KEY = re.compile(r"keys/(?:root|issuer)-([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pair:
    """An authority: its certificate and the key that it signs with."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def load_key(name: str, pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises StosError FAILED_PRECONDITION for what is no P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except UNREADABLE:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _at_odds(f"the private key {name} can't be read, or is of another kind than P-256")
    return key


def match(name: str, certificate_pem: str, key: ec.EllipticCurvePrivateKey) -> Pair:
    """Certificate and key, if they belong together. Raises StosError FAILED_PRECONDITION."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        fits = certificate.public_key() == key.public_key()
    except UNREADABLE:
        raise _at_odds(f"the certificate of {name} can't be read") from None
    if not fits:
        raise _at_odds(f"the certificate of {name} does not match its private key")
    return Pair(certificate, key)


class Keyring:
    """The keys of one vault, under its seal. What was opened once is kept."""

    def __init__(self, vault: Vault, seal: Seal):
        self._vault = vault
        self._seal = seal
        self._opened: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._lock = threading.Lock()

    def make(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The authority's key of that name; made now if there is none."""
        self._ensure(name, lambda: key_pem(ec.generate_private_key(ec.SECP256R1())))
        return self.key(name)

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Raises StosError FAILED_PRECONDITION when it is missing or damaged."""
        with self._lock:
            if name in self._opened:
                return self._opened[name]
        key = load_key(name, self.secret(name))
        with self._lock:
            self._opened[name] = key
        return key

    def pair(self, name: str, certificate_pem: str) -> Pair:
        """Certificate and key, which belong together. Raises StosError FAILED_PRECONDITION."""
        return match(name, certificate_pem, self.key(name))

    # --- secrets of any kind ---

    def secret(self, name: str) -> bytes:
        entry = self._vault.get(_entry(name))
        if entry is None:
            raise _at_odds(f"the private key {name} is missing from the vault")
        return self._seal.open(_entry(name), entry.data)

    def put_secret(self, name: str, secret: bytes) -> None:
        """Store one that came from elsewhere (a backup, an older layout). One that is there stays."""
        self._ensure(name, lambda: secret)

    def seed(self, name: str) -> bytes:
        """The seed of a NATS key; made now if there is none."""
        prefix = OPERATOR if name == "nats-operator" else ACCOUNT
        return self._seal.open(_entry(name), self._ensure(name, lambda: make_seed(prefix, os.urandom(32))))

    def _ensure(self, name: str, make: Callable[[], bytes]) -> bytes:
        entry = _entry(name)
        return create(self._vault, entry, lambda: self._seal.seal(entry, make()))

    def names(self) -> list[str]:
        """Of all keys in the vault."""
        return [entry.name.removeprefix(f"{PREFIX}/") for entry in self._vault.below(PREFIX)]

    # --- keys that are over ---

    def forget_unused(self, record: Record) -> list[str]:
        """Remove the keys of authorities that sign nothing any more. A key above the record's count is one that an
        instance is about to use."""
        used = {f"{PREFIX}/{root.key}" for root in record.roots}
        used |= {f"{PREFIX}/{issuer.key}" for issuer in record.issuers if not issuer.replaced_s}
        removed = []
        for entry in self._vault.below(PREFIX):
            number = _AUTHORITY_KEY.fullmatch(entry.name)
            if number is None or entry.name in used or int(number[1]) > record.made:
                continue
            try:
                self._vault.delete(entry.name, entry.revision)
            except Conflict:
                continue
            removed.append(entry.name)
            with self._lock:
                self._opened.pop(entry.name.removeprefix(f"{PREFIX}/"), None)
        return removed


def check_keys(keyring: Keyring, record: Record) -> None:
    """Every authority that may still sign has its own key, and every issuer its root. Raises StosError
    FAILED_PRECONDITION: an instance that finds them at odds must neither sign nor 'repair' anything."""
    roots = {root.key: keyring.pair(root.key, root.certificate_pem) for root in record.roots}
    for issuer in record.issuers:
        if issuer.replaced_s:
            continue
        pair = keyring.pair(issuer.key, issuer.certificate_pem)
        above = roots.get(issuer.root)
        if above is None or not signed_by(pair.certificate, above.certificate):
            raise _at_odds(f"the certificate of {issuer.key} was not signed by {issuer.root}")
    if record.signer not in {issuer.key for issuer in record.issuers if not issuer.replaced_s}:
        raise _at_odds(f"{record.signer}, which signs, is not among the issuers")


def signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _at_odds(what: str) -> StosError:
    return precondition(what, "nothing was changed; restore it from a backup: see docs/runbooks/ca-lost.md")


def _entry(name: str) -> str:
    return f"{PREFIX}/{name}"
