"""The two doors of certs: enrolment over TLS for newcomers, administration on a Unix socket.

Both speak gRPC with the bus's own JSON messages and answers, so that an error keeps its code, its sentence
and its next step. A newcomer has no certificate yet: the enrolment door asks for none, and shows one that
the join token lets the newcomer verify.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from services.certs.authority import Authority
from stoscore.enrolment import (
    ENROL_METHOD,
    ISSUE_TOKEN_METHOD,
    LIST_METHOD,
    EnrolRequest,
    IssuedList,
    IssuedToken,
    IssueToken,
)
from stoscore.envelope import decode_request, encode_error, encode_result
from stoscore.errors import Code, StosError, precondition
from stoscore.files import private_directory
from stoscore.identity import CERT, KEY, Identity
from stoscore.messages import Credentials, Empty, Message
from stoscore.telemetry import get_logger, span

M = TypeVar("M", bound=Message)
MESSAGE_BYTES_MAX = 64 * 1024
CONCURRENT_MAX = 64
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Without it a second process would listen on the same port and take half of the calls.
    ("grpc.so_reuseport", 0),
]

log = get_logger("certs")


def _method(kind: type[M], handler: Callable[[M], Awaitable[Message]], name: str) -> Any:
    """A unary method over bytes."""

    async def call(data: bytes, context: Any) -> bytes:
        with span(f"serve {name}"):
            try:
                return encode_result(await handler(decode_request(kind, data)))
            except StosError as error:
                log.warning("refused: %s", error.message, extra={"code": error.code.value, "method": name})
                return encode_error(error)
            except Exception:
                # The shell's edge: a bug in one handler must not end the service.
                log.exception("a call failed", extra={"method": name})
                return encode_error(StosError(Code.INTERNAL, f"internal error in {name}"))

    return grpc.unary_unary_rpc_method_handler(call)


def _generic(methods: dict[str, Any]) -> Any:
    """Handlers by full method name "/package.Service/Method", all of one service."""
    service = next(iter(methods)).split("/")[1]
    short = {name.rpartition("/")[2]: handler for name, handler in methods.items()}
    return grpc.method_handlers_generic_handler(service, short)


async def serve_enrolment(authority: Authority, own: Identity) -> Any:
    """Listen for newcomers. Raises StosError FAILED_PRECONDITION when the address is in use."""

    async def enrol(request: EnrolRequest) -> Credentials:
        return await authority.enrol(request)

    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CONCURRENT_MAX)
    server.add_generic_rpc_handlers((_generic({ENROL_METHOD: _method(EnrolRequest, enrol, "enrol")}),))
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

    shown = own.not_after

    def fetch() -> Any:
        nonlocal shown
        if own.not_after == shown:
            return None
        shown = own.not_after
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, False)


async def serve_admin(authority: Authority) -> Any:
    """Listen on the Unix socket, for this user only."""

    async def issue_token(request: IssueToken) -> IssuedToken:
        return IssuedToken(token=authority.make_token(request.kind, request.name, request.valid_s))

    async def listing(request: Empty) -> IssuedList:
        return _listing(authority)

    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CONCURRENT_MAX)
    methods = {
        ISSUE_TOKEN_METHOD: _method(IssueToken, issue_token, "issue-token"),
        LIST_METHOD: _method(Empty, listing, "list"),
    }
    server.add_generic_rpc_handlers((_generic(methods),))
    path = authority.settings.socket_path
    private_directory(path.parent)
    path.unlink(missing_ok=True)  # left by a killed process; the vault's lock says that none is alive
    before = os.umask(0o177)  # the socket is born 0600
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise precondition(f"can't listen on the Unix socket {path}", "set STOS_CERTS_ADMIN_SOCKET") from None
    finally:
        os.umask(before)
    await server.start()
    return server


def _listing(authority: Authority) -> IssuedList:
    now_s = int(authority.now().timestamp())
    unused = [t for t in authority.vault.tokens() if not t.used_by and now_s < t.expires_s]
    return IssuedList(
        cluster=authority.cluster,
        root_sha256=authority.root_sha256(),
        root_not_after=authority.root.certificate.not_valid_after_utc.isoformat(),
        issuer_not_after=authority.issuer().certificate.not_valid_after_utc.isoformat(),
        address=authority.settings.address,
        open_tokens=len(unused),
        identities=authority.vault.issued(),
    )
