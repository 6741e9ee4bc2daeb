"""What the thief of a node's identity can do with it that needs more than one word on a wire."""

from __future__ import annotations

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

from services.replica.peers import PROTOCOL_VERSION, FrameReader, Type, pack
from services.replica.peers.payloads import Greeting
from tests.security.attacks.nats import answer_of
from tests.security.scene import HOST, Outcome, Scene
from tests.security.wires import GONE, RawLink, RawNats

PROMISE_NS = 500_000_000
WAIT_S = 15.0


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


def swamp_a_link(scene: Scene, identity: Path | None, to: str, name: str, seconds: float) -> Outcome:
    """As many small frames as the node takes, of every kind that costs it something."""
    volume = bytes.fromhex(next(iter(scene.records.values()))["volume"])
    brain = json.dumps({"kind": "vote", "junk": "x" * 500}).encode()
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
                    link.send(lot * 20)
                    sent += 100
        except GONE:
            time.sleep(0.01)
    return Outcome(True, f"{sent} frames in {links} links")


def knock(scene: Scene, identity: Path | None, doors: list[str], seconds: float) -> Outcome:
    """Connections that begin a handshake and stop, as fast as they can be made."""
    held: list[socket.socket] = []
    made = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for door in doors:
            try:
                raw = socket.create_connection((HOST, scene.ports[door]), 1)
                raw.sendall(b"\x16\x03\x01\x02\x00\x01")
            except OSError:
                continue
            made += 1
            held.append(raw)
        while len(held) > 200:
            held.pop(0).close()
    for raw in held:
        raw.close()
    return Outcome(True, f"{made} connections")


def swamp_the_bus(
    scene: Scene, identity: Path | None, subject: str, payloads: list[str], who: list[str], seconds: float
) -> Outcome:
    """The same requests again and again, without waiting for an answer."""
    role, kind, name = who
    inbox = f"_INBOX.{kind}.{name}.flood"
    bodies = [payload.encode() for payload in payloads]
    sent = connections = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with RawNats(scene, identity) as nats:
                connections += 1
                nats.subscribe(f"{inbox}.>", 1)
                while time.monotonic() < end:
                    for _ in range(100):
                        sent += 1
                        body = bodies[sent % len(bodies)]
                        nats.publish(f"{subject}.by.{role}.{name}", body, f"{inbox}.{sent}")
                    nats.flush()
                    nats.messages.clear()
        except GONE:
            time.sleep(0.05)
    return Outcome(True, f"{sent} requests in {connections} connections")


def tell_again_and_again(scene: Scene, identity: Path | None, subject: str, payload: str, seconds: float) -> Outcome:
    """A message that nobody asked for, as fast as it can be told."""
    sent = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with RawNats(scene, identity) as nats:
                while time.monotonic() < end:
                    for _ in range(100):
                        nats.publish(subject, payload.encode())
                        sent += 1
                    nats.flush()
        except GONE:
            time.sleep(0.05)
    return Outcome(True, f"{sent} messages")


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
