"""The TLS contexts of one identity: TLS 1.3 only, both sides verified, always the newest certificate and trust.

A context can't be told to forget a root, so every change (a renewed certificate, a root that came or went) makes
new ones. Clients ask for the current context at each connection. A listening server may hold on to an old one:
each of its handshakes is moved to the current context before anything is shown or verified.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GRPC_SUITES = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256"
"""A cipher suite of TLS 1.2 that no key of ours can use."""


def only_tls_1_3_for_grpc() -> None:
    """gRPC lets nobody choose the lowest version. Its list of cipher suites is of the versions before 1.3, whose own
    can't be chosen: with a single one in it that needs an RSA key, every older handshake with us fails. To be called
    before gRPC is imported: it reads the variable then."""
    os.environ[GRPC_SUITES] = _RSA_ONLY


@dataclass(frozen=True, slots=True)
class Contexts:
    server: ssl.SSLContext
    client: ssl.SSLContext
    nats: ssl.SSLContext
    """A client that insists on the server's host name."""


def make_contexts(cert: Path, key: Path, roots_pem: str, current_server: Callable[[], ssl.SSLContext]) -> Contexts:
    """Raises OSError (ssl.SSLError is one) when the files do not make a pair."""

    def make(protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # Resumed sessions would carry an old certificate past its end.
        context.options |= ssl.OP_NO_TICKET
        context.load_cert_chain(cert, key)
        context.load_verify_locations(cadata=roots_pem)
        return context

    server, client, nats = make(ssl.PROTOCOL_TLS_SERVER), make(ssl.PROTOCOL_TLS_CLIENT), make(ssl.PROTOCOL_TLS_CLIENT)
    server.num_tickets = 0
    nats.check_hostname = True

    def move(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, begun: ssl.SSLContext) -> None:
        # OpenSSL calls this for every handshake, with or without a server name, before it chooses a certificate.
        now = current_server()
        if now is not begun:
            connection.context = now

    server.sni_callback = move
    return Contexts(server, client, nats)
