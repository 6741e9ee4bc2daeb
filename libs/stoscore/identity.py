"""Who a process is: one loaded identity directory, whom it trusts, and the TLS contexts that follow from both.

Both change while the process runs. A renewal brings a new key and certificate, a new trust state brings roots and
revocations; each makes new TLS contexts, which are asked for at every connection. Connections that exist are not
touched: who owns some asks `check_peer` again when `on_trust_change` calls.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stoscore.access import inbox_of
from stoscore.certs_messages import Denied, SignedTrust, TrustState
from stoscore.errors import Code, StosError
from stoscore.identity_files import (
    CERT,
    KEY,
    NATS_JWT,
    NATS_SEED,
    TRUST,
    Loaded,
    Trust,
    damaged,
    install,
    key_pem,
    nats_public_key,
    next_key,
    read_identity,
    write_trust,
)
from stoscore.spiffe import (
    BACKDATED_S,
    Peer,
    certificate_uri,
    make_uri,
    owner,
    parse_uri,
    shown_peer,
    verify_signature,
)
from stoscore.telemetry import get_logger
from stoscore.tls import Contexts, make_contexts
from stoscore.trust import denial, load_roots, verify_trust

__all__ = [
    "BACKDATED_S",
    "CERT",
    "KEY",
    "NATS_HOST_NAME",
    "NATS_JWT",
    "RENEW_FRACTION",
    "TRUST",
    "Identity",
    "Peer",
    "certificate_uri",
    "install",
    "key_pem",
    "make_uri",
    "nats_public_key",
    "next_key",
    "parse_uri",
    "verify_signature",
]

RENEW_FRACTION = 0.25
"""Of the lifetime: four days of life, renewed after one, three in reserve while certs is away."""
NATS_HOST_NAME = "nats.stos.internal"
"""DNS name in the certificate of the NATS servers and of nobody else: clients insist on it."""

log = get_logger("identity")


class Identity:
    """One loaded identity directory. `uri` is spiffe://<cluster>/<kind>/<name>."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.on_trust_change: list[Callable[[], None]] = []
        """Called in the event loop's thread after a new trust state is in use."""
        self.changing = asyncio.Lock()
        """Held by who changes the directory: a renewal and a new trust state may come at the same time."""
        self.trust_is_kept = True
        """False while the disk refuses a state that is in use."""
        self._loaded = read_identity(directory)
        self._contexts = self._make_contexts(self._loaded.roots_pem)
        self.uri = self._loaded.uri
        self.cluster, self.kind, self.name = parse_uri(self.uri)

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Raises StosError UNAUTHENTICATED when there is no identity, or it is damaged, expired or revoked."""
        identity = cls(Path(directory))
        identity.check_valid(datetime.now(UTC))
        return identity

    @staticmethod
    def exists(directory: Path) -> bool:
        """There is a certificate. Without one the directory holds at most keys that nobody vouched for."""
        return (directory / CERT).exists()

    def check_valid(self, now: datetime) -> None:
        if now >= self.not_after:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"the certificate in {self.directory} expired at {self.not_after:%Y-%m-%d %H:%M:%S} UTC",
                next_step="get a new token from `stos certs token`, for STOS_JOIN_TOKEN_FILE or `stos certs enrol`",
            )
        if self.revoked is not None:
            raise revoked_error(self, self.revoked)

    # --- what it is ---

    @property
    def role(self) -> str:
        """What certs lets it do: "node", a service's, or the one that a user was given with its token."""
        return self._loaded.role

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return self._loaded.key

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._loaded.chain

    @property
    def certificate(self) -> x509.Certificate:
        return self._loaded.chain[0]

    @property
    def peer(self) -> Peer:
        """This identity as the others see it."""
        return owner(self.certificate)

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

    # --- whom it trusts ---

    @property
    def trust_pem(self) -> str:
        """The roots."""
        return self._loaded.roots_pem

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        return self._loaded.roots

    @property
    def trust(self) -> SignedTrust | None:
        """The newest trust state as certs signed it; None until it has told one."""
        return self._loaded.trust

    @property
    def trust_state(self) -> TrustState | None:
        return self._loaded.state

    @property
    def revoked(self) -> Denied | None:
        """Why this very certificate is good no more."""
        return denial(self.trust_state, self.peer) if self.trust_state else None

    @property
    def must_renew(self) -> bool:
        """certs asks for it: the certificate was issued before the moment that the trust state names."""
        return self.trust_state is not None and self.peer.issued_s < self.trust_state.renew_issued_before_s

    def verified_peer(self, peer: Any) -> Peer:
        """Who is at the other end of a TLS connection of ours: `peer` is its SSL object or the dictionary of its
        `getpeercert()` (asyncio: `get_extra_info("peercert")`). Raises StosError UNAUTHENTICATED for who shows no
        single identity of this cluster, and for who is revoked."""
        shown = shown_peer(peer, self.cluster)
        self.check_peer(shown)
        return shown

    def check_peer(self, peer: Peer) -> None:
        """Raises StosError UNAUTHENTICATED when the peer has been revoked."""
        entry = denial(self.trust_state, peer) if self.trust_state else None
        if entry is not None:
            raise StosError(Code.UNAUTHENTICATED, f"the certificate of {peer} is revoked{_because(entry)}")

    def check_trust(self, signed: SignedTrust, now: datetime | None = None) -> TrustState | None:
        """The state if it is newer than what is in use, None if it is known. Raises StosError for one that certs
        of this cluster did not sign, or that goes back."""
        state = verify_trust(signed, self._loaded.roots, self.cluster, current=self.trust_state, now=now)
        return None if state == self.trust_state else state

    def apply_trust(self, signed: SignedTrust) -> bool:
        """Put a new state to use, kept on disk first. False when it is known. Raises as `check_trust`."""
        state = self.check_trust(signed, datetime.now(UTC))
        if state is None:
            return False
        self.keep_trust(signed, state)
        self.use_trust(signed, state)
        return True

    async def follow_trust(self, signed: SignedTrust) -> bool:
        """As `apply_trust`, without holding up the event loop while the disk is waited for."""
        async with self.changing:
            state = self.check_trust(signed, datetime.now(UTC))
            if state is None:
                return False
            await asyncio.to_thread(self.keep_trust, signed, state)
            self.use_trust(signed, state)
        return True

    def keep_trust(self, signed: SignedTrust, state: TrustState) -> None:
        """Write it to the directory. When the disk refuses, the state is put to use all the same: to go on trusting
        who is revoked, until somebody has made room on the disk, would be worse."""
        try:
            write_trust(self.directory, Trust(state.roots_pem, signed, state))
            self.trust_is_kept = True
        except StosError as error:
            self.trust_is_kept = False
            log.error("trust state %d is not kept, and unknown after a restart: %s", state.number, error)

    def use_trust(self, signed: SignedTrust, state: TrustState) -> None:
        """Use a state that was checked and kept, and tell everybody who asked to be told."""
        if state.roots_pem != self.trust_pem:
            self._contexts = self._make_contexts(state.roots_pem)
        roots = load_roots(state.roots_pem)
        self._loaded = replace(self._loaded, roots_pem=state.roots_pem, roots=roots, trust=signed, state=state)
        log.info("trust state %d is in use", state.number, extra={"roots": len(roots), "denied": len(state.denied)})
        self._trust_changed()

    def _trust_changed(self) -> None:
        for callback in list(self.on_trust_change):
            try:
                callback()
            except Exception:
                # One that fails must not keep the others from closing what was revoked.
                log.exception("a follower of the trust state failed")

    def reload(self) -> None:
        """Read the directory again, with whatever was installed there. Raises StosError; what was in use stays."""
        loaded, before = read_identity(self.directory), self._loaded
        if loaded.uri != self.uri:
            raise damaged(self.directory, f"it was {self.uri} and is {loaded.uri}")
        if self._is_ahead_of(loaded):
            loaded = replace(
                loaded, roots_pem=before.roots_pem, roots=before.roots, trust=before.trust, state=before.state
            )
        self._contexts = self._make_contexts(loaded.roots_pem)
        self._loaded = loaded
        if loaded.state != before.state or loaded.roots != before.roots:
            self._trust_changed()

    def _is_ahead_of(self, loaded: Loaded) -> bool:
        """What is in use and could not be kept on a full disk is not forgotten, unless the directory has gone over
        to an authority that never said it."""
        signed, state = self.trust, self.trust_state
        if signed is None or state is None or (loaded.state is not None and loaded.state.number >= state.number):
            return False
        try:
            verify_trust(signed, loaded.roots, self.cluster)
        except StosError:
            return False
        return True

    # --- TLS ---

    def server_context(self) -> ssl.SSLContext:
        """TLS 1.3 only; the client must show a certificate of this cluster's trust. Whose it is, the caller
        checks after the handshake (`verified_peer`)."""
        return self._contexts.server

    def client_context(self) -> ssl.SSLContext:
        """TLS 1.3 only; the server must show a certificate of this cluster's trust. Identities are URIs and not
        host names, so the caller checks the other side's after the handshake (`verified_peer`). Ask for it at
        each connection: this one never learns of a renewal."""
        return self._contexts.client

    def nats_context(self) -> ssl.SSLContext:
        """As `client_context`, but the server's certificate must carry the host name that only NATS servers
        are given: a node's stolen certificate does not make a NATS server."""
        return self._contexts.nats

    def _make_contexts(self, roots_pem: str) -> Contexts:
        try:
            return make_contexts(self.directory / CERT, self.directory / KEY, roots_pem, self.server_context)
        except OSError as error:
            raise damaged(self.directory, str(error)) from None

    # --- NATS ---

    @property
    def inbox_prefix(self) -> str:
        """Answers come to subjects that only this identity may subscribe to."""
        return inbox_of(self.kind, self.name)

    def nats_jwt(self) -> str:
        """The user credential as it is on disk now."""
        return self._nats_file(NATS_JWT)

    def nats_seed(self) -> bytes:
        return self._nats_file(NATS_SEED).encode("ascii")

    def _nats_file(self, name: str) -> str:
        try:
            return (self.directory / name).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise damaged(self.directory, f"{name}: {error}") from None

    # --- proofs ---

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256 by this identity's current key."""
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


def _because(entry: Denied) -> str:
    return f": {entry.reason}" if entry.reason else ""


def revoked_error(identity: Identity, entry: Denied) -> StosError:
    return StosError(
        Code.UNAUTHENTICATED,
        f"the identity {identity.kind}/{identity.name} is revoked{_because(entry)}",
        next_step="if it is to come back: a new token from `stos certs token`, for STOS_JOIN_TOKEN_FILE or "
        "`stos certs enrol`",
    )
