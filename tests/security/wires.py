"""The cluster's wires as an attacker speaks them: TLS that checks nobody, raw NATS, raw frames of the peer links.

None of it uses our own clients, which would refuse to say what an attacker wants to say.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Self

from services.replica.peers import PROTOCOL_VERSION, Frame, FrameReader, Type, pack
from services.replica.peers.payloads import Greeting
from stoscore.identity import NATS_HOST_NAME
from stoscore.nkey import sign
from tests.security.scene import HOST, Scene

TIMEOUT_S = 8.0
GONE = (OSError, EOFError)
"""How a door that is shut shows: reset, alert, end of file, silence."""


def tls_context(identity: Path | None, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Believes every server; shows the identity's certificate if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if newest is not None:
        context.minimum_version = min(newest, ssl.TLSVersion.TLSv1_2)
        context.maximum_version = newest
        # Debian's own lowest level forbids old versions; the attacker's machine need not.
        context.set_ciphers("ALL:@SECLEVEL=0")
    if identity is not None:
        context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    return context


def dial(port: int) -> socket.socket:
    raw = socket.create_connection((HOST, port), TIMEOUT_S)
    raw.settimeout(TIMEOUT_S)
    return raw


def dial_tls(port: int, context: ssl.SSLContext, host: str = "x") -> ssl.SSLSocket:
    return context.wrap_socket(dial(port), server_hostname=host)


class RawNats:
    """One NATS connection that sends what it is told. Raises OSError or EOFError when it is not let in."""

    def __init__(self, scene: Scene, identity: Path | None, *, certificate: bool = True, credential: bool = True):
        """Shows only what it is told to show."""
        context = tls_context(identity if certificate else None)
        self._socket = dial_tls(scene.ports["nats"], context, NATS_HOST_NAME)
        self._buffer = b""
        self.messages: list[tuple[str, str, bytes]] = []
        """(subject, reply, payload) of what arrived."""
        self.errors: list[str] = []
        self._inboxes: list[str] = []
        info = json.loads(self._line().removeprefix("INFO "))
        said: dict[str, Any] = {"verbose": False, "pedantic": False, "lang": "raw", "version": "0", "protocol": 1}
        said |= {"headers": True, "no_responders": True, "name": "attacker"}
        if credential and identity is not None and "nonce" in info:
            seed = (identity / "nats.seed").read_bytes().strip()
            signature = base64.urlsafe_b64encode(sign(seed, info["nonce"].encode())).decode().rstrip("=")
            said |= {"jwt": (identity / "nats.jwt").read_text().strip(), "sig": signature}
        self._say(f"CONNECT {json.dumps(said)}\r\n".encode())
        self.flush()

    def _say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _fill(self) -> None:
        data = self._socket.recv(65_536)
        if not data:
            raise EOFError(f"the server hung up: {self.errors}")
        self._buffer += data

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            self._fill()
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode("utf-8", "replace")

    def _payload(self, size: int) -> bytes:
        while len(self._buffer) < size + 2:
            self._fill()
        payload, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
        return payload

    def _one(self) -> str:
        """Handles one thing that the server said; returns its verb."""
        words = self._line().split(" ")
        verb = words[0].upper()
        if verb == "PING":
            self._say(b"PONG\r\n")
        elif verb == "-ERR":
            self.errors.append(" ".join(words[1:]).strip("'"))
        elif verb == "MSG":
            payload = self._payload(int(words[-1]))
            self.messages.append((words[1], words[3] if len(words) == 5 else "", payload))
        elif verb == "HMSG":
            headers, size = int(words[-2]), int(words[-1])
            payload = self._payload(size)[headers:]
            self.messages.append((words[1], words[3] if len(words) == 6 else "", payload))
        return verb

    def flush(self) -> None:
        """Everything before has reached the server, and what it had to say has arrived."""
        self._say(b"PING\r\n")
        while self._one() != "PONG":
            pass

    def listen(self, seconds: float, enough: int = 1) -> list[tuple[str, str, bytes]]:
        """What arrives until there is `enough` or the time is over."""
        end = time.monotonic() + seconds
        while len(self.messages) < enough and (left := end - time.monotonic()) > 0:
            if self._buffer or self._socket.pending() or select.select([self._socket], [], [], left)[0]:
                self._one()
        return self.messages

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        to = f"{subject} {reply}".strip()
        if headers is None:
            self._say(f"PUB {to} {len(payload)}\r\n".encode() + payload + b"\r\n")
            return
        head = ("NATS/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n").encode()
        self._say(f"HPUB {to} {len(head)} {len(head) + len(payload)}\r\n".encode() + head + payload + b"\r\n")

    def publish_all(self, messages: list[tuple[str, bytes]]) -> None:
        """Subject and payload of each, in one piece."""
        self._say(b"".join(b"PUB %s %d\r\n%s\r\n" % (to.encode(), len(data), data) for to, data in messages))

    def subscribe(self, subject: str, number: int = 1) -> None:
        self._say(f"SUB {subject} {number}\r\n".encode())

    def may_publish(self, subject: str, payload: bytes = b"{}") -> bool:
        return self._allowed(lambda: self.publish(subject, payload))

    def may_subscribe(self, subject: str, number: int = 1) -> bool:
        return self._allowed(lambda: self.subscribe(subject, number))

    def _allowed(self, act: Any) -> bool:
        before = len(self.errors)
        act()
        self.flush()
        return len(self.errors) == before

    def request(self, subject: str, payload: bytes, inbox: str, seconds: float = TIMEOUT_S) -> bytes:
        """The first answer, b"" when none comes: it arrives below the reply subject, in its sender's name, and the
        word that nobody listens at the reply subject itself."""
        # Never the same twice: an answer that is remembered would be given again.
        reply = f"{inbox}.{os.urandom(8).hex()}"
        before = len(self.messages)
        if inbox not in self._inboxes:
            self._inboxes.append(inbox)
            self.subscribe(f"{inbox}.>", 1000 + len(self._inboxes))
        refused = len(self.errors)
        self.publish(subject, payload, reply)
        self.flush()
        if len(self.errors) > refused:
            return b""
        for subject, _, data in self.listen(seconds, before + 1)[before:]:
            if subject.startswith(reply):
                return data
        return b""

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawLink:
    """One peer link, greeted: made means let in. Raises OSError or EOFError otherwise."""

    def __init__(self, scene: Scene, to: str, identity: Path | None, name: str):
        """`name`: who it says it is."""
        self._socket = dial_tls(scene.ports[to], tls_context(identity), to)
        self._reader = FrameReader()
        self._frames: list[tuple[Frame, bytes]] = []
        body = Greeting(name, scene.cluster, "0", PROTOCOL_VERSION).pack()
        self.send(pack(Type.HELLO, length=len(body)) + body)
        first, payload = self.receive()
        if first.type != Type.WELCOME:
            raise EOFError(f"refused: {payload[:300]!r}")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, seconds: float = TIMEOUT_S) -> tuple[Frame, bytes]:
        """The next frame with its payload. Raises EOFError at the link's end, TimeoutError."""
        self._socket.settimeout(seconds)
        while not self._frames:
            data = self._socket.recv(65_536)
            if not data:
                raise EOFError("the link was closed")
            room = self._reader.get_buffer()
            for start in range(0, len(data), len(room)):
                part = data[start : start + len(room)]
                self._reader.get_buffer()[: len(part)] = part
                self._frames += [(frame, bytes(frame.payload)) for frame in self._reader.received(len(part))]
        return self._frames.pop(0)

    def answer(self, kinds: set[Type], seconds: float = 2.0) -> tuple[Frame, bytes] | None:
        """The next frame of one of these kinds; None when the link ends or stays silent first."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                frame, payload = self.receive(left)
                if frame.type in kinds:
                    return frame, payload
        except GONE:
            return None
        return None

    def is_open(self, seconds: float = 0.5) -> bool:
        """Nobody closes it for that long."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self.receive(left)
        except TimeoutError:
            return True
        except GONE:
            return False
        return True

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
