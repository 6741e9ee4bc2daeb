"""From a finished TLS handshake to a link that is up: whose certificate it is, and the first word of each side.

    certificate ──> a node of this cluster, not revoked; who was dialled must be the one who answers
    HELLO       ──> WELCOME, or REFUSED and the end

The first word is no politeness: under TLS 1.3 a dialler has finished its handshake before the listener has looked
at the dialler's certificate, and would believe itself connected to somebody who is hanging up.

Whoever has shown a good certificate and says nothing costs a TLS connection. So at most `WAITING_MAX` may be silent
at a time, `WAITING_PER_PEER_MAX` of one peer; the oldest gives way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from services.replica.peers.frames import Frame, FrameError, Type, pack
from services.replica.peers.link import Link
from services.replica.peers.payloads import Greeting, Refused, unpack_greeting, unpack_refused
from stoscore.errors import StosError
from stoscore.spiffe import Peer, named

GREETING_S = 5.0
"""From the end of the TLS handshake until the other side has greeted."""
WAITING_MAX = 64
WAITING_PER_PEER_MAX = 4
_CODE_VERSION = 1
_CODE_IDENTITY = 2
"""x of a REFUSED that ends a link."""


class Proof(Protocol):
    def verified_peer(self, peer: Any) -> Peer:
        """Whose certificate it is. Raises StosError UNAUTHENTICATED: no identity of this cluster, or revoked."""


class Reception:
    """One node's. `come_up` is called for each link whose two sides have greeted."""

    def __init__(self, proof: Proof, greeting: Greeting, come_up: Callable[[Link, Greeting], None]) -> None:
        self._proof = proof
        self._greeting = greeting
        self._come_up = come_up
        self._waiting: dict[Link, str] = {}
        """Links that have not greeted, oldest first -> their peer."""

    def waiting(self) -> list[Link]:
        return list(self._waiting)

    def forget(self, link: Link) -> None:
        """The link has ended."""
        self._waiting.pop(link, None)

    def connected(self, link: Link, certificate: dict[str, Any]) -> None:
        """TLS is done."""
        try:
            peer = link.identity = self._proof.verified_peer(certificate)
        except StosError as error:
            link.identity = named(certificate)
            self.refuse(link, "identity", str(error))
            return
        if peer.kind != "node":
            self.refuse(link, "identity", f"its identity is {peer}, which is no node")
        elif not link.outgoing and peer.name == self._greeting.node:
            # A node's link to itself never leaves its process: whoever comes with our own identity has stolen it.
            self.refuse(link, "identity", "it comes with this node's own identity")
        elif link.outgoing and peer.name != link.peer:
            self.refuse(link, "identity", f"dialled {link.peer}, but {peer.name} answered")
        else:
            link.peer = peer.name
            self._wait(link)
            asyncio.get_running_loop().call_later(GREETING_S, self._is_late, link)
            if link.outgoing:
                self._say(link, Type.HELLO)

    def _wait(self, link: Link) -> None:
        self._waiting[link] = link.peer
        if link.outgoing:
            return
        own = [other for other, peer in self._waiting.items() if peer == link.peer and not other.outgoing]
        if len(own) > WAITING_PER_PEER_MAX:
            self.refuse(own[0], "timeout", f"gave way: {WAITING_PER_PEER_MAX} links of {link.peer} have not greeted")
        elif len(self._waiting) > WAITING_MAX:
            oldest = next(other for other in self._waiting if not other.outgoing)
            self.refuse(oldest, "timeout", f"gave way: {WAITING_MAX} links have not greeted")

    def _is_late(self, link: Link) -> None:
        if link.open and not link.up:
            self.refuse(link, "timeout", f"no greeting within {GREETING_S:g} s")

    def greeted(self, link: Link, frame: Frame) -> None:
        """The other side's first word."""
        if link.outgoing and frame.type == Type.REFUSED:
            link.close(f"refused by {link.peer}: {unpack_refused(frame.payload).message}")
            return
        expected = Type.WELCOME if link.outgoing else Type.HELLO
        try:
            if frame.type != expected:
                raise FrameError(f"its first frame is of type {frame.type} instead of {expected.name}")
            theirs = unpack_greeting(frame.payload)
        except FrameError as error:
            self.refuse(link, "frames", str(error))
            return
        wrong = self._what_is_wrong(link, theirs)
        if wrong is not None:
            self.refuse(link, *wrong)
            return
        self.forget(link)
        self._come_up(link, theirs)

    def welcome(self, link: Link) -> None:
        self._say(link, Type.WELCOME)

    def _say(self, link: Link, kind: Type) -> None:
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

    def refuse(self, link: Link, kind: str, reason: str) -> None:
        """Tell a dialler why before hanging up on it. What answers a dial wrongly is told nothing."""
        self.forget(link)
        if link.outgoing:
            link.close(reason, kind)
            return
        body = Refused(reason).pack()
        code = _CODE_VERSION if kind == "version" else _CODE_IDENTITY
        link.send(pack(Type.REFUSED, x=code, length=len(body)), body)
        link.finish(reason, kind)
