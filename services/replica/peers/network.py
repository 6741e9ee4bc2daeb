"""The links of one node: every peer it dials, every peer that dialled it, and nobody else.

    dial(peer, address) -> Dialer -> outgoing link: requests go out on it, their answers come back on it
    Listener            -> incoming link of a peer: its requests come in, our answers go back

A link is up when both ends have proved their node by certificate (spiffe://<cluster>/node/<id>, TLS 1.3
both ways) and confirmed it by HELLO and WELCOME. The confirmation is needed: under TLS 1.3 a dialler with a
foreign certificate believes itself connected until its first read. Everything else that knocks is a
stranger: closed, counted in `strangers`, one log line.

There is at most one incoming link a peer. A newer one first drops what is left of the old one (rule W5):
otherwise a request that is still in the old socket would be handled after the newer link's first request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from typing import Any, Protocol

from services.replica.peers.dialer import Dialer
from services.replica.peers.frames import Frame, FrameError, Type, pack
from services.replica.peers.link import Link
from services.replica.peers.listener import Listener
from services.replica.peers.payloads import (
    PROTOCOL_VERSION,
    Greeting,
    Refused,
    unpack_greeting,
    unpack_refused,
)
from services.replica.peers.sockets import join_address, listening_socket, split_address
from stoscore.errors import StosError
from stoscore.identity import parse_uri, peer_uri

GREETING_S = 5.0
"""From the end of the TLS handshake until the other side has greeted."""
_CODE_VERSION = 1
_CODE_IDENTITY = 2
"""x of a REFUSED that ends a link."""


class PeerIdentity(Protocol):
    """What a network needs to know of `stoscore.identity.Identity`."""

    @property
    def cluster(self) -> str: ...
    def server_context(self) -> ssl.SSLContext: ...
    def client_context(self) -> ssl.SSLContext: ...


class PeerHandler(Protocol):
    """Who the frames are for. All calls come in the event loop's thread."""

    def frames(self, link: Link, frames: list[Frame]) -> None:
        """All that one wake-up delivered, in order. Payloads are valid only during the call. A FrameError
        (from `payloads`) ends the link and nothing else."""

    def link_up(self, link: Link) -> None:
        """`link.peer` is reachable (outgoing) or will send requests (incoming)."""

    def link_down(self, link: Link, reason: str) -> None:
        """Follows each link_up exactly once; no frame of the link comes after it."""


class PeerNetwork:
    """One node's side of the peer protocol, version `protocol`."""

    def __init__(
        self,
        *,
        identity: PeerIdentity,
        node: str,
        cluster: str,
        version: str,
        host: str,
        port: int,
        handler: PeerHandler,
        logger: logging.Logger,
        protocol: int = PROTOCOL_VERSION,
    ) -> None:
        self._identity = identity
        self._greeting = Greeting(node, cluster, version, protocol)
        self._host = host
        self._port = port
        self._handler = handler
        self._log = logger
        self._listener: Listener | None = None
        self._dialers: dict[str, Dialer] = {}
        self._outgoing: dict[str, Link] = {}
        self._incoming: dict[str, Link] = {}
        self._complaints: dict[str, str] = {}
        """Per peer the last reason why dialling failed: the same one is not logged a second time."""
        self._filled: list[Link] = []
        self._flush_is_due = False
        self._loop: asyncio.AbstractEventLoop
        self.strangers: Counter[str] = Counter()
        """Connections turned away, by kind: certificate, tls, timeout, closed, identity, version, frames."""

    # --- life ---

    async def start(self) -> str:
        """Listen. Returns the address, with the port that was taken. Raises StosError when it can't."""
        self._loop = asyncio.get_running_loop()
        sock = await listening_socket(self._host, self._port)
        port = sock.getsockname()[1]
        self._listener = Listener(sock, self._identity.server_context, self._incoming_link, self._turned_away)
        return join_address(self._host, port)

    async def stop(self) -> None:
        """Close everything; what was sent before still leaves."""
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        for peer in list(self._dialers):
            self.hang_up(peer)
        for link in list(self._incoming.values()):
            link.finish("this node stops")
        await asyncio.sleep(0)

    # --- peers ---

    def dial(self, peer: str, address: str) -> None:
        """Keep a link to the peer. Idempotent; another address replaces the one before. Raises StosError when
        it is none."""
        split_address(address)
        before = self._dialers.get(peer)
        if before is not None:
            if before.address == address:
                return
            self.hang_up(peer)
        self._dialers[peer] = Dialer(
            peer, address, self._identity.client_context, self._outgoing_link, self._dial_failed
        )

    def hang_up(self, peer: str) -> None:
        """Drop the outgoing link and dial no more. Idempotent."""
        dialer = self._dialers.pop(peer, None)
        link = dialer.stop() if dialer is not None else None
        self._complaints.pop(peer, None)
        if link is not None:
            link.finish("hung up")

    def send(self, peer: str, *parts: bytes | memoryview) -> bool:
        """Queue a frame on the outgoing link. False, and nothing sent, when it is down."""
        link = self._outgoing.get(peer)
        return link is not None and link.send(*parts)

    def connected(self, peer: str) -> bool:
        """The outgoing link is up."""
        return peer in self._outgoing

    def outgoing(self, peer: str) -> Link | None:
        """The outgoing link while it is up: for flow control and counters."""
        return self._outgoing.get(peer)

    def links(self) -> list[Link]:
        """All links that are up, outgoing first, by peer."""
        return [table[peer] for table in (self._outgoing, self._incoming) for peer in sorted(table)]

    def flush_all(self) -> None:
        """Write what was sent on any link. Needed only by who can't wait for the end of the wake-up."""
        filled, self._filled = self._filled, []
        for link in filled:
            link.flush()

    # --- links' calls (LinkOwner) ---

    def _incoming_link(self) -> Link:
        return Link(self, outgoing=False)

    def _outgoing_link(self, peer: str) -> Link:
        return Link(self, outgoing=True, peer=peer)

    def link_connected(self, link: Link, certificate: dict[str, Any]) -> None:
        """The certificate says who it is; a dialled peer must be the one that was meant."""
        try:
            _, kind, name = parse_uri(peer_uri(certificate, self._greeting.cluster))
        except StosError as error:
            self._refuse(link, "identity", str(error))
            return
        if kind != "node":
            self._refuse(link, "identity", f"its identity is {kind}/{name}, which is no node")
        elif link.outgoing and name != link.peer:
            self._refuse(link, "identity", f"dialled {link.peer}, but {name} answered")
        else:
            link.peer = name
            self._loop.call_later(GREETING_S, self._greeting_is_late, link)
            if link.outgoing:
                self._greet(link, Type.HELLO)

    def link_greeted(self, link: Link, greeting: Frame) -> None:
        if link.outgoing and greeting.type == Type.REFUSED:
            link.close(f"refused by {link.peer}: {unpack_refused(greeting.payload).message}")
            return
        expected = Type.WELCOME if link.outgoing else Type.HELLO
        try:
            if greeting.type != expected:
                raise FrameError(f"its first frame is of type {greeting.type} instead of {expected.name}")
            theirs = unpack_greeting(greeting.payload)
        except FrameError as error:
            self._refuse(link, "frames", str(error))
            return
        wrong = self._what_is_wrong(link, theirs)
        if wrong is not None:
            self._refuse(link, *wrong)
        else:
            self._come_up(link, theirs)

    def link_received(self, link: Link, frames: list[Frame]) -> None:
        self._handler.frames(link, frames)

    def link_filled(self, link: Link) -> None:
        """One flush for all links at the end of the wake-up: everything that the same poll delivered, from
        whatever sockets, is answered together."""
        self._filled.append(link)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush_due)

    def link_lost(self, link: Link, kind: str, reason: str, was_up: bool) -> None:
        table = self._outgoing if link.outgoing else self._incoming
        if table.get(link.peer) is link:
            del table[link.peer]
        if was_up:
            self._log.info("peer link down", extra=self._about(link, reason=reason))
            self._handler.link_down(link, reason)
        elif not link.outgoing:
            self._turned_away(link.remote, kind, reason)
        dialer = self._dialers.get(link.peer) if link.outgoing else None
        if dialer is not None:
            dialer.lost(link, reason, was_up)

    # --- greeting ---

    def _greet(self, link: Link, kind: Type) -> None:
        body = self._greeting.pack()
        link.send(pack(kind, length=len(body)), body)

    def _what_is_wrong(self, link: Link, theirs: Greeting) -> tuple[str, str] | None:
        ours = self._greeting
        if theirs.protocol != ours.protocol:
            return "version", (
                f"{link.peer} ({theirs.version or 'unknown'}) speaks peer protocol {theirs.protocol}, "
                f"{ours.node} ({ours.version}) speaks {ours.protocol}: bring both to one version"
            )
        if theirs.node != link.peer:
            return "identity", f"it greets as {theirs.node!r} with the certificate of {link.peer!r}"
        if theirs.cluster != ours.cluster:
            return "identity", f"it greets as of cluster {theirs.cluster!r}, this is {ours.cluster!r}"
        return None

    def _come_up(self, link: Link, theirs: Greeting) -> None:
        table = self._outgoing if link.outgoing else self._incoming
        before = table.get(link.peer)
        if before is not None:
            before.close("replaced by a newer link", "replaced")
        table[link.peer] = link
        link.greeted()
        if link.outgoing:
            self._complaints.pop(link.peer, None)
        else:
            self._greet(link, Type.WELCOME)
            dialer = self._dialers.get(link.peer)
            if dialer is not None:
                dialer.hurry()
        self._log.info("peer link up", extra=self._about(link, peer_version=theirs.version))
        self._handler.link_up(link)

    def _refuse(self, link: Link, kind: str, reason: str) -> None:
        """Tell a dialler why before hanging up on it. What answers a dial wrongly is told nothing."""
        if link.outgoing:
            link.close(reason, kind)
            return
        body = Refused(reason).pack()
        code = _CODE_VERSION if kind == "version" else _CODE_IDENTITY
        link.send(pack(Type.REFUSED, x=code, length=len(body)), body)
        link.finish(reason, kind)

    def _greeting_is_late(self, link: Link) -> None:
        if link.open and not link.up:
            self._refuse(link, "timeout", f"no greeting within {GREETING_S:g} s")

    # --- words to the log ---

    def _turned_away(self, remote: str, kind: str, reason: str) -> None:
        self.strangers[kind] += 1
        self._log.warning(
            "peer connection refused",
            extra={"remote": remote, "kind": kind, "reason": reason, "refused": self.strangers.total()},
        )

    def _dial_failed(self, peer: str, reason: str) -> None:
        if self._complaints.get(peer) != reason:
            self._complaints[peer] = reason
            self._log.warning("peer link failed", extra={"peer": peer, "reason": reason})

    def _about(self, link: Link, **more: str) -> dict[str, str]:
        direction = "outgoing" if link.outgoing else "incoming"
        return {"peer": link.peer, "direction": direction, "remote": link.remote, **more}

    def _flush_due(self) -> None:
        self._flush_is_due = False
        self.flush_all()
