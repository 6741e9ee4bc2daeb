"""Who a process is: one directory with its key, its certificate and its NATS credentials.

    key.pem     private key, made here, never sent anywhere
    cert.pem    certificate (leaf first, then the CA that issued it), names spiffe://<cluster>/<kind>/<name>
    trust.pem   root certificates of the cluster
    nats.seed   private NATS key, made here
    nats.jwt    NATS user credential for that key

Every file is created with mode 0600. A renewal brings a new key: it is written beside the old one
(key.next.pem), then cert.pem is replaced, then the key takes its place. After a crash in between, `load`
finishes or drops it, so that there is always one pair that fits together.

TLS contexts are made once and updated in place on renewal: connections that are made later use the new
certificate, connections that exist are not touched.
"""

from __future__ import annotations

import os
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stoscore.errors import Code, StosError
from stoscore.files import private_directory, write_private

KEY, KEY_NEXT, CERT, TRUST = "key.pem", "key.next.pem", "cert.pem", "trust.pem"
NATS_SEED, NATS_JWT = "nats.seed", "nats.jwt"
BACKDATED_S = 300
"""Certificates begin this long before they are issued, so that a clock that is a little behind accepts them."""
RENEW_FRACTION = 0.25
"""Of the lifetime: four days of life, renewed after one, three in reserve while certs is away."""
NATS_HOST_NAME = "nats.stos.internal"
"""DNS name in the certificate of the NATS servers and of nobody else: clients insist on it."""

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_URI = re.compile(rf"spiffe://([a-z0-9][-.a-z0-9]{{0,62}})/(node|svc|user)/({_LABEL})", re.ASCII)


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


def peer_uri(peer: Any, cluster: str | None = None) -> str:
    """The one URI that the other side's verified certificate names. `peer` is an SSL object or the dictionary
    of its `getpeercert()` (asyncio: `get_extra_info("peercert")`). Raises StosError UNAUTHENTICATED when
    there is no certificate, none or more than one URI, or, with `cluster`, when it is of another cluster."""
    certificate = peer.getpeercert() if hasattr(peer, "getpeercert") else peer
    if not certificate:
        raise StosError(Code.UNAUTHENTICATED, "the peer showed no certificate")
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise StosError(Code.UNAUTHENTICATED, f"the peer's certificate names {len(uris)} identities, not one")
    found = parse_uri(uris[0])[0]
    if cluster is not None and found != cluster:
        raise StosError(Code.UNAUTHENTICATED, f"the peer is of cluster {found!r}, this is {cluster!r}")
    return str(uris[0])


def certificate_uri(certificate: x509.Certificate) -> str:
    """The one URI of a certificate. Raises StosError UNAUTHENTICATED."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise StosError(Code.UNAUTHENTICATED, f"the certificate names {len(uris)} identities, not one")
    parse_uri(uris[0])
    return uris[0]


class Identity:
    """One loaded identity directory. `uri` is spiffe://<cluster>/<kind>/<name>."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        self._nats: ssl.SSLContext | None = None
        self._read()
        self.uri = certificate_uri(self.certificate)
        self.cluster, self.kind, self.name = parse_uri(self.uri)

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Raises StosError UNAUTHENTICATED when there is no identity, or it is damaged or expired."""
        identity = cls(Path(directory))
        identity.check_valid(datetime.now(UTC))
        return identity

    @staticmethod
    def exists(directory: Path) -> bool:
        """There is a certificate. Without one the directory holds at most keys that nobody vouched for."""
        return (directory / CERT).exists()

    def _read(self) -> None:
        settle_key(self.directory)
        try:
            chain = x509.load_pem_x509_certificates((self.directory / CERT).read_bytes())
            self.key = _load_key(self.directory / KEY)
            self.trust_pem = (self.directory / TRUST).read_text("ascii")
        except FileNotFoundError as error:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"no identity in {self.directory}: {Path(error.filename).name} is missing",
                next_step="set STOS_JOIN_TOKEN_FILE to a token from `stos certs token`",
            ) from None
        except (OSError, ValueError) as error:
            raise _damaged(self.directory, str(error)) from None
        if chain[0].public_key() != self.key.public_key():
            raise _damaged(self.directory, "key and certificate do not belong together")
        self.certificate = chain[0]
        self.chain = tuple(chain)

    def check_valid(self, now: datetime) -> None:
        if now >= self.not_after:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"the certificate in {self.directory} expired at {self.not_after:%Y-%m-%d %H:%M:%S} UTC",
                next_step="get a new token from `stos certs token` and set STOS_JOIN_TOKEN_FILE",
            )

    # --- what it is worth, and until when ---

    @property
    def not_before(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @property
    def renew_at(self) -> datetime:
        """When a quarter of the lifetime is over."""
        begin = self.not_before.timestamp() + BACKDATED_S
        end = self.not_after.timestamp()
        return datetime.fromtimestamp(begin + (end - begin) * RENEW_FRACTION, UTC)

    # --- TLS ---

    def server_context(self) -> ssl.SSLContext:
        """TLS 1.3 only; the client must show a certificate of this cluster's trust. Whose it is, the caller
        checks after the handshake (`peer_uri`)."""
        if self._server is None:
            self._server = self._context(ssl.PROTOCOL_TLS_SERVER)
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """TLS 1.3 only; the server must show a certificate of this cluster's trust. Identities are URIs and
        not host names, so the caller checks the other side's after the handshake (`peer_uri`)."""
        if self._client is None:
            self._client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        return self._client

    def nats_context(self) -> ssl.SSLContext:
        """As `client_context`, but the server's certificate must carry the host name that only NATS servers
        are given: a node's stolen certificate does not make a NATS server."""
        if self._nats is None:
            context = self._context(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = True
            self._nats = context
        return self._nats

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # Resumed sessions would carry an old certificate past its end.
        context.options |= ssl.OP_NO_TICKET
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        self._fill(context)
        return context

    def _fill(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self.directory / CERT, self.directory / KEY)
        context.load_verify_locations(cadata=self.trust_pem)

    def reload(self) -> None:
        """Read the directory again and update every context in place."""
        self._read()
        for context in (self._server, self._client, self._nats):
            if context is not None:
                self._fill(context)

    # --- NATS ---

    @property
    def inbox_prefix(self) -> str:
        """Answers come to subjects that only this identity may subscribe to."""
        return f"_INBOX_{self.kind}_{self.name}"

    def nats_jwt(self) -> str:
        """The user credential as it is on disk now."""
        return self._nats_file(NATS_JWT)

    def nats_seed(self) -> bytes:
        return self._nats_file(NATS_SEED).encode("ascii")

    def _nats_file(self, name: str) -> str:
        try:
            return (self.directory / name).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise _damaged(self.directory, f"{name}: {error}") from None

    # --- proofs ---

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256 by this identity's current key."""
        from cryptography.hazmat.primitives import hashes

        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


def verify_signature(certificate: x509.Certificate, signature: bytes, message: bytes) -> None:
    """Raises StosError UNAUTHENTICATED unless the certificate's key signed the message (`Identity.sign`)."""
    from cryptography.hazmat.primitives import hashes

    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StosError(Code.UNAUTHENTICATED, "the certificate's key is of another kind than P-256")
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise StosError(Code.UNAUTHENTICATED, "the proof is not signed by the certificate's key") from None


# ---- keys on disk ------------------------------------------------------------------------------------


def _damaged(directory: Path, what: str) -> StosError:
    return StosError(
        Code.UNAUTHENTICATED,
        f"the identity in {directory} is damaged: {what}",
        next_step="remove the directory and enrol again with a token from `stos certs token`",
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path.name} is no P-256 key")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def next_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """The key that waits for its certificate; made at the first call, so that an enrolment or a renewal that
    is repeated after a lost answer asks for the same key again."""
    private_directory(directory)
    path = directory / KEY_NEXT
    if not path.exists():
        write_private(path, key_pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        return _load_key(path)
    except (OSError, ValueError) as error:
        raise _damaged(directory, f"{KEY_NEXT}: {error}") from None


def install(directory: Path, certificate_pem: str, trust_pem: str, nats_jwt: str) -> None:
    """Make the waiting key and its new certificate the identity. Each step leaves a usable directory."""
    write_private(directory / TRUST, trust_pem.encode("ascii"))
    if nats_jwt:
        write_private(directory / NATS_JWT, nats_jwt.encode("ascii"))
    write_private(directory / CERT, certificate_pem.encode("ascii"))
    settle_key(directory)


def settle_key(directory: Path) -> None:
    """Finish an installation that stopped between the certificate and its key."""
    waiting = directory / KEY_NEXT
    try:
        certificate = x509.load_pem_x509_certificate((directory / CERT).read_bytes())
        fits = certificate.public_key() == _load_key(waiting).public_key()
    except (OSError, ValueError):
        return
    if fits:
        os.replace(waiting, directory / KEY)


def nats_public_key(directory: Path) -> str:
    """The public NATS key of this directory; the private one is made when there is none."""
    import nkeys

    from stoscore.nkey import USER, make_seed

    private_directory(directory)
    path = directory / NATS_SEED
    if not path.exists():
        write_private(path, make_seed(USER, os.urandom(32)))
    pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
    return str(pair.public_key.decode("ascii"))
