"""The links of one node: every peer it dials, every peer that dialled it, and nobody else.

    dial(peer, address) -> Dialer -> outgoing link: requests go out on it, their answers come back on it
    TlsListener         -> incoming link of a peer: its requests come in, our answers go back
    dial(oneself)       -> both, within the process (`loopback`)

A link is up when both ends have proved their node by certificate (spiffe://<cluster>/node/<id>, TLS 1.3 both ways)
and confirmed it by HELLO and WELCOME (`reception`). Everything else that knocks is a stranger: closed, counted in
`strangers`, told to the audit. A link ends at once when its peer is revoked.

There is at most one incoming link a peer. A newer one first drops what is left of the old one (rule W5):
otherwise a request that is still in the old socket would be handled after the newer link's first request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from services.replica.peers.dialer import Dialer
from services.replica.peers.frames import Frame
from services.replica.peers.link import Link
from services.replica.peers.loopback import Loop
from services.replica.peers.payloads import PROTOCOL_VERSION, Greeting
from services.replica.peers.reception import Proof, Reception
from services.replica.tcp import join_address, listening_socket, split_address
from services.replica.tls_listener import PEERS, NewProtocol, TlsListener
from services.replica.trail import Trail
from stoscore.errors import StosError
from stoscore.spiffe import Peer

AGAIN_S = 1.0
"""A node's link to itself that ended, because a frame on it was impossible, is made again after this."""


class PeerIdentity(Proof, Protocol):
    """What a network needs to know of `stoscore.identity.Identity`. A context is asked for at every connection."""

    on_trust_change: list[Callable[[], None]]

    def check_peer(self, peer: Peer) -> None:
        """Raises StosError UNAUTHENTICATED when it has been revoked since."""

    def server_context(self) -> ssl.SSLContext: ...
    def client_context(self) -> ssl.SSLContext: ...


class PeerHandler(Protocol):
    """Who the frames are for. All calls come in the event loop's thread."""

    def frames(self, link: Link, frames: list[Frame]) -> None:
        """The next ones, in order. Payloads are valid only during the call. A FrameError (from `payloads`) ends the
        link and nothing else."""

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
        audit: Trail,
        logger: logging.Logger,
        protocol: int = PROTOCOL_VERSION,
    ) -> None:
        self._identity = identity
        self._node = node
        self._version = version
        self._dials_itself = False
        self._to_itself: tuple[Link, ...] = ()
        """Both ends, while they are up."""
        self._reception = Reception(identity, Greeting(node, cluster, version, protocol), self._come_up)
        self._host = host
        self._port = port
        self._handler = handler
        self._audit = audit
        self._log = logger
        self._listener: TlsListener | None = None
        self._dialers: dict[str, Dialer] = {}
        self._outgoing: dict[str, Link] = {}
        self._incoming: dict[str, Link] = {}
        self._complaints: dict[str, str] = {}
        """Per peer the last reason why dialling failed: the same one is not logged a second time."""
        self._filled: list[Link] = []
        self._loop: asyncio.AbstractEventLoop
        self.strangers: Counter[str] = Counter()
        """Connections turned away, by kind: certificate, tls, timeout, closed, pace, accept, identity, version,
        frames, revoked."""

    # --- life ---

    async def start(self) -> str:
        """Listen. Returns the address, with the port that was taken. Raises StosError when it can't."""
        self._loop = asyncio.get_running_loop()
        sock = await listening_socket(self._host, self._port, "peers")
        port = sock.getsockname()[1]
        self._listener = TlsListener(
            sock, self._identity.server_context, self._admitted, self._turned_away, crowd=PEERS
        )
        self._identity.on_trust_change.append(self.end_revoked)
        return join_address(self._host, port)

    async def stop(self) -> None:
        """Close everything; what was sent before still leaves."""
        if self._listener is not None:
            self._identity.on_trust_change.remove(self.end_revoked)
            await self._listener.stop()
            self._listener = None
        for peer in [*self._dialers, self._node]:
            self.hang_up(peer)
        for link in [*self._incoming.values(), *self._reception.waiting()]:
            link.finish("this node stops")
        await asyncio.sleep(0)

    def end_revoked(self) -> None:
        """The trust has changed: whoever would not be let in now is not kept either."""
        for link in [*self.links(), *self._reception.waiting()]:
            if link in self._to_itself:
                continue
            assert link.identity is not None
            try:
                self._identity.check_peer(link.identity)
            except StosError as error:
                if link.up:
                    self._refused(link.who, "link.keep", error.message)
                link.close(error.message, "revoked")

    # --- peers ---

    def dial(self, peer: str, address: str) -> None:
        """Keep a link to the peer. Idempotent; another address replaces the one before. Raises StosError when
        it is none."""
        split_address(address)
        if peer == self._node:
            if not self._dials_itself:
                self._dials_itself = True
                self._loop.call_soon(self._join_itself)
            return
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
        if peer == self._node and self._dials_itself:
            self._dials_itself = False
            for end in self._to_itself:
                end.finish("hung up")
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

    async def _admitted(self, sock: socket.socket) -> NewProtocol:
        """Nothing is said on a peer link before TLS."""
        return partial(Link, self, outgoing=False)

    def _outgoing_link(self, peer: str) -> Link:
        return Link(self, outgoing=True, peer=peer)

    def _join_itself(self) -> None:
        """Nobody has to prove who he is."""
        if not self._dials_itself or self._to_itself:
            return
        incoming, outgoing = Link(self, outgoing=False, peer=self._node), Link(self, outgoing=True, peer=self._node)
        self._to_itself = (incoming, outgoing)
        Loop.join(outgoing, incoming)
        for link in self._to_itself:
            self._enter(link, self._version)

    def link_connected(self, link: Link, certificate: dict[str, Any]) -> None:
        if link in self._to_itself:
            return
        self._reception.connected(link, certificate)

    def link_greeted(self, link: Link, greeting: Frame) -> None:
        self._reception.greeted(link, greeting)

    def link_received(self, link: Link, frames: list[Frame]) -> None:
        self._handler.frames(link, frames)

    def link_filled(self, link: Link) -> None:
        """One flush for all links at the end of the wake-up: everything that the same poll delivered, from
        whatever sockets, is answered together."""
        if not self._filled:
            self._loop.call_soon(self.flush_all)
        self._filled.append(link)

    def link_lost(self, link: Link, kind: str, reason: str, was_up: bool) -> None:
        self._reception.forget(link)
        table = self._outgoing if link.outgoing else self._incoming
        if table.get(link.peer) is link:
            del table[link.peer]
        if was_up:
            self._log.info("peer link down", extra=self._about(link, reason=reason))
            if kind == "frames":
                self._refused(link.who, "link.frame", reason)
            self._handler.link_down(link, reason)
        elif not link.outgoing:
            self._turned_away(link.who, kind, reason)
        elif kind == "identity" and self._complaints.get(link.peer) != reason:
            self._refused(link.who, "link.answer", reason, link.peer)
        if link in self._to_itself:
            self._to_itself = ()
            for end in (self._incoming.get(self._node), self._outgoing.get(self._node)):
                if end is not None:
                    end.close(reason)
            if self._dials_itself:
                self._loop.call_later(AGAIN_S, self._join_itself)
            return
        dialer = self._dialers.get(link.peer) if link.outgoing else None
        if dialer is not None:
            dialer.lost(link, reason, was_up)

    def _come_up(self, link: Link, theirs: Greeting) -> None:
        table = self._outgoing if link.outgoing else self._incoming
        before = table.get(link.peer)
        if before is not None:
            before.close("replaced by a newer link", "replaced")
        if link.outgoing:
            self._complaints.pop(link.peer, None)
        else:
            self._reception.welcome(link)
            dialer = self._dialers.get(link.peer)
            if dialer is not None:
                dialer.hurry()
        self._enter(link, theirs.version)

    def _enter(self, link: Link, version: str) -> None:
        table = self._outgoing if link.outgoing else self._incoming
        table[link.peer] = link
        link.greeted()
        self._log.info("peer link up", extra=self._about(link, peer_version=version))
        self._handler.link_up(link)

    # --- words to others ---

    def _turned_away(self, who: str, kind: str, reason: str) -> None:
        """`who`: the identity that it proved, or its address."""
        self.strangers[kind] += 1
        self._refused(who, "link.open", reason)

    def _refused(self, who: str, action: str, reason: str, target: str = "") -> None:
        self._audit.record(who=who, action=action, outcome="refused", target=target, reason=reason)

    def _dial_failed(self, peer: str, reason: str) -> None:
        if self._complaints.get(peer) != reason:
            self._complaints[peer] = reason
            self._log.warning("peer link failed", extra={"peer": peer, "reason": reason})

    def _about(self, link: Link, **more: str) -> dict[str, str]:
        direction = "outgoing" if link.outgoing else "incoming"
        return {"peer": link.peer, "direction": direction, "remote": link.remote, **more}
