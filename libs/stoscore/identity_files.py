"""The files of an identity directory, and the order in which they change.

    key.pem     private key, made here, never sent anywhere
    cert.pem    certificate (leaf first, then the CA that issued it), names spiffe://<cluster>/<kind>/<name>
    trust.pem   root certificates of the cluster
    trust.json  the newest trust state, signed by certs (`stoscore.trust`); its roots are those of trust.pem
    role        what certs lets it do
    nats.seed   private NATS key, made here
    nats.jwt    NATS user credential for that key
    nats-server.json  what a NATS server trusts and is (role nats only)
    joined.json by which join token it was made, so that a token is not tried twice, and where certs is
    lock        held by the service that uses it

Every file is created with mode 0600 and replaced as a whole. A renewal brings a new key: it is written beside the
old one (key.next.pem), then cert.pem is replaced, then the key takes its place. Whoever reads after a crash in
between finishes that, so there is always one pair that fits together. A new trust state is written before its
roots: until they follow, the old ones vouch for it as well.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from stoscore.certs_messages import Credentials, SignedTrust, TrustState
from stoscore.errors import Code, StosError
from stoscore.files import private_directory, remove, write_private
from stoscore.spiffe import UNREADABLE, certificate_uri, parse_uri, role_of
from stoscore.telemetry import get_logger
from stoscore.trust import load_chain, load_roots, verify_chain, verify_trust

KEY, KEY_NEXT, CERT, TRUST, TRUST_STATE = "key.pem", "key.next.pem", "cert.pem", "trust.pem", "trust.json"
NATS_SEED, NATS_JWT, NATS_SERVER, ROLE, JOINED = "nats.seed", "nats.jwt", "nats-server.json", "role", "joined.json"
READS_MAX = 3
"""A reader may come between the certificate and the key that another process replaces."""

log = get_logger("identity")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a directory says, all of it checked to fit together."""

    uri: str
    role: str
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    """leaf first"""
    roots_pem: str
    roots: tuple[x509.Certificate, ...]
    trust: SignedTrust | None
    state: TrustState | None


@dataclass(frozen=True, slots=True)
class Trust:
    """Roots, and the signed state that names them, if certs has told one."""

    roots_pem: str
    signed: SignedTrust | None = None
    state: TrustState | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """How an identity came to be."""

    token_id: str = ""
    addresses: tuple[str, ...] = ()
    """host:port of the certs services"""


# ---- reading -----------------------------------------------------------------------------------------


def read_identity(directory: Path) -> Loaded:
    """Raises StosError UNAUTHENTICATED when there is no identity, or it is damaged."""
    try:
        chain, key = _read_pair(directory)
        uri = certificate_uri(chain[0])
        cluster, kind, name = parse_uri(uri)
        trust = read_trust(directory, cluster)
        roots = load_roots(trust.roots_pem)
        verify_chain(chain, roots)
        role = _read_role(directory) or role_of(kind, name)
    except FileNotFoundError as error:
        raise StosError(
            Code.UNAUTHENTICATED,
            f"no identity in {directory}: {Path(error.filename).name} is missing",
            next_step="set STOS_JOIN_TOKEN_FILE to a token from `stos certs token`",
        ) from None
    except (OSError, *UNREADABLE) as error:
        raise damaged(directory, str(error)) from None
    except StosError as error:
        raise damaged(directory, error.message) from None
    return Loaded(uri, role, key, chain, trust.roots_pem, roots, trust.signed, trust.state)


def _read_pair(directory: Path) -> tuple[tuple[x509.Certificate, ...], ec.EllipticCurvePrivateKey]:
    for _ in range(READS_MAX):
        settle_key(directory)
        chain = x509.load_pem_x509_certificates((directory / CERT).read_bytes())
        key = load_key(directory / KEY)
        if chain[0].public_key() == key.public_key():
            return tuple(chain), key
    raise ValueError("key and certificate do not belong together")


def read_trust(directory: Path, cluster: str) -> Trust:
    """The newest signed state that the roots of this directory vouch for, else just the roots. A damaged state is no
    reason to stand still: certs tells it again, and until then nobody is trusted whom the roots do not vouch for."""
    roots_pem = (directory / TRUST).read_text("ascii")
    try:
        signed = SignedTrust.model_validate_json((directory / TRUST_STATE).read_bytes(), strict=True)
        state = verify_trust(signed, load_roots(roots_pem), cluster)
    except FileNotFoundError:
        return Trust(roots_pem)
    except (ValidationError, StosError, OSError) as error:
        log.error("%s can't be used, whom certs revoked is unknown until it says so again: %s", TRUST_STATE, error)
        return Trust(roots_pem)
    return Trust(state.roots_pem, signed, state)


def _read_role(directory: Path) -> str:
    with suppress(FileNotFoundError):
        return (directory / ROLE).read_text("ascii").strip()
    return ""


def read_joined(directory: Path) -> Joined:
    """How the identity came to be; empty when nobody wrote it down."""
    try:
        found = json.loads((directory / JOINED).read_bytes())
        return Joined(str(found["token_id"]), tuple(str(address) for address in found["addresses"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Joined()


def damaged(directory: Path, what: str) -> StosError:
    return StosError(
        Code.UNAUTHENTICATED,
        f"the identity in {directory} is damaged: {what}",
        next_step="set STOS_JOIN_TOKEN_FILE to a new token from `stos certs token`",
    )


# ---- keys --------------------------------------------------------------------------------------------


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises OSError, and ValueError for what is no P-256 key."""
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
    is repeated after a lost answer asks for the same key again. One that can't be read is made anew: nobody has
    vouched for it yet."""
    private_directory(directory)
    path = directory / KEY_NEXT
    try:
        return load_key(path)
    except FileNotFoundError:
        pass
    except (OSError, *UNREADABLE) as error:
        log.warning("%s is damaged (%s); another key is made", path, error)
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, key_pem(key))
    return key


def settle_key(directory: Path) -> None:
    """Finish an installation that stopped between the certificate and its key."""
    waiting = directory / KEY_NEXT
    try:
        certificate = x509.load_pem_x509_certificate((directory / CERT).read_bytes())
        if certificate.public_key() == load_key(waiting).public_key():
            os.replace(waiting, directory / KEY)
    except (OSError, *UNREADABLE):
        return


def nats_public_key(directory: Path) -> str:
    """The public NATS key of this directory. The private one is made when there is none that can be read; the
    credential that comes with the next certificate is for it."""
    from stoscore.nkey import USER, make_seed, public_key

    private_directory(directory)
    path = directory / NATS_SEED
    try:
        return public_key(path.read_bytes().strip())
    except FileNotFoundError:
        pass
    except Exception as error:
        # The library has many ways to say that a seed is none.
        log.warning("%s is damaged (%s); another key is made", path, type(error).__name__)
    write_private(path, make_seed(USER, os.urandom(32)))
    return public_key(path.read_bytes().strip())


# ---- writing -----------------------------------------------------------------------------------------


def install(directory: Path, credentials: Credentials, *, uri: str = "", joined: Joined | None = None) -> None:
    """Make the waiting key and its new certificate the identity; `uri` is the one that was asked for. The roots have
    been proved by whoever handed the credentials out. Each step leaves a usable directory. Raises StosError
    UNAUTHENTICATED, and changes nothing, when the parts do not belong together, FAILED_PRECONDITION when the disk
    refuses."""
    chain = load_chain(credentials.certificate_pem)
    if chain[0].public_key() != next_key(directory).public_key():
        raise StosError(Code.UNAUTHENTICATED, "certs answered with a certificate for another key")
    given = certificate_uri(chain[0])
    if uri and given != uri:
        raise StosError(Code.UNAUTHENTICATED, f"certs answered with a certificate of {given}, not of {uri}")
    trust = _choose_trust(directory, parse_uri(given)[0], credentials.trust_pem, credentials.trust)
    verify_chain(chain, load_roots(trust.roots_pem))
    write_trust(directory, trust)
    server = credentials.nats_server
    for name, content in (
        (ROLE, credentials.role),
        (NATS_JWT, credentials.nats_jwt),
        (NATS_SERVER, "" if server is None else server.model_dump_json()),
        (CERT, credentials.certificate_pem),
    ):
        if content:
            write_private(directory / name, content.encode())
    settle_key(directory)
    # Last: a token of which this is not known is tried again, and works again with the same key.
    if joined is not None:
        write_private(directory / JOINED, json.dumps(asdict(joined)).encode())


def _choose_trust(directory: Path, cluster: str, trust_pem: str, signed: SignedTrust | None) -> Trust:
    """What certs says, unless this directory knows better: the same roots may have vouched for more since, as when
    a certs process that lags behind answers."""
    roots = load_roots(trust_pem)
    told = Trust(trust_pem)
    if signed is not None:
        state = verify_trust(signed, roots, cluster)
        told = Trust(state.roots_pem, signed, state)
    with suppress(OSError, ValueError, StosError):
        known = read_trust(directory, cluster)
        if known.signed is not None and known.state is not None:
            verify_trust(known.signed, roots, cluster)
            if told.state is None or told.state.number <= known.state.number:
                return known
    return told


def write_trust(directory: Path, trust: Trust) -> None:
    """Durably. Raises StosError FAILED_PRECONDITION when the disk refuses."""
    if trust.signed is None:
        remove(directory / TRUST_STATE)
    else:
        write_private(directory / TRUST_STATE, trust.signed.model_dump_json().encode())
    write_private(directory / TRUST, trust.roots_pem.encode("ascii"))
