"""Who gets in at all: certificates, names, time, versions."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stoscore.errors import StosError
from stoscore.spiffe import Peer
from tests.security.weakenings import FOREIGN_ROOT, STRANGER, weakening

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h)"""


def _contexts_made(alter: Callable[[ssl.SSLContext], None], roots: Callable[[str], str] = lambda pem: pem) -> None:
    """Every TLS context of every identity is altered after it was made."""
    from stoscore import identity, tls

    original = tls.make_contexts

    def make(cert: Path, key: Path, roots_pem: str, current_server: Callable[[], ssl.SSLContext]) -> tls.Contexts:
        made = original(cert, key, roots(roots_pem), current_server)
        for context in (made.server, made.client, made.nats):
            alter(context)
        return made

    identity.make_contexts = make  # type: ignore[attr-defined]


@weakening
def admit_without_certificate() -> None:
    """Who shows no certificate is let in and believed to be the stranger's node."""

    def alter(context: ssl.SSLContext) -> None:
        if context.protocol == ssl.PROTOCOL_TLS_SERVER:
            context.verify_mode = ssl.CERT_OPTIONAL

    _contexts_made(alter)
    _believed(lambda verified, peer: verified(peer) if peer else Peer("node", STRANGER, "0"))


@weakening
def trust_a_foreign_root() -> None:
    foreign = Path(os.environ[FOREIGN_ROOT]).read_text("ascii")
    _contexts_made(lambda context: None, lambda pem: pem + foreign)


@weakening
def ignore_time() -> None:
    def alter(context: ssl.SSLContext) -> None:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)

    _contexts_made(alter)


@weakening
def ignore_revocation() -> None:
    from stoscore import identity

    identity.denial = lambda state, peer: None  # type: ignore[attr-defined]


@weakening
def take_old_tls() -> None:
    def alter(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2

    _contexts_made(alter)


@weakening
def speak_plainly() -> None:
    """Whoever does not begin with TLS is talked to without it."""
    import asyncio
    import socket

    from services.replica.tls_listener import TlsListener

    original = TlsListener._bring_in

    async def bring_in(self: TlsListener, sock: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(fileno=os.dup(sock.fileno())) as peeking:
            peeking.settimeout(5)
            first = await loop.run_in_executor(None, peeking.recv, 1, socket.MSG_PEEK)
        sock.setblocking(False)
        if first == b"\x16":
            await original(self, sock, host)
        else:
            await loop.connect_accepted_socket(await self._prelude(sock), sock)

    TlsListener._bring_in = bring_in  # type: ignore[method-assign]
    _believed(lambda verified, peer: verified(peer) if peer else Peer("node", STRANGER, "0"))


def _believed(believe: Callable[[Callable[[Any], Peer], Any], Peer]) -> None:
    """The doors of a node take this for whom a certificate names."""
    from services.replica.nbd.remote import RemoteDoor
    from services.replica.peers.reception import Reception

    class Proof:
        def __init__(self, proof: Any):
            self._proof = proof

        def __getattr__(self, name: str) -> Any:
            return getattr(self._proof, name)

        def verified_peer(self, peer: Any) -> Peer:
            return believe(self._proof.verified_peer, peer)

    for door, position in ((Reception, 0), (RemoteDoor, 3)):
        _begun_with(door, position, Proof)


def _begun_with(door: Any, position: int, wrap: Callable[[Any], Any]) -> None:
    """One of the arguments with which it is made is wrapped."""
    original = door.__init__

    def begin(self: Any, *arguments: Any) -> None:
        changed = list(arguments)
        changed[position] = wrap(changed[position])
        original(self, *changed)

    door.__init__ = begin


@weakening
def take_any_kind() -> None:
    """Any identity of the cluster counts as the node of that name."""
    _believed(lambda verified, peer: replace(verified(peer), kind="node"))


@weakening
def take_any_name() -> None:
    """Who it is, the greeting says, and not the certificate."""
    from services.replica.peers.reception import Reception

    def believe(self: Reception, link: Any, theirs: Any) -> None:
        if not link.outgoing:
            link.peer = theirs.node

    Reception._what_is_wrong = believe  # type: ignore[method-assign]


@weakening
def read_names_loosely() -> None:
    """A certificate with names that are nobody's is taken for the stranger's."""

    def believe(verified: Callable[[Any], Peer], peer: Any) -> Peer:
        try:
            return verified(peer)
        except StosError:
            return Peer("node", STRANGER, "0")

    _believed(believe)


@weakening
def export_to_anybody() -> None:
    """A volume is exported to whoever comes."""
    from services.replica.nbd.remote import RemoteDoor

    RemoteDoor._why_not = lambda self, peer: ""  # type: ignore[method-assign]


@weakening
def export_plainly() -> None:
    """A volume is exported without TLS."""
    import asyncio
    import socket

    from services.replica.nbd.client import Client
    from services.replica.nbd.protocol import NbdConnection
    from services.replica.tls_listener import CLIENTS, TlsListener

    original = TlsListener._bring_in

    async def bring_in(self: TlsListener, sock: socket.socket, host: str) -> None:
        if self._crowd is not CLIENTS:
            await original(self, sock, host)
            return
        door = self._prelude.__self__  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: Client(door, NbdConnection(door.export)), sock)

    TlsListener._bring_in = bring_in  # type: ignore[method-assign]


@weakening
def let_all_strangers_wait() -> None:
    """The doors of a node have room for everybody who begins a handshake."""
    from services.replica.tls_listener import Crowd, TlsListener

    original = TlsListener.__init__
    endless = 1 << 40

    def begin(self: TlsListener, *arguments: Any, crowd: Crowd) -> None:
        original(self, *arguments, crowd=Crowd(endless, endless, endless, endless))

    TlsListener.__init__ = begin  # type: ignore[method-assign,assignment]
