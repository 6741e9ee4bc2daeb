"""Peer networks for tests: real TLS on loopback, a handler that remembers what it saw, a certificate authority."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.replica.peers import Frame, Link, PeerNetwork, Type, check_range, pack
from stoscore.identity import Identity
from tests.support.ca import TestAuthority
from tests.support.trail import HeardTrail

Make = Callable[..., Awaitable["PeerNode"]]


class Recorder:
    """A handler that keeps copies of what it sees and answers WRITE with ACK."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, bytes]] = []
        self.whole: list[Frame] = []
        self.calls = 0
        self.events: list[str] = []
        self.links: dict[str, Link] = {}
        self.reasons: list[str] = []

    def frames(self, link: Link, frames: list[Frame]) -> None:
        self.calls += 1
        for frame in frames:
            self.seen.append((link.peer, frame.type, frame.id, bytes(frame.payload)))
            self.whole.append(frame._replace(payload=memoryview(bytes(frame.payload))))
            if frame.type == Type.WRITE:
                link.send(pack(Type.ACK, id=frame.id))
            elif frame.type == Type.ZERO:
                check_range(frame)
            elif frame.type == Type.COPY:
                link.send(pack(Type.WRITE, id=frame.id, length=len(frame.payload)), frame.payload)

    def link_up(self, link: Link) -> None:
        self.events.append(f"up {'to' if link.outgoing else 'from'} {link.peer}")
        self.links[f"{'to' if link.outgoing else 'from'} {link.peer}"] = link

    def link_down(self, link: Link, reason: str) -> None:
        self.events.append(f"down {'to' if link.outgoing else 'from'} {link.peer}")
        self.reasons.append(reason)

    def ids(self, kind: Type) -> list[int]:
        return [number for _, type, number, _ in self.seen if type == kind]


@dataclass(slots=True)
class PeerNode:
    network: PeerNetwork
    handler: Recorder
    audit: HeardTrail
    identity: Identity
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@asynccontextmanager
async def peer_nodes(authority: TestAuthority, directory: Path) -> AsyncIterator[Make]:
    """`await make("n1")` is a listening network of that name; all are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            name: str,
            *,
            identity: Identity | None = None,
            protocol: int = 1,
            cluster: str = "stos",
            port: int = 0,
            handler: Recorder | None = None,
        ) -> PeerNode:
            handler, audit = handler or Recorder(), HeardTrail()
            identity = identity or authority.issue(directory, name)
            network = PeerNetwork(
                identity=identity,
                node=name,
                cluster=cluster,
                version="0.1.0",
                host="127.0.0.1",
                port=port,
                handler=handler,
                audit=audit,
                logger=logging.getLogger(f"test.peers.{name}"),
                protocol=protocol,
            )
            address = await network.start()
            stack.push_async_callback(network.stop)
            return PeerNode(network, handler, audit, identity, address)

        yield start


async def linked(make: Make) -> tuple[PeerNode, PeerNode]:
    """n1 has dialled n2."""
    n1, n2 = await make("n1"), await make("n2")
    n1.network.dial("n2", n2.address)
    await until(lambda: n1.network.connected("n2") and n2.handler.events)
    return n1, n2


async def until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
