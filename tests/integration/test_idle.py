"""What running nodes say to each other while nobody uses their volumes: beats, however many volumes they share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvloop

from services.replica.peers import Type
from services.replica.peers.link import Link
from services.replica.scrubber import Scrubber
from services.replica.scrubbing import Pace
from stoscore.units import GIB, MS, SECOND
from tests.support.living import kept_running
from tests.support.wired import LEASE_MS, Wired, wired

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
BEATS = {Type.BEAT, Type.BEAT_ANSWER}
COUNTED_S = 1.5
SETTLE_S = 60.0
LOOK_NS = 200 * MS
"""How often the scrub of these nodes looks whether there is anything to read: every minute in real ones."""


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[Type]]:
    """Frames by type, of all links in this process."""
    sent: Counter[Type] = Counter()
    real = Link.send

    def send(self: Link, *parts: bytes | memoryview) -> bool:
        sent[Type(parts[0][2])] += 1
        return real(self, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Link, "send", send)
        yield sent


@asynccontextmanager
async def scrubbed(wires: Wired) -> AsyncIterator[None]:
    pace = Pace(LOOK_NS, GIB)
    scrubbers = [
        Scrubber(node.shell, pace, node._pool, node.replicas._directory.parent) for node in wires.nodes.values()
    ]
    async with kept_running(*(scrubber.run() for scrubber in scrubbers)):
        yield


async def idle(sent: Counter[Type]) -> Counter[Type]:
    """What is said in a while, once all that the volumes' creation led to has been said."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            sent.clear()
            await asyncio.sleep(COUNTED_S)
            if not sent.keys() - BEATS - {Type.DIGEST, Type.DIGESTS}:
                return Counter(sent)


async def test_idle_volumes_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every minute each empty volume was compared with all its copies: of 300, most of what their nodes said."""
    async with wired(tmp_path, "n1", "n2", "n3") as wires:
        with counted(monkeypatch) as sent:
            said = {}
            for volumes in (1, 8):
                for _ in range(len(wires.nodes["n1"].node.volumes), volumes):
                    await wires.volume("n1", "n2", "n3")
                async with scrubbed(wires):
                    said[volumes] = await idle(sent)
            assert said[1].keys() == said[8].keys() == BEATS
            most = 3 * 2 * (COUNTED_S * SECOND / (LEASE_MS * MS / 10) + 2)
            assert all(said[volumes][Type.BEAT] <= most for volumes in said), said
