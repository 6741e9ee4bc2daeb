"""The trust state: which roots a cluster trusts, and who is denied although a root vouches for him.

certs alone makes it, signs it with its own identity and tells everybody; everybody keeps the newest. What is
refused, and the failure that each refusal prevents:

* a signer that is not svc/certs: a stolen node certificate would rewrite everybody's trust;
* a number that goes back, or another state under a number that is known: whoever replays yesterday's state
  takes back today's revocation;
* another cluster's state: two test clusters with one root would mix;
* a state whose own roots do not vouch for its signer, or that denies its signer: nobody could ever be told the
  next one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from stoscore.certs_messages import Denied, SignedTrust, TrustState
from stoscore.errors import Code, StosError
from stoscore.spiffe import UNREADABLE, Peer, certificate_uri, owner, parse_uri, role_of, verify_signature

__all__ = [
    "Denied",
    "SignedTrust",
    "TrustState",
    "denial",
    "load_chain",
    "load_roots",
    "sign_trust",
    "verify_chain",
    "verify_trust",
]

SIGNER = "certs"
"""The role of who may sign: svc/certs, svc/certs-2, …"""
ROOTS_MAX = 8
CHAIN_MAX = 4
_PURPOSE = b"stos trust state 1\0"
"""Goes before what is signed, so that no other signature of the same key (a renewal's) is one of a trust state."""


class Signer(Protocol):
    """What signing needs of `stoscore.identity.Identity`."""

    @property
    def chain(self) -> tuple[x509.Certificate, ...]: ...
    def sign(self, message: bytes) -> bytes: ...


def sign_trust(identity: Signer, state: TrustState) -> SignedTrust:
    """The state with this identity's signature; `verify_trust` takes only one of svc/certs."""
    text = state.model_dump_json()
    return SignedTrust(
        state_json=text,
        chain_pem="".join(_pem(certificate) for certificate in identity.chain),
        signature=base64.b64encode(identity.sign(_PURPOSE + text.encode())).decode("ascii"),
    )


def verify_trust(
    signed: SignedTrust,
    roots: Sequence[x509.Certificate],
    cluster: str,
    *,
    current: TrustState | None = None,
    now: datetime | None = None,
) -> TrustState:
    """The state that certs of this cluster signed. `current` is the one in use: an older one, or another one under
    the same number, is refused, and so is a signer that it denies. With `now`, the signer's certificates must be
    valid then; without, what was kept on disk is read again. Raises StosError UNAUTHENTICATED, and
    FAILED_PRECONDITION for a state that goes back."""
    try:
        return _verify(signed, roots, cluster, current, now)
    except UNREADABLE as error:
        raise _refused(f"its certificates can't be read: {error}") from None


def _verify(
    signed: SignedTrust,
    roots: Sequence[x509.Certificate],
    cluster: str,
    current: TrustState | None,
    now: datetime | None,
) -> TrustState:
    chain = load_chain(signed.chain_pem)
    state = _signed_state(signed, chain[0])
    signer = owner(chain[0])
    if role_of(signer.kind, signer.name) != SIGNER:
        raise _refused(f"it is signed by {signer}, not by certs")
    for named in (parse_uri(certificate_uri(chain[0]))[0], state.cluster):
        if named != cluster:
            raise _refused(f"it is of cluster {named!r}, this is {cluster!r}")
    verify_chain(chain, roots, now)
    verify_chain(chain, load_roots(state.roots_pem), now)
    for known in (current, state):
        if known is not None and denial(known, signer) is not None:
            raise _refused(f"its signer {signer} is revoked")
    if current is not None:
        _check_order(state, current)
    return state


def _check_order(state: TrustState, current: TrustState) -> None:
    if state.number < current.number:
        raise StosError(
            Code.FAILED_PRECONDITION, f"trust state {state.number} is older than {current.number}, which is in use"
        )
    if state.number == current.number and state != current:
        raise _refused(f"there are two different ones with the number {state.number}")


def _signed_state(signed: SignedTrust, signer: x509.Certificate) -> TrustState:
    try:
        signature = base64.b64decode(signed.signature, validate=True)
    except binascii.Error:
        raise _refused("its signature is no base64") from None
    verify_signature(signer, signature, _PURPOSE + signed.state_json.encode())
    try:
        return TrustState.model_validate_json(signed.state_json, strict=True)
    except ValidationError as error:
        raise _refused(f"it can't be read: {error.error_count()} errors") from None


def denial(state: TrustState, peer: Peer) -> Denied | None:
    """The entry that denies this certificate."""
    for entry in state.denied:
        if (entry.kind, entry.name) == (peer.kind, peer.name) and (
            entry.serial == peer.serial if entry.serial else peer.issued_s < entry.issued_before_s
        ):
            return entry
    return None


# ---- chains ------------------------------------------------------------------------------------------


def load_roots(roots_pem: str) -> tuple[x509.Certificate, ...]:
    """Raises StosError UNAUTHENTICATED unless these are one or more authorities' certificates."""
    try:
        roots = x509.load_pem_x509_certificates(roots_pem.encode())
    except UNREADABLE:
        raise _refused("its roots can't be read") from None
    if len(roots) > ROOTS_MAX or not all(_may_sign(root, 0) for root in roots):
        raise _refused(f"its roots are more than {ROOTS_MAX}, or no authorities")
    return tuple(roots)


def verify_chain(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime | None = None
) -> x509.Certificate:
    """The root that vouches for the first certificate of the chain, directly or through the next ones. With `now`
    each must be valid then. Raises StosError UNAUTHENTICATED."""
    if now is not None:
        for certificate in chain:
            _check_time(certificate, now)
    if _may_sign(chain[0], 0):
        raise _refused("an authority's own certificate is nobody's identity")
    for below, certificate in enumerate(chain[:CHAIN_MAX]):
        for root in roots:
            if _may_sign(root, below) and _issued(certificate, root):
                if now is not None:
                    _check_time(root, now)
                return root
        above = chain[below + 1] if below + 1 < len(chain) else None
        if above is None or not _may_sign(above, below) or not _issued(certificate, above):
            break
    raise StosError(Code.UNAUTHENTICATED, "the certificate is not of this cluster: no root vouches for it")


def _check_time(certificate: x509.Certificate, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise StosError(
            Code.UNAUTHENTICATED,
            "a certificate has expired or is not valid yet",
            next_step="are the clocks of this node and of certs within five minutes?",
        )


def _may_sign(certificate: x509.Certificate, below: int) -> bool:
    """It is an authority's, and may have that many authorities below it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False
    return constraints.ca and (constraints.path_length is None or constraints.path_length >= below)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def load_chain(chain_pem: str) -> list[x509.Certificate]:
    """Leaf first. Raises StosError UNAUTHENTICATED."""
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
    except UNREADABLE:
        raise StosError(Code.UNAUTHENTICATED, "what should be a certificate can't be read") from None
    if len(chain) > CHAIN_MAX:
        raise StosError(Code.UNAUTHENTICATED, f"a chain of {len(chain)} certificates is too long")
    return chain


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _refused(why: str) -> StosError:
    return StosError(Code.UNAUTHENTICATED, f"the trust state is refused: {why}")
