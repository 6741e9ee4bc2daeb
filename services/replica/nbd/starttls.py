"""What an NBD server on TCP says in the clear, without I/O: nothing but "begin TLS" (the specification's FORCEDTLS).

    greeting ──> client flags ──> STARTTLS   ──> ACK; the rest is TLS
                                  ABORT      ──> ACK, and the end
                                  any other  ──> ERR_TLS_REQD

Bytes are asked for exactly (`wanted`), so that nothing which was sent before TLS can be read as if it had come
through it: what an attacker puts behind a victim's STARTTLS becomes part of the handshake and breaks it. Nothing of
what is said here is carried over but whether the client wants 124 zeroes in an old reply.
"""

from __future__ import annotations

from collections.abc import Callable

from services.replica.nbd import wire
from services.replica.nbd.wire import HandshakeFlag, Option, Reply

OPTIONS_MAX = 16
"""Before TLS; a client that goes on haggling is cut off."""


class Prelude:
    """One connection before TLS. `replies` are taken (and emptied) by the owner of the socket."""

    def __init__(self) -> None:
        self.replies: list[bytes] = [wire.greeting()]
        self.wanted = wire.CLIENT_FLAGS.size
        """Bytes of the next step; 0 when there is none."""
        self.secure = False
        """The client has been told to begin TLS."""
        self.closed_because = ""
        self.zeroes = True
        self._step: Callable[[bytes], None] = self._client_flags
        self._options = 0
        self._option = 0

    def receive(self, data: bytes) -> None:
        """Exactly `wanted` bytes."""
        assert len(data) == self.wanted
        self._step(data)

    def _client_flags(self, data: bytes) -> None:
        flags: int = wire.CLIENT_FLAGS.unpack(data)[0]
        if flags & ~int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES):
            self._close(f"unknown client flags {flags:#x}")
        elif not flags & HandshakeFlag.FIXED_NEWSTYLE:
            self._close("a client that knows no fixed newstyle negotiation can't begin TLS")
        else:
            self.zeroes = not flags & HandshakeFlag.NO_ZEROES
            self._next(self._header, wire.OPTION.size)

    def _header(self, data: bytes) -> None:
        magic, self._option, length = wire.OPTION.unpack(data)
        self._options += 1
        if magic != wire.IHAVEOPT:
            self._close(f"bad option magic {magic:#x}")
        elif length > wire.OPTION_BYTES_MAX:
            self._close(f"option {self._option} with {length} bytes of data")
        elif self._options > OPTIONS_MAX:
            self._close("too many options before TLS")
        elif length:
            self._next(self._data, length)
        else:
            self._haggle(b"")

    def _data(self, data: bytes) -> None:
        self._haggle(data)

    def _haggle(self, data: bytes) -> None:
        self._next(self._header, wire.OPTION.size)
        if self._option == Option.EXPORT_NAME:
            # This option has no way to say no but to hang up.
            self._close("it asks for an export without TLS")
        elif self._option == Option.ABORT:
            self._reply(Reply.ACK)
            self._close("the client gave up the negotiation")
        elif self._option != Option.STARTTLS:
            self._reply(Reply.ERR_TLS_REQD, "this server speaks TLS only")
        elif data:
            self._reply(Reply.ERR_INVALID, "this option takes no data")
        else:
            self._reply(Reply.ACK)
            self.secure = True
            self.wanted = 0

    def _reply(self, reply: Reply, message: str = "") -> None:
        self.replies.append(wire.option_reply(self._option, reply, message.encode()))

    def _next(self, step: Callable[[bytes], None], wanted: int) -> None:
        self._step = step
        self.wanted = wanted

    def _close(self, reason: str) -> None:
        self.closed_because = reason
        self.wanted = 0
