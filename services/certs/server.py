"""The two doors of certs: enrolment over TLS for newcomers, administration on a Unix socket.

Both speak gRPC with the bus's own JSON messages and answers, so that an error keeps its code, its sentence and its
next step. A newcomer has no certificate yet: the enrolment door asks for none, and shows one that the join token lets
the newcomer verify. The socket is for the user who runs certs, on the machine itself: that is how the first
administrator comes to be, and the last way in when all others are locked out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from services.certs import issue
from services.certs.administration import VERBS, Administration, Verb
from services.certs.authority import Authority
from stoscore.audit import Audit
from stoscore.certs_messages import Credentials, SignedTrust
from stoscore.enrolment import ENROL_METHOD, TRUST_METHOD, EnrolRequest, admin_method
from stoscore.envelope import decode_request, encode_error, encode_result
from stoscore.errors import Code, StosError, precondition, unavailable
from stoscore.files import private_directory
from stoscore.identity import CERT, KEY, Identity
from stoscore.messages import Empty, Message
from stoscore.spiffe import owner
from stoscore.telemetry import get_logger, span

M = TypeVar("M", bound=Message)
MESSAGE_BYTES_MAX = 64 * 1024
CONCURRENT_MAX = 64
METHOD_CHARS_MAX = 80
RENEWAL = "certificate"
"""The attestor for those who were let in before."""
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Without it a second process would listen on the same port and take half of the calls.
    ("grpc.so_reuseport", 0),
]
REFUSALS = (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT, Code.UNSUPPORTED_VERSION)

log = get_logger("certs")


def _method(
    kind: type[M],
    handler: Callable[[M, str], Awaitable[Message]],
    name: str,
    refused: Callable[[str, StosError], None],
) -> Any:
    """A unary method over bytes. The handler is told the address that asks; `refused` is, too, and why not."""

    async def call(data: bytes, context: Any) -> bytes:
        who = _address(context.peer())
        with span(f"serve {name}"):
            try:
                return encode_result(await handler(decode_request(kind, data), who))
            except StosError as error:
                log.info("refused: %s", error.message, extra={"code": error.code.value, "method": name})
                if error.code in REFUSALS:
                    refused(who, error)
                return encode_error(error)
            except Exception:
                # The shell's edge: a bug in one handler must not end the service.
                log.exception("a call failed", extra={"method": name})
                return encode_error(StosError(Code.INTERNAL, f"internal error in {name}"))

    return grpc.unary_unary_rpc_method_handler(call)


def _address(peer: str) -> str:
    """Without the port, which differs from call to call: who knocks a thousand times is one."""
    return peer.rpartition(":")[0] or peer


def _generic(methods: dict[str, Any]) -> Any:
    """Handlers by full method name "/package.Service/Method", all of one service."""
    service = next(iter(methods)).split("/")[1]
    short = {name.rpartition("/")[2]: handler for name, handler in methods.items()}
    return grpc.method_handlers_generic_handler(service, short)


class _Elsewhere:
    """A generic handler of gRPC, for whoever asks for anything else at this door: refused as gRPC does it, and told."""

    def __init__(self, refused: Callable[[str, StosError], None]):
        self._refused = refused

    def service(self, details: Any) -> Any:
        method = str(details.method)[:METHOD_CHARS_MAX]

        async def refuse(data: bytes, context: Any) -> bytes:
            error = StosError(Code.PERMISSION_DENIED, f"{method} is not served here")
            self._refused(_address(context.peer()), error)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, error.message)
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


# ---- enrolment ---------------------------------------------------------------------------------------


async def serve_enrolment(authority: Authority, own: Identity, audit: Audit) -> Any:
    """Listen for newcomers. Raises StosError FAILED_PRECONDITION when the address is in use."""

    async def enrol(request: EnrolRequest, who: str) -> Credentials:
        credentials = await authority.enrol(request)
        if request.attestor != RENEWAL:
            target = str(owner(issue.load(credentials.certificate_pem)))
            audit.record(who=who, action="certs.enrol", outcome="done", target=target, reason=request.attestor)
        return credentials

    async def trust(request: Empty, who: str) -> SignedTrust:
        signed = await asyncio.to_thread(authority.signed_trust)
        if signed is None:
            raise unavailable("this instance of certs is about to renew its own identity")
        return signed

    def refused(who: str, error: StosError) -> None:
        audit.record(who=who, action="certs.enrol", outcome="refused", reason=error.message)

    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CONCURRENT_MAX)
    methods = {
        ENROL_METHOD: _method(EnrolRequest, enrol, "enrol", refused),
        TRUST_METHOD: _method(Empty, trust, "trust", refused),
    }
    server.add_generic_rpc_handlers((_generic(methods), _Elsewhere(refused)))
    address = f"{authority.settings.host}:{authority.settings.port}"
    try:
        server.add_secure_port(address, _credentials(own))
    except RuntimeError:
        raise precondition(
            f"can't listen on {address}: the address is in use or not ours",
            "stop the process that listens there, or set STOS_CERTS_PORT",
        ) from None
    await server.start()
    return server


def _credentials(own: Identity) -> Any:
    """Read from the directory again whenever it was renewed."""

    def configuration() -> Any:
        pair = ((own.directory / KEY).read_bytes(), (own.directory / CERT).read_bytes())
        return grpc.ssl_server_certificate_configuration([pair])

    shown = own.certificate

    def fetch() -> Any:
        nonlocal shown
        if own.certificate == shown:
            return None
        shown = own.certificate
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, False)


# ---- administration ----------------------------------------------------------------------------------


async def serve_admin(
    authority: Authority, administration: Administration, audit: Audit, changed: Callable[[], None]
) -> Any:
    """Listen on the Unix socket, for this user only. `changed` is called after what everybody is to be told."""
    who = f"socket/uid-{os.getuid()}"

    def method(verb: Verb) -> Any:
        async def act(request: Message, _: str) -> Message:
            try:
                done = await asyncio.to_thread(verb.act, administration, request)
            except StosError as error:
                if verb.privileged:
                    audit.record(
                        who=who,
                        action=f"certs.{verb.name}",
                        outcome="failed",
                        target=verb.target(request),
                        reason=error.message,
                    )
                raise
            if verb.privileged:
                audit.record(who=who, action=f"certs.{verb.name}", outcome="done", target=verb.target(request))
            if verb.changes:
                changed()
            return done

        return _method(verb.request, act, verb.name, lambda *_: None)

    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CONCURRENT_MAX)
    server.add_generic_rpc_handlers((_generic({admin_method(verb.name): method(verb) for verb in VERBS}),))
    path = authority.settings.socket_path
    private_directory(path.parent)
    path.unlink(missing_ok=True)  # left by a killed process; the instance's lock says that none is alive
    before = os.umask(0o177)  # the socket is born 0600
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise precondition(f"can't listen on the Unix socket {path}", "set STOS_CERTS_ADMIN_SOCKET") from None
    finally:
        os.umask(before)
    await server.start()
    return server
