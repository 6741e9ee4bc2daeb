"""The doors of certs as their callers see them: enrolment over TLS, administration on a Unix socket.

A newcomer shows an invitation (`stoscore.invitations`) and waits for certs as long as it takes: processes of a
cluster start in any order. Only a refusal ends the waiting. Who has an identity already may renew it at the door as
well, and ask there for the trust state, when NATS is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from stoscore.certs_messages import Credentials
from stoscore.envelope import decode_answer, encode_request
from stoscore.errors import Code, StosError, unavailable
from stoscore.identity_files import Joined, install, nats_public_key, next_key
from stoscore.invitations import Invitation, JoinToken, read_tokens
from stoscore.messages import Message
from stoscore.spiffe import role_of
from stoscore.telemetry import get_logger

__all__ = [
    "EnrolRequest",
    "IssueToken",
    "IssuedToken",
    "JoinToken",
    "admin_call",
    "admin_method",
    "ask_door",
    "certificate_request",
    "enrol",
    "enrol_once",
    "issue_token",
    "read_tokens",
    "role_of",
]

ENROL_METHOD = "/stos.v1.Enrolment/Enrol"
TRUST_METHOD = "/stos.v1.Enrolment/Trust"
"""Empty -> SignedTrust, for anybody: it holds no secret, and who was revoked can learn it nowhere else."""
HOST_NAME = "certs.stos.internal"
"""DNS name in the certificate of the certs service and of nobody else."""
RETRY_MIN_S, RETRY_MAX_S = 0.25, 2.0
REMIND_S = 60.0
CALL_TIMEOUT_S = 10.0
WAIT_FOR = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
"""certs is not there, or not ready: anything else is its answer."""
NOT_WHO_WAS_MEANT = "CERTIFICATE_VERIFY_FAILED"
"""What gRPC says when none of the expected roots vouches for who listens there."""

log = get_logger("identity")


class EnrolRequest(Message):
    """Enrolment/Enrol. `attestor` names the plugin that judges `evidence`, which is a secret."""

    attestor: str = Field(max_length=64)
    evidence: dict[str, str] = Field(max_length=8, repr=False)
    csr_pem: str = Field(max_length=16_384)
    nats_public_key: str = Field(default="", max_length=128)


class IssueToken(Message):
    """certs.token -> IssuedToken"""

    kind: str = Field(max_length=16)
    name: str = Field(max_length=63)
    role: str = Field(default="", max_length=63)
    """what a user may do; the role of nodes and services follows from what they are"""
    valid_s: int = Field(default=3600, ge=1, le=30 * 86_400)


class IssuedToken(Message):
    token: str = Field(repr=False)


def certificate_request(key: ec.EllipticCurvePrivateKey, uri: str) -> str:
    """PEM of a signing request for that identity; without one, certs says which it is."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=True)
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


# ---- enrolment ---------------------------------------------------------------------------------------


async def enrol(directory: Path, invitation: Invitation, *, uri: str = "") -> Credentials:
    """Exchange an invitation for an identity in the directory. Waits for certs for ever; raises StosError when
    certs refuses. With `uri`, an identity of another one is not taken."""
    loop = asyncio.get_running_loop()
    pause_s, told, remind_at = RETRY_MIN_S, "", 0.0
    while True:
        try:
            return await enrol_once(directory, invitation, uri=uri)
        except StosError as error:
            if error.code not in WAIT_FOR:
                raise
            if error.message != told or loop.time() >= remind_at:
                _tell_waiting(invitation, error)
                told, remind_at = error.message, loop.time() + REMIND_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MAX_S)


def _tell_waiting(invitation: Invitation, error: StosError) -> None:
    where = ", ".join(invitation.addresses)
    if NOT_WHO_WAS_MEANT in error.message:
        log.error(
            "who listens at %s can't be verified: it is not the certs that this invitation is for, or the clock of "
            "this machine is off by more than five minutes; waiting",
            where,
        )
    else:
        log.warning("waiting for certs at %s: %s", where, error.message)


async def enrol_once(directory: Path, invitation: Invitation, *, uri: str = "") -> Credentials:
    """As `enrol`, but raises UNAVAILABLE or DEADLINE_EXCEEDED when certs can't be asked now."""
    wanted = uri or invitation.uri
    key = await asyncio.to_thread(next_key, directory)
    request = EnrolRequest(
        attestor=invitation.attestor,
        evidence=invitation.evidence(),
        csr_pem=certificate_request(key, wanted),
        nats_public_key=await asyncio.to_thread(nats_public_key, directory),
    )
    credentials: Credentials = await ask_door(
        invitation.addresses, invitation.roots(), ENROL_METHOD, request, Credentials
    )
    joined = Joined(invitation.token_id, invitation.addresses)
    await asyncio.to_thread(install, directory, credentials, uri=wanted, joined=joined)
    log.info("enrolled", extra={"identity": wanted, "attestor": invitation.attestor})
    return credentials


async def ask_door(addresses: Sequence[str], roots_pem: str, method: str, request: Message, answer: type[Any]) -> Any:
    """The answer of the first certs service that gives one. Raises its StosError, or the last one's UNAVAILABLE."""
    import grpc
    import grpc.aio

    problem = unavailable("no address of a certs service is known")
    for address in addresses:
        channel = grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(roots_pem.encode("ascii")),
            options=[("grpc.ssl_target_name_override", HOST_NAME), ("grpc.enable_retries", 0)],
        )
        try:
            return await _call(channel, method, request, answer)
        except StosError as error:
            if error.code not in WAIT_FOR:
                raise
            problem = error
        finally:
            await channel.close(None)
    raise problem


# ---- administration ----------------------------------------------------------------------------------


def admin_method(verb: str) -> str:
    """The same verbs as on the bus: token, ls, show, revoke, rotate."""
    return f"/stos.v1.CertsAdmin/{verb}"


async def admin_call(socket: Path, verb: str, request: Message, answer: type[Any]) -> Any:
    """One call of the certs service's Unix socket. Raises StosError."""
    import grpc.aio

    if not socket.exists():
        raise unavailable(f"there is no certs service at {socket}", "is it running? see --socket")
    channel = grpc.aio.insecure_channel(f"unix:{socket}", options=[("grpc.enable_retries", 0)])
    try:
        return await _call(channel, admin_method(verb), request, answer)
    finally:
        await channel.close(None)


async def issue_token(socket: Path, kind: str, name: str, *, role: str = "", valid_s: int = 3600) -> str:
    """A join token for that identity, from the certs service's Unix socket."""
    request = IssueToken(kind=kind, name=name, role=role, valid_s=valid_s)
    issued = await admin_call(socket, "token", request, IssuedToken)
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
