"""One request in many is one trace through all nodes: the client's frontend, the primary, each copy's disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

from services.cli.trace_text import draw
from services.cli.waterfall import Told, arrange
from services.dev.nbd_client import NbdClient
from services.replica import traced
from services.replica.nbd import frontend
from stoscore import telemetry
from stoscore.spans import SpanRecord
from stoscore.units import BLOCK_BYTES, KIB
from tests.support.peers import until
from tests.support.wired import Wired, wired

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
DATA = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SpanRecord]]:
    """Of all nodes, which are one process here; every request is followed."""
    monkeypatch.setattr(frontend, "ONE_IN", 1)
    monkeypatch.setattr(traced, "ONE_IN", 1)
    monkeypatch.setattr(traced, "APART_NS", 0)
    found: list[SpanRecord] = []
    telemetry._sinks.append(found.append)
    yield found
    telemetry._sinks.remove(found.append)


@pytest.fixture
async def wires(tmp_path: Path) -> AsyncIterator[tuple[Wired, str, NbdClient]]:
    async with wired(tmp_path, "n1", "n2", "n3") as wires:
        volume = await wires.volume("n1", "n2", "n3")
        opened = await wires.open(volume, "n1")
        primary = wires.leader(volume).of(volume).primary
        assert primary is not None
        # A busy machine may have begun without one of them; then a write is not sent to it, but copied later.
        await until(lambda: [peer.phase for peer in primary.peers.values()] == ["live"] * 2)
        async with await NbdClient.connect(opened.socket, "vol") as client:
            yield wires, volume, client


def of(spans: list[SpanRecord], name: str) -> list[SpanRecord]:
    return [span for span in spans if span.name == name]


async def test_a_write_is_followed_to_every_copys_disk(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord]
) -> None:
    _, volume, client = wires
    await client.write(0, DATA)
    await until(lambda: len(of(spans, "store.write")) == 3)
    (asked,), (served,) = of(spans, "io.write"), of(spans, "primary.write")
    stored = of(spans, "store.write")
    assert {span.trace_id for span in (asked, served, *stored)} == {asked.trace_id}
    assert (asked.parent_id, served.parent_id) == ("", asked.span_id)
    assert {span.parent_id for span in stored} == {served.span_id}
    assert len({span.span_id for span in stored}) == 3
    assert {span.attributes["stos.volume"] for span in spans} == {volume}
    assert {span.attributes["stos.blocks"] for span in stored} == {1}
    text = "\n".join(draw(arrange(Told("node/n1", span) for span in spans if span.trace_id == asked.trace_id), 100))
    assert [text.count(name) for name in ("io.write", "primary.write", "store.write")] == [1, 1, 3]


async def test_requests_that_come_together_are_followed_as_one_of_them(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord]
) -> None:
    _, _, client = wires
    async with asyncio.TaskGroup() as group:
        for block in range(8):
            group.create_task(client.write(block * BLOCK_BYTES, DATA))
    await until(lambda: bool(of(spans, "store.write")) and len(of(spans, "store.write")) % 3 == 0)
    async with asyncio.TaskGroup() as group:
        for block in range(8):
            group.create_task(client.read(block * BLOCK_BYTES, BLOCK_BYTES))
    for kind in ("write", "read"):
        served = of(spans, f"primary.{kind}")
        asked = {span.span_id: span for span in of(spans, f"io.{kind}")}
        assert served
        assert all(asked[span.parent_id].trace_id == span.trace_id for span in served)


@pytest.mark.parametrize("kind", ["read", "flush", "zero"])
async def test_other_requests_are_followed_to_the_primary(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord], kind: str
) -> None:
    _, _, client = wires
    if kind == "read":
        assert await client.read(0, 4 * KIB) == bytes(4 * KIB)
    elif kind == "flush":
        await client.flush()
    else:
        await client.write_zeroes(0, 4 * KIB)
    (served,) = of(spans, f"primary.{kind}")
    (asked,) = (span for span in spans if span.name.startswith("io."))
    assert (served.parent_id, served.trace_id) == (asked.span_id, asked.trace_id)


async def test_a_write_larger_than_what_may_come_together_arrives_as_it_always_does(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord]
) -> None:
    _, _, client = wires
    large = DATA * 512
    await client.write(0, large)
    assert await client.read(0, len(large)) == large
    assert of(spans, "primary.write")
    assert len(of(spans, "store.write")) == 1, "the primary's own"


async def test_nobody_is_followed_who_was_not_chosen(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "ONE_IN", 1 << 62)
    monkeypatch.setattr(traced, "ONE_IN", 1 << 62)
    _, _, client = wires
    await client.write(0, DATA)
    assert await client.read(0, BLOCK_BYTES) == DATA
    assert spans == []
