"""What the thief of a node's identity can do with it that needs more than one word on a wire."""

from __future__ import annotations

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

from services.replica.brain import Stamp, Voter
from services.replica.brain import messages as ms
from services.replica.peers import PROTOCOL_VERSION, FrameReader, Type, pack
from services.replica.peers.payloads import Greeting
from tests.security.attacks.nats import answer_of
from tests.security.scene import HOST, Outcome, Scene
from tests.security.wires import GONE, RawLink, RawNats

PROMISE_NS = 500_000_000
WAIT_S = 15.0
CROWD = 120
"""More than a door lets wait, fewer than files that a process may have open."""
CROWD_S = 3.5
"""Less than a door's patience with one of them."""
JOINS, JOINS_TAKE_S = 10_000, 96.0
"""A link may ask for 5000 things a second, and a join counts for fifty."""
WORDS, WORDS_AT_ONCE, WORDS_PER_S = 8000, 1000, 100
"""How many we say; how many one node may say over the bus at once, and in each second, of what is not its business."""
HEARD_WITHIN_S, ALL_HEARD_WITHIN_S = 10.0, 40.0
REFUSED_WITHIN_S = 10.0


def receive_a_copys_writes(scene: Scene, identity: Path | None, name: str, volume: str, marker: str) -> Outcome:
    """Pose as the node's copy of a volume that it holds: announce another address for the node, take the primary's
    link there, and join. Won when a write with the marker arrives, which somebody writes meanwhile."""
    assert identity is not None
    with socket.create_server((HOST, 0)) as server:
        address = f"{HOST}:{server.getsockname()[1]}"
        with RawNats(scene, identity) as nats:
            entry = json.dumps({"v": 1, "node": name, "zone": "z", "address": address})
            told = str(answer_of(nats, "stos.v1.catalogue.announce", entry, ("node", "node", name)))
        arrived = Event()
        server.settimeout(0.2)
        end = time.monotonic() + WAIT_S
        with ThreadPoolExecutor(64) as pool:
            while time.monotonic() < end and not arrived.is_set():
                with suppress(TimeoutError):
                    raw, _ = server.accept()
                    pool.submit(_answer, scene, identity, raw, name, volume, marker.encode(), arrived)
            won = arrived.is_set()
            arrived.set()  # the other links end too
    return Outcome(won, told)


def _answer(
    scene: Scene, identity: Path, raw: socket.socket, name: str, volume: str, marker: bytes, arrived: Event
) -> None:
    with suppress(*GONE), _server_context(identity).wrap_socket(raw, server_side=True) as link:
        _follow(scene, identity, link, name, volume, marker, arrived)


def _server_context(identity: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    return context


def _follow(
    scene: Scene, identity: Path, link: ssl.SSLSocket, name: str, volume: str, marker: bytes, arrived: Event
) -> None:
    """Answer whoever dialled as the copy would, until a write with the marker comes."""
    record = scene.records[volume]
    primary = record["primary"]["node"]
    head = {
        "volume": bytes.fromhex(record["volume"]),
        "sender": int(scene.incarnation(volume, name), 16),
        "target": int(scene.incarnation(volume, primary), 16),
        "generation": record["generation"],
        "epoch": record["epoch"],
    }
    reader = FrameReader()
    back: RawLink | None = None
    link.settimeout(0.2)
    while not arrived.is_set():
        try:
            data = link.recv(16_384)
        except TimeoutError:
            continue
        if not data:
            return
        reader.get_buffer()[: len(data)] = data
        for frame in reader.received(len(data)):
            if frame.type == Type.HELLO:
                body = Greeting(name, scene.cluster, "0", PROTOCOL_VERSION).pack()
                link.sendall(pack(Type.WELCOME, length=len(body)) + body)
                # What answers a beat goes the other way, on the link that we dial.
                back = RawLink(scene, json.loads(bytes(frame.payload))["node"], identity, name)
            elif frame.type == Type.BEAT and back is not None:
                back.send(pack(Type.BEAT_ANSWER, epoch=PROMISE_NS, id=frame.id, x=frame.x, y=frame.y))
            elif frame.type == Type.JOIN:
                link.sendall(pack(Type.JOINED, id=frame.id, **head))
            elif frame.type in (Type.WRITE, Type.COPY) and marker in bytes(frame.payload):
                arrived.set()


def _worth_reading(volume: str, name: str, to: str) -> bytes:
    """A brain's message without a fault: it has to be read to the end before anybody knows that it may not be said."""
    asked = ms.PreVote(volume, Voter(name, "f" * 16), Voter(to, "e" * 16), 9, Stamp(0, 8, 1))
    return ms.encode(asked)


def swamp_a_link(scene: Scene, identity: Path | None, to: str, name: str, seconds: float) -> Outcome:
    """As many small frames as the node takes, of every kind that costs it something. What comes back is not read."""
    told = next(iter(scene.records.values()))["volume"]
    volume, brain = bytes.fromhex(told), _worth_reading(told, name, to)
    lot = b"".join(
        (
            pack(Type.BEAT, id=1, x=2, y=3),
            pack(Type.OPEN, volume=volume, attach_epoch=9, id=1 << 50),
            pack(Type.JOIN, volume=volume, id=1),
            pack(Type.IO_READ, volume=volume, id=1, x=1, z=8192),
            pack(Type.BRAIN, volume=volume, length=len(brain)) + brain,
        )
    )
    sent = links = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with RawLink(scene, to, identity, name) as link:
                links += 1
                while time.monotonic() < end:
                    link.send(lot * 200)
                    sent += 1000
        except GONE:
            time.sleep(0.01)
    return Outcome(False, f"{sent} frames in {links} links")


def ask_behind_a_flood(scene: Scene, identity: Path | None, to: str, name: str, seconds: float) -> Outcome:
    """Joins, of which each costs the node a walk over thousands of entries, and behind them a question. Won when it is
    answered long before that many joins are allowed."""
    volume = bytes.fromhex(next(iter(scene.records.values()))["volume"])
    begun = time.monotonic()
    with RawLink(scene, to, identity, name) as link:
        for _ in range(100):
            link.send(pack(Type.JOIN, volume=volume, id=1) * (JOINS // 100))
        link.send(pack(Type.OPEN, volume=volume, attach_epoch=9, id=1 << 50))
        answered = link.answer({Type.REFUSED}, JOINS_TAKE_S / 6) is not None
    took_s = time.monotonic() - begun
    return Outcome(answered, f"behind {JOINS} joins {'an' if answered else 'no'} answer within {took_s:.1f} s")


def knock(scene: Scene, identity: Path | None, doors: list[str], seconds: float) -> Outcome:
    """Connections that begin a handshake and stop, as fast as they can be made, and at last a crowd at each door. Won
    when a door keeps most of its crowd waiting."""
    made = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for door in doors:
            with suppress(OSError), _begun(scene.ports[door]):
                made += 1
    waiting = {door: _crowd(scene.ports[door]) for door in doors}
    most = max(waiting, key=lambda door: waiting[door])
    return Outcome(waiting[most] > CROWD // 2, f"{made} connections; of {CROWD} at last {waiting[most]} wait at {most}")


def _begun(port: int) -> socket.socket:
    raw = socket.create_connection((HOST, port), 1)
    raw.sendall(b"\x16\x03\x01\x02\x00\x01")
    return raw


def _crowd(port: int) -> int:
    """How many of a crowd are still there when the door has had time to look at them, and still patience."""
    with ExitStack() as came:
        crowd = []
        for _ in range(CROWD):
            with suppress(OSError):
                crowd.append(came.enter_context(_begun(port)))
        end = time.monotonic() + CROWD_S
        while (stay := sum(map(_is_kept, crowd))) > CROWD // 2 and time.monotonic() < end:
            time.sleep(0.1)
        return stay


def _is_kept(raw: socket.socket) -> bool:
    raw.setblocking(False)
    try:
        return bool(raw.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def swamp_the_bus(
    scene: Scene, identity: Path | None, subject: str, payloads: list[str], who: list[str], seconds: float
) -> Outcome:
    """The same requests again and again, without waiting for an answer. Won when none of them is refused."""
    role, kind, name = who
    inbox = f"_INBOX.{kind}.{name}.flood"
    bodies = [payload.encode() for payload in payloads]
    sent = answered = refused = 0
    with RawNats(scene, identity) as nats:
        nats.subscribe(f"{inbox}.>", 1)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end + REFUSED_WITHIN_S and not (now > end and refused):
            if now < end:
                numbers = range(sent, sent + 500)
                to = f"{subject}.by.{role}.{name}"
                nats.publish_all([(f"{to} {inbox}.{number}", bodies[number % len(bodies)]) for number in numbers])
                sent += 500
            nats.listen(0.05)
            nats.flush()
            answered += len(nats.messages)
            refused += sum(b"RESOURCE_EXHAUSTED" in payload for _, _, payload in nats.messages)
            nats.messages.clear()
    return Outcome(answered > 0 and not refused, f"{sent} requests, {answered} answered, {refused} of them refused")


def tell_as_a_brain(scene: Scene, identity: Path | None, to: str, name: str, volume: str, seconds: float) -> Outcome:
    """A brain's question, as fast as it can be asked, by the bus. Won when more of them are answered than one node may
    say in that time."""
    volume_id = scene.volume(volume)
    subject, payload = f"stos.v1.vol.{volume_id}.brain", _worth_reading(volume_id, name, to)
    answered = sent = 0
    begun = time.monotonic()
    with RawNats(scene, identity) as nats:
        nats.subscribe(f"{subject}.{to}", 1)
        while (now := time.monotonic()) < begun + seconds or (answered < sent and nats.listen(HEARD_WITHIN_S)):
            if sent < WORDS:
                nats.publish_all([(f"{subject}.{name}", payload)] * 500)
                sent += 500
            nats.flush()
            answered += sum(b'"unknown"' in said for _, _, said in nats.messages)
            nats.messages.clear()
            if answered > _allowed(now - begun) or now > begun + ALL_HEARD_WITHIN_S:
                break
    took_s = time.monotonic() - begun
    return Outcome(answered > _allowed(took_s), f"{sent} questions, {answered} answered in {took_s:.1f} s")


def _allowed(seconds: float) -> float:
    return WORDS_AT_ONCE + WORDS_PER_S * (seconds + 1)


def outlive(scene: Scene, identity: Path | None, to: str, name: str, seconds: float, inside: str) -> Outcome:
    """Keep a link and a connection to NATS open; `inside`: a file that is made when both are. Won when either is still
    there after that time; `told` says when they ended."""
    with RawLink(scene, to, identity, name) as link, RawNats(scene, identity) as nats:
        Path(inside).touch()
        begun = time.monotonic()
        ended = {}
        while time.monotonic() < begun + seconds and len(ended) < 2:
            if "link" not in ended and not link.is_open(0.1):
                ended["link"] = round(time.monotonic() - begun, 1)
            try:
                nats.flush()
            except GONE:
                ended.setdefault("nats", round(time.monotonic() - begun, 1))
    return Outcome(len(ended) < 2, f"ended after {ended} s")
