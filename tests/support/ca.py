"""A certificate authority for tests: real identity directories, also such as no real one would issue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stoscore.identity import Identity

HOUR = timedelta(hours=1)


class TestAuthority:
    """One root that signs leaves. Two authorities do not trust each other, whatever cluster they name."""

    __test__ = False

    def __init__(self, cluster: str = "stos") -> None:
        self.cluster = cluster
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} test root")])
        self._name = name
        self.root = (
            _certificate(name, name, self._key.public_key(), HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        directory: Path,
        name: str,
        *,
        kind: str = "node",
        cluster: str | None = None,
        valid: timedelta = HOUR,
    ) -> Identity:
        """An identity in a new directory under `directory`; `valid` below zero has expired so long ago."""
        uri = f"spiffe://{cluster or self.cluster}/{kind}/{name}"
        return Identity(self.issue_files(directory, [uri], valid=valid))

    def issue_files(self, directory: Path, uris: list[str], *, valid: timedelta = HOUR) -> Path:
        """A directory with the files of an identity, whatever it names."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate(x509.Name([]), self._name, key.public_key(), valid)
        if uris:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
            builder = builder.add_extension(names, critical=True)
        leaf = builder.sign(self._key, hashes.SHA256())
        home = directory / f"{leaf.serial_number:x}"
        home.mkdir(parents=True)
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        (home / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        (home / "cert.pem").write_bytes(leaf.public_bytes(pem))
        (home / "trust.pem").write_bytes(self.root.public_bytes(pem))
        return home


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta
) -> x509.CertificateBuilder:
    end = datetime.now(UTC) + valid
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(end, datetime.now(UTC)) - HOUR)
        .not_valid_after(end)
    )
