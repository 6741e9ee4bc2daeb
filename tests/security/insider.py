"""Certificates that the real authority would never sign now: expired, not valid yet, or with names that are nobody's.

They are signed with the cluster's own issuer, opened from its vault as an instance of certs opens it. So nothing but
what the certificate says speaks against it.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.certs import issue
from services.certs.attestors import Claim
from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.vault.directory import vault
from services.dev.layout import Layout
from stoscore.enrolment import certificate_request
from stoscore.identity import install, key_pem, make_uri, nats_public_key, next_key

HOUR = timedelta(hours=1)


class Insider:
    """Somebody with the authority's keys."""

    def __init__(self, layout: Layout):
        self._now = datetime.now(UTC)
        settings = CertsSettings(data_dir=layout.certs, kek_file=layout.certs / "kek")
        self.authority = Authority(settings, vault(settings), lambda: self._now)

    def issued(self, directory: Path, kind: str, name: str, ago: timedelta, role: str = "") -> Path:
        """A whole identity, NATS credential and all, as it was issued that long ago (or, below zero, will be)."""
        if not directory.exists():
            self._now = datetime.now(UTC) - ago
            csr = certificate_request(next_key(directory), make_uri(self.authority.cluster, kind, name))
            made = self.authority.issue(Claim(kind, name, role=role), csr, nats_public_key(directory), "tests")
            install(directory, made)
        return directory

    def crafted(self, directory: Path, names: list[x509.GeneralName] | None, common_name: str = "x") -> Path:
        """A certificate with these subject alternative names (None: no such extension)."""
        record = self.authority.record()
        signer = record.issuer(record.signer)
        pair = self.authority.keyring.pair(signer.key, signer.certificate_pem)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]))
            .issuer_name(pair.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
        )
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        leaf = builder.sign(pair.key, hashes.SHA256())
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / "key.pem").write_bytes(key_pem(key))
        (directory / "cert.pem").write_text(
            leaf.public_bytes(serialization.Encoding.PEM).decode() + issue.pem(pair.certificate)
        )
        return directory
