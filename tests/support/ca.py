"""A certificate authority for tests: real identity directories, also such as no real one would issue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stoscore.certs_messages import Credentials, Denied, SignedTrust, TrustState
from stoscore.identity import Identity
from stoscore.trust import sign_trust

HOUR = timedelta(hours=1)


class TestAuthority:
    """One root that signs leaves. Two authorities do not trust each other, whatever cluster they name."""

    __test__ = False

    def __init__(self, cluster: str = "stos", *, begins: timedelta = timedelta(0)) -> None:
        """`begins` tells which of two is the younger one."""
        self.cluster = cluster
        self._key = ec.generate_private_key(ec.SECP256R1())
        # Two roots of one name are confused by OpenSSL, unless each certificate says by which key it was signed.
        unique = f"{cluster} test root {x509.random_serial_number():x}"[:64]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, unique)])
        self._name = name
        self.root = (
            _certificate(name, name, self._key.public_key(), HOUR, begins)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def trust(
        self,
        signer: Identity,
        number: int,
        *,
        roots_pem: str | None = None,
        denied: list[Denied] | None = None,
        renew_issued_before_s: int = 0,
    ) -> SignedTrust:
        """A trust state of this cluster, whoever signs it."""
        state = TrustState(
            cluster=self.cluster,
            number=number,
            roots_pem=self.root_pem if roots_pem is None else roots_pem,
            denied=denied or [],
            renew_issued_before_s=renew_issued_before_s,
        )
        return sign_trust(signer, state)

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

    def issue_files(
        self,
        directory: Path,
        uris: list[str],
        *,
        valid: timedelta = HOUR,
        begins: timedelta = timedelta(0),
        hosts: Sequence[str] = (),
    ) -> Path:
        """A directory with the files of an identity, whatever it names; it begins `begins` later than an hour ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._leaf(key, uris, valid, begins, hosts)
        home = directory / f"{leaf.serial_number:x}"
        home.mkdir(parents=True)
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        (home / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        (home / "cert.pem").write_bytes(leaf.public_bytes(pem))
        (home / "trust.pem").write_bytes(self.root.public_bytes(pem))
        return home

    def credentials(self, key: ec.EllipticCurvePrivateKey, uri: str, *, valid: timedelta = HOUR) -> Credentials:
        """What certs would answer to a request of the owner of that key."""
        leaf = self._leaf(key, [uri], valid)
        return Credentials(
            certificate_pem=leaf.public_bytes(serialization.Encoding.PEM).decode("ascii"), trust_pem=self.root_pem
        )

    def _leaf(
        self,
        key: ec.EllipticCurvePrivateKey,
        uris: list[str],
        valid: timedelta,
        begins: timedelta = timedelta(0),
        hosts: Sequence[str] = (),
    ) -> x509.Certificate:
        builder = _certificate(x509.Name([]), self._name, key.public_key(), valid, begins)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(host) for host in hosts]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(self._key, hashes.SHA256())


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    valid: timedelta,
    begins: timedelta = timedelta(0),
) -> x509.CertificateBuilder:
    end = datetime.now(UTC) + valid
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(end, datetime.now(UTC)) - HOUR + begins)
        .not_valid_after(end)
    )
