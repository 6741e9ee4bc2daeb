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
from services.replica.peers import MANY_BLOCKS_MAX
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


async def test_a_read_is_followed_to_the_primary(wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord]) -> None:
    _, _, client = wires
    assert await client.read(0, 4 * KIB) == bytes(4 * KIB)
    (served,) = of(spans, "primary.read")
    (asked,) = of(spans, "io.read")
    assert (served.parent_id, served.trace_id) == (asked.span_id, asked.trace_id)


@pytest.mark.parametrize(
    ("asked", "served", "stored", "blocks"),
    [
        ("io.write", "primary.write", "store.write", MANY_BLOCKS_MAX + 1),
        ("io.trim", "primary.zero", "store.zero", 2),
        ("io.write_zeroes", "primary.zero", "store.zero", 2),
        ("io.flush", "primary.flush", "store.flush", None),
    ],
    ids=["a write too large to come with others", "trim", "zeros", "flush"],
)
async def test_whatever_changes_or_syncs_a_disk_is_followed_to_each_of_them(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord], asked: str, served: str, stored: str, blocks: int
) -> None:
    _, _, client = wires
    if asked == "io.write":
        await client.write(0, DATA * blocks)
    elif asked == "io.trim":
        await client.trim(0, 2 * BLOCK_BYTES)
    elif asked == "io.write_zeroes":
        await client.write_zeroes(0, 2 * BLOCK_BYTES)
    else:
        await client.flush()
    await until(lambda: len(of(spans, stored)) == 3)
    (root,), (primary,), copies = of(spans, asked), of(spans, served), of(spans, stored)
    assert {span.trace_id for span in (primary, *copies)} == {root.trace_id}
    assert (root.parent_id, primary.parent_id) == ("", root.span_id)
    assert {span.parent_id for span in copies} == {primary.span_id}
    assert [span.attributes.get("stos.blocks") for span in copies] == [blocks] * 3
    assert await client.read(0, BLOCK_BYTES) == (DATA if asked == "io.write" else bytes(BLOCK_BYTES))


async def test_many_flushes_are_followed_each_by_itself(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord]
) -> None:
    """They share syncs of the disk; each has waited for its own time."""
    _, _, client = wires
    await asyncio.gather(*(client.flush() for _ in range(5)))
    await until(lambda: len(of(spans, "store.flush")) == 15)
    served = {span.span_id: span for span in of(spans, "primary.flush")}
    assert len(served) == 5
    copies = of(spans, "store.flush")
    assert all(served[span.parent_id].trace_id == span.trace_id for span in copies)
    assert [sum(span.parent_id == name for span in copies) for name in served] == [3] * 5


async def test_nobody_is_followed_who_was_not_chosen(
    wires: tuple[Wired, str, NbdClient], spans: list[SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "ONE_IN", 1 << 62)
    monkeypatch.setattr(traced, "ONE_IN", 1 << 62)
    _, _, client = wires
    await client.write(0, DATA)
    assert await client.read(0, BLOCK_BYTES) == DATA
    assert spans == []
