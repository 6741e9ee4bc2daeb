"""The NBD server on TCP: TLS 1.3 and nothing else, both sides verified, for the clients that are named.

    TCP ──> "begin TLS" in the clear (`starttls`) ──> TLS 1.3 ──> is it one of the named? ──> an NBD connection

Who is let in is decided by the identity in the client's certificate; an address says nothing. A client that is named
no more, or revoked, is cut off at once. Who proves an identity of this cluster and is not named is told so, whatever it
asks, and soon hung up on; who proves none fails in the handshake.

Bounded so that it can't disturb the Unix socket beside it: few connections, little in flight for each, a small
crowd before the door.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from services.replica.nbd.client import REMOTE, Client, Door, RequestHandler
from services.replica.nbd.protocol import Export, NbdConnection
from services.replica.nbd.starttls import Prelude
from services.replica.tcp import join_address, listening_socket, split_address
from services.replica.tls_listener import CLIENTS, NewProtocol, TlsListener, TurnedAway
from services.replica.trail import Trail
from stoscore.errors import StosError
from stoscore.messages import RemoteExport, RemoteStatus
from stoscore.spiffe import Peer, named

RETRY_S = 5.0
"""An address that was there before a restart may come back later than this process."""
REFUSED_S = 5.0
REFUSED_MAX = 4
"""Clients that are not named and wait to be told so; further ones are hung up on at once."""


class RemoteIdentity(Protocol):
    """What is needed of `stoscore.identity.Identity`."""

    on_trust_change: list[Callable[[], None]]

    def server_context(self) -> ssl.SSLContext: ...
    def verified_peer(self, peer: Any) -> Peer: ...
    def check_peer(self, peer: Peer) -> None: ...


class RemoteDoor(Door):
    """One export's TCP port."""

    def __init__(
        self,
        export: Export,
        remote: RemoteExport,
        handler: RequestHandler,
        identity: RemoteIdentity,
        audit: Trail,
        logger: logging.Logger,
    ):
        super().__init__(export, REMOTE, handler, logger)
        self.identity = identity
        self.audit = audit
        self._remote = remote
        self._asked = self._address = remote.address
        self._error = ""
        self._listener: TlsListener | None = None
        self._trying: asyncio.Task[None] | None = None
        self._refused: dict[RemoteClient, None] = {}
        identity.on_trust_change.append(self._look_again)

    async def start(self) -> None:
        """Listen. Raises StosError when that can't be."""
        host, port = split_address(self._address, port_min=0)
        sock = await listening_socket(host, port, f"remote clients of {self.export.name}")
        self._address = join_address(host, sock.getsockname()[1])
        self._error = ""
        self._listener = TlsListener(sock, self.identity.server_context, self._begin_tls, self._stranger, crowd=CLIENTS)
        self.logger.info("%s is exported on %s", self.export.name, self._address)

    def start_when_possible(self) -> None:
        """As `start`, tried until it succeeds."""
        self._trying = asyncio.create_task(self._try(), name="nbd-remote")

    async def _try(self) -> None:
        while True:
            try:
                await self.start()
            except StosError as error:
                if error.message != self._error:
                    self._error = error.message
                    self.logger.error("%s is not exported yet: %s", self.export.name, error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def close(self) -> None:
        """Stop listening and drop every client after its replies so far. Idempotent."""
        if self._look_again in self.identity.on_trust_change:
            self.identity.on_trust_change.remove(self._look_again)
        if self._trying is not None:
            self._trying.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()
        for client in list(self._refused):
            client.cut_off()
        self.hang_up()
        await asyncio.sleep(0)

    def status(self) -> RemoteStatus:
        connected = sorted(str(client.peer) for client in self.clients if isinstance(client, RemoteClient))
        return RemoteStatus(address=self._address, clients=self._remote.clients, connected=connected, error=self._error)

    # --- who may ---

    @property
    def remote(self) -> RemoteExport:
        """As asked for, with the port that was taken."""
        return self._remote.model_copy(update={"address": self._address})

    def listens_on(self, address: str) -> bool:
        """It was asked for this address, or took it."""
        return self._listener is not None and address in (self._asked, self._address)

    def allow(self, clients: list[str]) -> None:
        """These from now on."""
        self._remote = self._remote.model_copy(update={"clients": clients})
        self._look_again()

    def _look_again(self) -> None:
        """Who would not be let in now is cut off."""
        for client in list(self.clients):
            assert isinstance(client, RemoteClient)
            assert client.peer is not None
            why = self._why_not(client.peer)
            if why:
                self.refuse(str(client.peer), "nbd.keep", why)
                client.cut_off()

    def judge(self, certificate: Any) -> tuple[Peer | None, str]:
        """(whom the certificate names, why it may not use the export or "")."""
        try:
            peer = self.identity.verified_peer(certificate)
        except StosError as error:
            return named(certificate), error.message
        return peer, self._why_not(peer)

    def _why_not(self, peer: Peer) -> str:
        try:
            self.identity.check_peer(peer)
        except StosError as error:
            return error.message
        return "" if str(peer) in self._remote.clients else "the export is not for this identity"

    def refuse(self, who: str, action: str, why: str) -> None:
        self.audit.record(who=who, action=action, outcome="refused", target=self.export.name, reason=why)

    def keep_refused(self, client: RemoteClient) -> bool:
        """For as long as it takes to tell it why. False: there is no room for that."""
        if len(self._refused) >= REFUSED_MAX:
            return False
        self._refused[client] = None
        asyncio.get_running_loop().call_later(REFUSED_S, client.cut_off)
        return True

    def forget_refused(self, client: RemoteClient) -> None:
        self._refused.pop(client, None)

    # --- connections ---

    async def _begin_tls(self, sock: socket.socket) -> NewProtocol:
        """What is said in the clear."""
        loop = asyncio.get_running_loop()
        prelude = Prelude()
        while True:
            for reply in prelude.replies:
                await loop.sock_sendall(sock, reply)
            prelude.replies.clear()
            if prelude.closed_because:
                raise TurnedAway("tls", prelude.closed_because)
            if prelude.secure:
                return partial(RemoteClient, self, prelude.zeroes)
            received = bytearray()
            while len(received) < prelude.wanted:
                more = await loop.sock_recv(sock, prelude.wanted - len(received))
                if not more:
                    raise TurnedAway("closed", "closed before TLS")
                received += more
            prelude.receive(bytes(received))

    def _stranger(self, host: str, kind: str, reason: str) -> None:
        self.refuse(host, "nbd.open", reason)


class RemoteClient(Client):
    """A connection whose certificate TLS has verified, and whose owner is now looked at."""

    def __init__(self, door: RemoteDoor, zeroes: bool):
        super().__init__(door, NbdConnection(door.export, secured=True, zeroes=zeroes))
        self._remote_door = door
        self.peer: Peer | None = None

    def _let_in(self, transport: asyncio.Transport) -> bool:
        door = self._remote_door
        self.peer, why = door.judge(transport.get_extra_info("peercert"))
        if not why:
            if not super()._let_in(transport):
                return False
            door.audit.record(who=str(self.peer), action="nbd.open", outcome="done", target=door.export.name)
            return True
        host = str(transport.get_extra_info("peername", ("",))[0])
        door.refuse(str(self.peer) if self.peer is not None else host, "nbd.open", why)
        self._nbd = NbdConnection(door.export, secured=True, refusal=why)
        return door.keep_refused(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._remote_door.forget_refused(self)
