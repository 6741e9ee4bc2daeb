"""The certificate authority's rules: a root that rests, an issuer that signs, leaves that live four days.

    root    10 years   signs issuers only; everybody's trust; replaced by phases (`rotation`)
    issuer   1 year    signs leaves; travels with each leaf, so it can be replaced without telling anybody
    leaf     4 days    spiffe://<cluster>/<kind>/<name> as its only URI; P-256; may be client and server

Host names are given to those who are found by one: NATS, certs, and each node by its own name (remote NBD). Who
steals a node's certificate can't pose as another. Everything that is random or told by a clock comes in as an
argument.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stoscore.errors import Code, StosError, invalid
from stoscore.spiffe import BACKDATED_S, UNREADABLE

BACKDATED = timedelta(seconds=BACKDATED_S)
ROOT_LIFE = timedelta(days=3650)
ISSUER_LIFE = timedelta(days=365)
ISSUER_REPLACED_BEFORE_END = timedelta(days=120)
"""An issuer always outlives its leaves by far."""
ROOT_REPLACED_BEFORE_END = timedelta(days=730)
"""A root always outlives its issuers."""
CSR_BYTES_MAX = 16_384


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_root(cluster: str, key: ec.EllipticCurvePrivateKey, now: datetime, serial: int) -> x509.Certificate:
    """The self-signed root of a new cluster."""
    subject = f"stos root {cluster}"
    builder = _builder(subject, _name(subject), key.public_key(), now, ROOT_LIFE, serial)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def make_issuer(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    serial: int,
) -> x509.Certificate:
    """An issuer below the root; it can't make further authorities."""
    builder = _builder(f"stos issuer {serial:x}", root.subject, key, now, ISSUER_LIFE, serial)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(_authority_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def _authority_key(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def must_replace_issuer(issuer: x509.Certificate, now: datetime) -> bool:
    return now >= issuer.not_valid_after_utc - ISSUER_REPLACED_BEFORE_END


def must_replace_root(root: x509.Certificate, now: datetime) -> bool:
    return now >= root.not_valid_after_utc - ROOT_REPLACED_BEFORE_END


def issue_leaf(
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    *,
    uri: str,
    hosts: list[str],
    now: datetime,
    life: timedelta,
    serial: int,
) -> x509.Certificate:
    """A leaf for that identity, never living longer than its issuer."""
    life = min(life, issuer.not_valid_after_utc - now)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [_host(host) for host in hosts]
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    builder = _builder(uri.partition("://")[2], issuer.subject, key, now, life, serial)
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(_authority_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a signing request that really is the requester's. The names in it are ignored: who somebody
    is, an attestor says. Raises StosError INVALID_ARGUMENT."""
    if len(csr_pem) > CSR_BYTES_MAX:
        raise invalid("the signing request is too large")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        valid = csr.is_signature_valid
        key = csr.public_key()
    except UNREADABLE:
        raise invalid("the signing request is no PEM of a PKCS #10 request") from None
    if not valid:
        raise invalid("the signing request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise invalid("the signing request's key must be of the curve P-256")
    return key


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the public key, hex."""
    digest = hashes.Hash(hashes.SHA256())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest.update(key.public_bytes(serialization.Encoding.DER, form))
    return digest.finalize().hex()


def check_issued(certificate: x509.Certificate, issuers: list[x509.Certificate], now: datetime) -> None:
    """Raises StosError UNAUTHENTICATED unless one of our issuers signed the certificate and it is valid now."""
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise StosError(Code.UNAUTHENTICATED, "the certificate has expired or is not valid yet")
    for issuer in issuers:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, *UNREADABLE):
            continue
        return
    raise StosError(Code.UNAUTHENTICATED, "the certificate is not of this cluster")


def load(certificate_pem: str) -> x509.Certificate:
    """Of what this service stored itself. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate_pem.encode("ascii"))


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
