"""Getting in at all: every door, with whatever the attacker has to show."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.security.scene import Outcome, Scene
from tests.security.wires import GONE, RawLink, RawNats, dial, dial_tls, tls_context

_SECRET = (b"", b"\x15")
"""Silence, or the first byte of a TLS alert: what a TLS server says to a stranger who speaks something else."""
_OPENERS = (
    b"",
    b"PING\r\n",
    b'CONNECT {"verbose":false}\r\nPING\r\n',
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    bytes.fromhex("5453") + bytes(86),
)
"""NATS, HTTP, HTTP/2 (gRPC), the peer protocol's first frame, and silence."""


def enter_nats(scene: Scene, identity: Path | None, certificate: bool = True, credential: bool = True) -> Outcome:
    """Won when the server takes our commands."""
    try:
        with RawNats(scene, identity, certificate=certificate, credential=credential) as nats:
            nats.flush()
            return Outcome(True, "the NATS server takes our commands")
    except GONE as error:
        return Outcome(False, repr(error))


def enter_link(scene: Scene, identity: Path | None, to: str, name: str, stay_s: float = 0.0) -> Outcome:
    """Won when the node welcomes us under that name, and keeps us for `stay_s`."""
    try:
        with RawLink(scene, to, identity, name) as link:
            if stay_s and not link.is_open(stay_s):
                return Outcome(False, "welcomed, then closed")
            return Outcome(True, f"{to} welcomed us as {name}")
    except GONE as error:
        return Outcome(False, repr(error))


def speak_plainly(scene: Scene, identity: Path | None, door: str) -> Outcome:
    """Won when somebody answers in plain text."""
    with ThreadPoolExecutor(len(_OPENERS)) as pool:
        answers = list(pool.map(lambda opener: _answer(scene.ports[door], opener), _OPENERS))
    plain = [f"{opener!r}: {said!r}" for opener, said in zip(_OPENERS, answers, strict=True) if said[:1] not in _SECRET]
    return Outcome(bool(plain), "; ".join(plain) or f"{answers}")


def _answer(port: int, opener: bytes) -> bytes:
    """What is said to it within a moment."""
    try:
        with dial(port) as raw:
            raw.settimeout(2)
            raw.sendall(opener)
            return raw.recv(100)
    except OSError:
        return b""


def downgrade(scene: Scene, identity: Path | None, door: str) -> Outcome:
    """Won when a handshake with an older TLS is finished and the other side does not hang up on it."""
    told = []
    for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1):
        try:
            with dial_tls(scene.ports[door], tls_context(identity, newest=newest)) as secured:
                # Unlike in TLS 1.3 the server has judged our certificate by now.
                return Outcome(True, f"{secured.version()} with {secured.cipher()}")
        except GONE as error:
            told.append(f"{newest.name}: {getattr(error, 'reason', '') or error}")
    return Outcome(False, ", ".join(told))


def come_without(scene: Scene, identity: Path | None, door: str) -> Outcome:
    """TLS without a certificate. Won when the door says anything but an alert: under TLS 1.3 the refusal comes
    with the first read."""
    try:
        with dial_tls(scene.ports[door], tls_context(None)) as secured:
            secured.settimeout(2)
            said = secured.recv(1000)
    except GONE as error:
        return Outcome(False, repr(error))
    return Outcome(bool(said), f"said {said[:80]!r}")


# ---- a volume that is exported by NBD over TLS --------------------------------------------------------

_OPTION_MAGIC, _REPLY_MAGIC, _REQUEST_MAGIC = 0x49484156454F5054, 0x3E889045565A9, 0x25609513
_EXPORT_NAME, _LIST, _STARTTLS, _INFO, _GO = 1, 3, 5, 6, 7
_ACK, _ERROR = 1, 1 << 31


def _exactly(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError("hung up")
        data += more
    return data


def _greet(stream: socket.socket) -> None:
    """The negotiation's first words (the NBD project's doc/proto.md)."""
    if _exactly(stream, 18)[:8] != b"NBDMAGIC":
        raise EOFError("no NBD")
    stream.sendall(struct.pack(">I", 3))


def _ask(stream: socket.socket, option: int, data: bytes = b"") -> int:
    """The last reply to an option; replies that only inform are passed over."""
    stream.sendall(struct.pack(">QII", _OPTION_MAGIC, option, len(data)) + data)
    while True:
        magic, _, reply, length = struct.unpack(">QIII", _exactly(stream, 20))
        assert magic == _REPLY_MAGIC
        _exactly(stream, length)
        if reply == _ACK or reply & _ERROR:
            return int(reply)


def _go(name: str) -> bytes:
    return struct.pack(">I", len(name)) + name.encode() + bytes(2)


@contextmanager
def _session(
    scene: Scene, identity: Path | None, name: str, *, old: bool = False
) -> Iterator[tuple[ssl.SSLSocket, str]]:
    """Over TLS, with why the export is refused, or "". Raises OSError or EOFError when it does not get as far."""
    context = tls_context(identity, newest=ssl.TLSVersion.TLSv1_2 if old else None)
    with dial(scene.ports["nbd"]) as raw:
        _greet(raw)
        if _ask(raw, _STARTTLS) != _ACK:
            raise EOFError("no TLS")
        with context.wrap_socket(raw, server_hostname="x") as secured:
            reply = _ask(secured, _GO, _go(name))
            yield secured, "" if reply == _ACK else f"refused: {reply & ~_ERROR}"


def _read_block(session: ssl.SSLSocket) -> bool:
    session.sendall(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, 0, 1, 0, 4096))
    head = _exactly(session, 16)
    if head[4:8] != bytes(4):
        return False
    _exactly(session, 4096)
    return True


def use_export(scene: Scene, identity: Path | None, name: str, old: bool = False) -> Outcome:
    """Won when a block of the volume arrives."""
    try:
        with _session(scene, identity, name, old=old) as (session, refused):
            return Outcome(not refused and _read_block(session), refused or "a block was read")
    except GONE as error:
        return Outcome(False, repr(error))


def use_export_plainly(scene: Scene, identity: Path | None, name: str, door: str = "nbd") -> Outcome:
    """Without TLS. Won when any question about the export is answered with anything but "begin TLS"."""
    told = []
    for option, data in ((_GO, _go(name)), (_INFO, _go(name)), (_LIST, b""), (_EXPORT_NAME, name.encode())):
        try:
            with dial(scene.ports[door]) as raw:
                _greet(raw)
                if option == _EXPORT_NAME:
                    raw.sendall(struct.pack(">QII", _OPTION_MAGIC, option, len(data)) + data)
                    _exactly(raw, 10)
                    return Outcome(True, "the export's size was told")
                reply = _ask(raw, option, data)
                if not reply & _ERROR:
                    return Outcome(True, f"option {option} was granted")
                told.append(f"option {option}: error {reply & ~_ERROR}")
        except GONE as error:
            told.append(f"option {option}: {error!r}")
    return Outcome(False, "; ".join(told))


# ---- to stay where one was let in ---------------------------------------------------------------------

STAY_S = 10.0
"""Many times what a revocation takes to get everywhere."""


def _outstay(is_there: Callable[[], bool], inside: str, revoked: str) -> Outcome:
    """`inside`: a file that tells that we are in; `revoked`: one that tells that we are revoked. Won when we are still
    in long after that."""
    Path(inside).touch()
    since = 0.0
    while not since or time.monotonic() < since + STAY_S:
        try:
            if not is_there():
                return Outcome(False, "it was ended")
        except GONE as error:
            return Outcome(False, repr(error))
        if not since and Path(revoked).exists():
            since = time.monotonic()
        time.sleep(0.05)
    return Outcome(True, f"still there {STAY_S:g} s after the revocation")


def outstay_link(scene: Scene, identity: Path | None, to: str, name: str, inside: str, revoked: str) -> Outcome:
    with RawLink(scene, to, identity, name) as link:
        return _outstay(lambda: link.is_open(0.1), inside, revoked)


def outstay_nats(scene: Scene, identity: Path | None, inside: str, revoked: str) -> Outcome:
    def is_there() -> bool:
        nats.flush()
        return True

    with RawNats(scene, identity) as nats:
        return _outstay(is_there, inside, revoked)


def outstay_export(scene: Scene, identity: Path | None, name: str, inside: str, revoked: str) -> Outcome:
    with _session(scene, identity, name) as (session, refused):
        assert not refused, refused
        return _outstay(lambda: _read_block(session), inside, revoked)
