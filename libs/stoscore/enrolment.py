"""Getting an identity: what a join token says, and the client side of enrolment and renewal.

A join token is one line of text that a new process is given once. It says where the certs service is, which
root certificate to expect there, which identity it is good for, and a secret. So the newcomer verifies certs
before it says the secret, and certs verifies the newcomer by it. The token is bound to the first key that
uses it: repeated with that key after a lost answer it works again, with any other key it is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from stoscore.envelope import decode_answer, encode_request
from stoscore.errors import Code, StosError, invalid, unavailable
from stoscore.identity import Identity, install, make_uri, nats_public_key, next_key
from stoscore.messages import Credentials, Message, RenewRequest
from stoscore.settings import CommonSettings
from stoscore.telemetry import get_logger

ENROL_METHOD = "/stos.v1.Enrolment/Enrol"
ISSUE_TOKEN_METHOD = "/stos.v1.CertsAdmin/IssueToken"  # noqa: S105
LIST_METHOD = "/stos.v1.CertsAdmin/List"
HOST_NAME = "certs.stos.internal"
"""DNS name in the certificate of the certs service and of nobody else."""
TOKEN_PREFIX = "stos-join-1."  # noqa: S105
TOKEN_BYTES_MAX = 8192
RETRY_WAIT_S = 0.25
CALL_TIMEOUT_S = 10.0

log = get_logger("identity")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What the text of a token says."""

    address: str
    """host:port of the certs service"""
    cluster: str
    kind: str
    name: str
    root_pem: str
    token_id: str
    secret: str

    def encode(self) -> str:
        text = json.dumps(asdict(self), separators=(",", ":"))
        return TOKEN_PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"JoinToken({self.kind}/{self.name} of {self.cluster}, id {self.token_id})"

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Raises StosError INVALID_ARGUMENT. The text is a secret and never part of the message."""
        text = text.strip()
        if not text.startswith(TOKEN_PREFIX) or len(text) > TOKEN_BYTES_MAX:
            raise invalid("this is no join token", "get one from `stos certs token`")
        body = text.removeprefix(TOKEN_PREFIX)
        try:
            fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            token = cls(**{key: str(value) for key, value in fields.items()})
            make_uri(token.cluster, token.kind, token.name)
        except (ValueError, TypeError, AttributeError, binascii.Error, StosError):
            raise invalid("the join token is damaged", "copy the whole line again") from None
        return token


class EnrolRequest(Message):
    """Enrolment/Enrol. `attestor` names the plugin that judges `evidence`."""

    attestor: str = Field(max_length=64)
    evidence: dict[str, str] = Field(max_length=8)
    csr_pem: str = Field(max_length=16_384)
    nats_public_key: str = Field(default="", max_length=128)


class IssueToken(Message):
    """CertsAdmin/IssueToken"""

    kind: str = Field(max_length=16)
    name: str = Field(max_length=63)
    valid_s: int = Field(default=3600, ge=1, le=30 * 86_400)


class IssuedToken(Message):
    token: str


class IssuedIdentity(Message):
    """One identity and its latest certificate."""

    kind: str
    name: str
    role: str
    serial: str
    attestor: str
    not_before: str
    not_after: str


class IssuedList(Message):
    """CertsAdmin/List"""

    cluster: str
    root_sha256: str
    root_not_after: str
    issuer_not_after: str
    address: str
    open_tokens: int
    identities: list[IssuedIdentity]


def certificate_request(key: ec.EllipticCurvePrivateKey, uri: str) -> str:
    """PEM of a signing request for that identity."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


# ---- enrolment ---------------------------------------------------------------------------------------


def read_tokens(path: Path) -> list[JoinToken]:
    """The tokens of a file, one per line. Raises StosError INVALID_ARGUMENT."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise invalid(f"can't read the join token file {path}: {error}") from None
    return [JoinToken.decode(line) for line in lines if line.strip()]


async def enrol(directory: Path, token: JoinToken) -> Credentials:
    """Exchange a token for an identity in the directory. Waits for certs for ever; raises StosError when
    certs refuses."""
    uri = make_uri(token.cluster, token.kind, token.name)
    request = EnrolRequest(
        attestor="join-token",
        evidence={"token_id": token.token_id, "secret": token.secret},
        csr_pem=certificate_request(next_key(directory), uri),
        nats_public_key=nats_public_key(directory),
    )
    told = False
    while True:
        try:
            credentials = await _enrol_once(token, request)
            break
        except StosError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            if not told:
                log.info("waiting for certs at %s: %s", token.address, error.message)
                told = True
        await asyncio.sleep(RETRY_WAIT_S)
    install(directory, credentials.certificate_pem, credentials.trust_pem, credentials.nats_jwt)
    log.info("enrolled", extra={"identity": uri})
    return credentials


async def _enrol_once(token: JoinToken, request: EnrolRequest) -> Credentials:
    import grpc
    import grpc.aio

    channel = grpc.aio.secure_channel(
        token.address,
        grpc.ssl_channel_credentials(token.root_pem.encode("ascii")),
        options=[("grpc.ssl_target_name_override", HOST_NAME), ("grpc.enable_retries", 0)],
    )
    try:
        credentials: Credentials = await _call(channel, ENROL_METHOD, request, Credentials)
        return credentials
    finally:
        await channel.close(None)


async def admin_call(socket: Path, method: str, request: Message, answer: type[Any]) -> Any:
    """One call of the certs service's Unix socket. Raises StosError."""
    import grpc.aio

    if not socket.exists():
        raise unavailable(f"there is no certs service at {socket}", "is it running? see --socket")
    channel = grpc.aio.insecure_channel(f"unix:{socket}", options=[("grpc.enable_retries", 0)])
    try:
        return await _call(channel, method, request, answer)
    finally:
        await channel.close(None)


async def issue_token(socket: Path, kind: str, name: str, *, valid_s: int = 3600) -> str:
    """A join token for that identity, from the certs service's Unix socket."""
    issued = await admin_call(
        socket, ISSUE_TOKEN_METHOD, IssueToken(kind=kind, name=name, valid_s=valid_s), IssuedToken
    )
    return str(issued.token)


async def _call(channel: Any, method: str, request: Message, answer: type[Any]) -> Any:
    """Bytes are the bus's own envelope, so errors keep their code, message and next step."""
    import grpc.aio

    try:
        data = await channel.unary_unary(method)(encode_request(request), timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        name = error.code().name
        code = Code(name) if name in Code.__members__ else Code.UNAVAILABLE
        raise StosError(code, f"certs: {error.details()}") from None
    return decode_answer(answer, data)


def role_of(kind: str, name: str) -> str:
    """What an identity may do follows from what it is: nodes are "node", users "user", a service is what
    its name begins with ("placement-2" is "placement")."""
    return name.partition("-")[0] if kind == "svc" else kind


SERVICE_ROLE = {"replica": "node", "csi": "csi", "placement": "placement", "certs": "certs"}
"""Which identity a service runs under."""


async def ensure_identity(settings: CommonSettings, directory: Path, role: str) -> Identity:
    """The identity of that role in the directory; without one, or with an expired one, a join token of the
    settings' file is exchanged for it, as soon as the file and certs are there. Raises StosError
    UNAUTHENTICATED."""
    try:
        identity = Identity.load(directory)
    except StosError:
        if settings.join_token_file is None:
            raise
        await _file_is_there(settings.join_token_file)
        tokens = [t for t in read_tokens(settings.join_token_file) if role_of(t.kind, t.name) == role]
        if not tokens:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"{settings.join_token_file} has no token for the role {role!r}",
                next_step=f"`stos certs token` makes one for a {role}",
            ) from None
        await enrol(directory, tokens[0])
        identity = Identity.load(directory)
    if role_of(identity.kind, identity.name) != role:
        raise StosError(Code.PERMISSION_DENIED, f"{directory} is the identity of {identity.uri}, not of a {role}")
    if settings.cluster and identity.cluster != settings.cluster:
        raise StosError(
            Code.UNAUTHENTICATED,
            f"the identity in {directory} is of cluster {identity.cluster!r}, not {settings.cluster!r}",
        )
    return identity


async def _file_is_there(path: Path) -> None:
    """A token may be made only after this process was started: by certs in the same process, or by hand."""
    if not path.exists():
        log.warning("waiting for a join token in %s", path)
    while not path.exists():
        await asyncio.sleep(RETRY_WAIT_S)


# ---- renewal -----------------------------------------------------------------------------------------


def renewal_request(identity: Identity) -> RenewRequest:
    """For a new key; the current one signs for it."""
    csr_pem = certificate_request(next_key(identity.directory), identity.uri)
    certificate = identity.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    return RenewRequest(
        csr_pem=csr_pem,
        certificate_pem=certificate,
        proof=base64.b64encode(identity.sign(csr_pem.encode("ascii"))).decode("ascii"),
        nats_public_key=nats_public_key(identity.directory),
    )


def install_renewal(identity: Identity, credentials: Credentials) -> None:
    """Put new credentials to use: on disk, and in all TLS contexts."""
    install(identity.directory, credentials.certificate_pem, credentials.trust_pem, credentials.nats_jwt)
    identity.reload()
