"""The authority: whom it believes, what it signs, what it tells the NATS servers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.security.weakenings import weakening


@weakening
def open_templates() -> None:
    """Every role may say and hear everything on the bus."""
    from services.certs.roles import ROLES

    for name, role in list(ROLES.items()):
        ROLES[name] = replace(role, publish=(">",), subscribe=(">",))


@weakening
def revoke_no_credential() -> None:
    """The NATS servers are not told who was revoked."""
    from services.certs.authority import Authority

    Authority.nats_revocations = lambda self: {}  # type: ignore[method-assign]


@weakening
def take_tokens_again() -> None:
    from services.certs.attestors import join_token

    original = join_token.redeem

    def redeem(token: Any, secret: str, key: str, *rest: Any) -> Any:
        return original(token and replace(token, used_by=""), secret, key, *rest)

    join_token.redeem = redeem  # type: ignore[attr-defined]


@weakening
def take_any_secret() -> None:
    from services.certs.attestors import join_token

    def redeem(token: Any, secret: str, key: str, *rest: Any) -> Any:
        return replace(token, used_by=key)

    join_token.redeem = redeem  # type: ignore[attr-defined]


@weakening
def believe_requested_names() -> None:
    """The names of the signing request are signed as they are."""
    from cryptography import x509

    from services.certs import authority

    original = authority.Authority._sign

    def sign(self: Any, record: Any, claim: Any, role: str, csr_pem: str, *rest: Any) -> Any:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        _, _, kind, name = next(iter(names)).value.rsplit("/", 3)
        return original(self, record, replace(claim, kind=kind, name=name), role, csr_pem, *rest)

    authority.Authority._sign = sign  # type: ignore[method-assign]


@weakening
def believe_requested_keys() -> None:
    """Nobody asks whether the requester holds the key."""
    from cryptography import x509

    from services.certs import issue

    issue.requested_key = lambda csr_pem: x509.load_pem_x509_csr(csr_pem.encode()).public_key()  # type: ignore[assignment, return-value]


@weakening
def take_any_proof() -> None:
    from services.certs.attestors import certificate

    certificate.verify_signature = lambda *_: None  # type: ignore[attr-defined]


@weakening
def renew_the_revoked() -> None:
    from services.certs.authority import Authority

    Authority._check_admitted = lambda *_: None  # type: ignore[method-assign]


@weakening
def renew_the_expired() -> None:
    from services.certs import issue

    original = issue.check_issued

    def check(certificate: Any, issuers: Any, now: Any) -> None:
        original(certificate, issuers, certificate.not_valid_before_utc)

    issue.check_issued = check


@weakening
def renew_the_first_name() -> None:
    """Of a certificate with many names the first one counts."""
    from cryptography import x509

    from services.certs.attestors import certificate
    from stoscore import spiffe

    def first(shown: x509.Certificate) -> str:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return str(next(iter(names)).value)

    def owner(shown: x509.Certificate) -> spiffe.Peer:
        _, kind, name = spiffe.parse_uri(first(shown))
        return spiffe.Peer(kind, name, f"{shown.serial_number:x}", int(shown.not_valid_before_utc.timestamp()) + 300)

    certificate.certificate_uri = first  # type: ignore[attr-defined]
    certificate.owner = owner  # type: ignore[attr-defined]


@weakening
def read_requests_of_any_size() -> None:
    from services.certs import server

    server.OPTIONS[0] = ("grpc.max_receive_message_length", -1)


@weakening
def read_requests_loosely() -> None:
    import json

    from services.certs import server

    server.decode_request = lambda kind, data: kind.model_construct(**json.loads(data))  # type: ignore[attr-defined]


@weakening
def administer_at_the_door() -> None:
    """Both doors answer to all that either knows."""
    import grpc

    from services.certs import server

    original = server._generic
    handlers: list[Any] = []

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return next((found for one in handlers if (found := one.service(details)) is not None), None)

    def generic(methods: dict[str, Any]) -> Any:
        handlers.append(original(methods))
        return Everything()

    server._generic = generic


@weakening
def take_old_tls_at_the_door() -> None:
    from stoscore import host

    host.only_tls_1_3_for_grpc = lambda: None  # type: ignore[attr-defined]


@weakening
def open_the_door_plainly() -> None:
    """The door takes connections without TLS."""
    import grpc.aio

    from services.certs import server

    def plain(*arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        made.add_secure_port = lambda address, credentials: made.add_insecure_port(address)
        return made

    original = grpc.aio.server
    server.grpc.aio.server = plain
