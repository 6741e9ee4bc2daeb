"""What a certificate says about its owner: spiffe://<cluster>/<kind>/<name>, its serial number, when it was issued.

A certificate names exactly one identity, in exactly one form. Everything else (two names, a name with a dot, a
slash or a NUL in it, another case) is nobody: an identity that two readers could read differently is a hole.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stoscore.errors import Code, StosError

BACKDATED_S = 600
"""Certificates begin this long before they are issued: twice the five minutes that a clock may be behind."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises, sooner or later, for a certificate that is not well-formed: it reads each part when it is
asked for it."""

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_URI = re.compile(rf"spiffe://([a-z0-9][-.a-z0-9]{{0,62}})/(node|svc|user)/({_LABEL})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Peer:
    """The owner of a certificate."""

    kind: str
    name: str
    serial: str
    """hex, lower case"""
    issued_s: int = 0
    """Unix seconds by certs' clock"""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def parse_uri(uri: str) -> tuple[str, str, str]:
    """(cluster, kind, name) of spiffe://<cluster>/<kind>/<name>. Raises StosError UNAUTHENTICATED."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise StosError(Code.UNAUTHENTICATED, f"{uri[:200]!r} is no identity of this system")
    return match[1], match[2], match[3]


def make_uri(cluster: str, kind: str, name: str) -> str:
    """The identity's URI. Raises StosError UNAUTHENTICATED when a part can't stand in one."""
    uri = f"spiffe://{cluster}/{kind}/{name}"
    parse_uri(uri)
    return uri


def node_host_name(node: str) -> str:
    """The DNS name in a node's certificate, and in nobody else's: by it a remote NBD client, which knows nothing of
    URIs, verifies that it talks to that node."""
    return f"{node}.node.stos.internal"


def role_of(kind: str, name: str) -> str:
    """What an identity may do follows from what it is: nodes are "node", a service is what its name begins with
    ("placement-2" is "placement"). A user's role is given with its token; without one it is "user"."""
    return name.partition("-")[0] if kind == "svc" else kind


def shown_peer(peer: Any, cluster: str | None = None) -> Peer:
    """Whom the other side's certificate names, which TLS has verified. `peer` is an SSL object or the dictionary
    of its `getpeercert()` (asyncio: `get_extra_info("peercert")`). Raises StosError UNAUTHENTICATED when there is
    no certificate, none or more than one URI, or, with `cluster`, when it is of another cluster."""
    shown = peer.getpeercert() if hasattr(peer, "getpeercert") else peer
    if not shown:
        raise StosError(Code.UNAUTHENTICATED, "the peer showed no certificate")
    uris = [value for kind, value in shown.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise StosError(Code.UNAUTHENTICATED, f"the peer's certificate names {len(uris)} identities, not one")
    found, kind, name = parse_uri(str(uris[0]))
    if cluster is not None and found != cluster:
        raise StosError(Code.UNAUTHENTICATED, f"the peer is of cluster {found!r}, this is {cluster!r}")
    try:
        begins_s = ssl.cert_time_to_seconds(str(shown["notBefore"]))
        return Peer(kind, name, f"{int(str(shown['serialNumber']), 16):x}", begins_s + BACKDATED_S)
    except (KeyError, ValueError):
        raise StosError(Code.UNAUTHENTICATED, "the peer's certificate has no serial number or no beginning") from None


def named(peer: Any) -> Peer | None:
    """As `shown_peer`, to say who was refused: None when the certificate names nobody."""
    try:
        return shown_peer(peer)
    except StosError:
        return None


def owner(certificate: x509.Certificate) -> Peer:
    """As `shown_peer`, of a certificate that is at hand."""
    _, kind, name = parse_uri(certificate_uri(certificate))
    begins_s = int(certificate.not_valid_before_utc.timestamp())
    return Peer(kind, name, f"{certificate.serial_number:x}", begins_s + BACKDATED_S)


def certificate_uri(certificate: x509.Certificate) -> str:
    """The one URI of a certificate. Raises StosError UNAUTHENTICATED."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    except UNREADABLE:
        raise StosError(Code.UNAUTHENTICATED, "the certificate's names can't be read") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise StosError(Code.UNAUTHENTICATED, f"the certificate names {len(uris)} identities, not one")
    parse_uri(uris[0])
    return uris[0]


def verify_signature(certificate: x509.Certificate, signature: bytes, message: bytes) -> None:
    """Raises StosError UNAUTHENTICATED unless the certificate's key signed the message (`Identity.sign`)."""
    try:
        key = certificate.public_key()
    except UNREADABLE:
        raise StosError(Code.UNAUTHENTICATED, "the certificate's key can't be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StosError(Code.UNAUTHENTICATED, "the certificate's key is of another kind than P-256")
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise StosError(Code.UNAUTHENTICATED, "the proof is not signed by the certificate's key") from None
