"""Two and more networks over real TLS on loopback, on uvloop: links come up, carry, end and come back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from services.replica.peers import Frame, Link, Type, pack
from services.replica.peers import link as link_module
from services.replica.peers.frames import CONSIDERED_BYTES, HEADER_BYTES
from stoscore.errors import Code, StosError
from stoscore.units import MIB
from tests.support.ca import TestAuthority
from tests.support.peers import Make, linked, peer_nodes, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with peer_nodes(TestAuthority(), tmp_path) as start:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        yield start


async def test_a_link_comes_up_between_two_nodes_and_carries_both_ways(make: Make) -> None:
    n1, n2 = await linked(make)
    assert n1.handler.events == ["up to n2"]
    assert n2.handler.events == ["up from n1"]
    assert n1.network.send("n2", pack(Type.WRITE, id=7, length=5), b"hello")
    await until(lambda: n1.handler.seen)
    assert n2.handler.seen == [("n1", Type.WRITE, 7, b"hello")]
    assert n1.handler.seen == [("n2", Type.ACK, 7, b"")]
    link = n1.handler.links["to n2"]
    assert link.bytes_sent > 93 and link.bytes_received > 88
    acknowledged, received = link.wire_bytes()
    assert acknowledged > link.bytes_sent and received > link.bytes_received
    assert link.local_port and link.remote == n2.address


async def test_what_one_wake_up_sends_arrives_in_order_and_together(make: Make) -> None:
    n1, n2 = await linked(make)
    for number in range(200):
        n1.network.send("n2", pack(Type.WRITE, id=number, length=100), bytes(100))
    await until(lambda: len(n1.handler.ids(Type.ACK)) == 200)
    assert n2.handler.ids(Type.WRITE) == list(range(200))
    assert n1.handler.ids(Type.ACK) == list(range(200))
    assert n2.handler.calls <= 8
    assert n1.handler.calls <= 8


async def test_parts_may_be_reused_at_once(make: Make) -> None:
    """Small, large and huge parts, each overwritten as soon as `send` has returned."""
    n1, n2 = await linked(make)
    sizes = [1, 4096, link_module.DIRECT_BYTES - 1, link_module.DIRECT_BYTES, 200_000, 3 * MIB, 4096] * 3
    expected = []
    for number, size in enumerate(sizes):
        body = bytearray(os.urandom(size))
        expected.append(bytes(body))
        assert n1.network.send("n2", pack(Type.IO_DATA, id=number, length=size), memoryview(body))
        body[:] = bytes(size)
    await until(lambda: len(n2.handler.seen) == len(sizes))
    assert [body for *_, body in n2.handler.seen] == expected


async def test_a_large_part_leaves_with_its_header_and_what_was_sent_before(make: Make) -> None:
    n1, _ = await linked(make)
    link = n1.network.outgoing("n2")
    assert link is not None
    assert link._write is not None
    write, written = link._write, list[list[int]]()

    def note(parts: list[bytes | memoryview]) -> None:
        written.append([len(part) for part in parts])
        write(parts)

    link._write = note
    n1.network.send("n2", pack(Type.BEAT))
    n1.network.send("n2", pack(Type.IO_DATA, length=100_000), bytes(100_000))
    assert written == [[2 * HEADER_BYTES, 100_000]]


async def test_a_payload_can_be_sent_on_from_the_receive_buffer(make: Make) -> None:
    n1, _ = await linked(make)
    bodies = [os.urandom(size) for size in (4096, 100_000, 2 * MIB, 64, 700_000)]
    for number, body in enumerate(bodies):
        n1.network.send("n2", pack(Type.COPY, id=number, length=len(body)), body)
    await until(lambda: len(n1.handler.seen) == len(bodies))
    assert [body for *_, body in n1.handler.seen] == bodies


async def test_the_largest_frame_passes(make: Make) -> None:
    n1, n2 = await linked(make)
    body = os.urandom(MIB) * 33
    n1.network.send("n2", pack(Type.IO_DATA, length=len(body)), body)
    await until(lambda: n2.handler.seen, within_s=20)
    assert n2.handler.seen[0][3] == body


async def test_a_restarted_peer_is_linked_again_and_told_apart(make: Make) -> None:
    n1, n2 = await linked(make)
    port = int(n2.address.rpartition(":")[2])
    await n2.network.stop()
    await until(lambda: not n1.network.connected("n2"))
    assert n1.network.send("n2", b"x") is False
    again = await make("n2", port=port)
    await until(lambda: n1.network.connected("n2"))
    assert n1.handler.events == ["up to n2", "down to n2", "up to n2"]
    await until(lambda: again.handler.events == ["up from n1"])


async def test_a_link_from_the_peer_ends_the_pause_before_dialling_it(make: Make) -> None:
    n1, n2 = await linked(make)
    port = int(n2.address.rpartition(":")[2])
    await n2.network.stop()
    await asyncio.sleep(1.7)
    again = await make("n2", port=port)
    again.network.dial("n1", n1.address)
    await until(lambda: "up from n2" in n1.handler.events)
    await until(lambda: n1.network.connected("n2"), within_s=0.3)


async def test_a_newer_link_of_the_same_node_drops_the_old_one_first(make: Make) -> None:
    n2 = await make("n2")
    first, second = await make("n1"), await make("n1")
    first.network.dial("n2", n2.address)
    await until(lambda: n2.handler.events == ["up from n1"])
    old = n2.handler.links["from n1"]
    second.network.dial("n2", n2.address)
    await until(lambda: len(n2.handler.events) >= 3)
    assert n2.handler.events[:3] == ["up from n1", "down from n1", "up from n1"]
    assert not old.open
    assert n2.handler.reasons[0] == "replaced by a newer link"


async def test_dial_is_idempotent_and_another_address_replaces(make: Make) -> None:
    n1, n2 = await linked(make)
    n1.network.dial("n2", n2.address)
    assert n1.network.connected("n2")
    await n2.network.stop()
    moved = await make("n2")
    n1.network.dial("n2", moved.address)
    await until(lambda: n1.network.connected("n2"))
    await until(lambda: moved.handler.events == ["up from n1"])
    n1.network.hang_up("n2")
    n1.network.hang_up("n2")
    assert not n1.network.connected("n2")
    await until(lambda: moved.handler.events == ["up from n1", "down from n1"])
    with pytest.raises(StosError):
        n1.network.dial("n2", "nowhere")


async def test_a_node_may_dial_itself(make: Make) -> None:
    n1 = await make("n1")
    n1.network.dial("n1", n1.address)
    await until(lambda: n1.network.connected("n1"))
    n1.network.send("n1", pack(Type.WRITE, id=1))
    await until(lambda: n1.handler.ids(Type.ACK) == [1])


async def test_frames_that_make_no_sense_end_the_link_and_nothing_else(make: Make) -> None:
    n1, n2 = await linked(make)
    n3 = await make("n3")
    n3.network.dial("n2", n2.address)
    await until(lambda: n3.network.connected("n2"))
    n1.network.send("n2", b"rubbish".ljust(88, b"!"))
    await until(lambda: n2.handler.reasons)
    assert "no frame of this protocol" in n2.handler.reasons[0]
    n1.network.hang_up("n2")
    assert n3.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n3.handler.ids(Type.ACK) == [1])


async def test_a_handler_may_refuse_a_payload(make: Make) -> None:
    n1, n2 = await linked(make)
    n1.network.send("n2", pack(Type.ZERO, z=0))
    await until(lambda: n2.handler.reasons)
    assert "impossible range" in n2.handler.reasons[0]


async def test_a_peer_that_reads_nothing_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PENDING_BYTES_MAX", 24 * MIB)
    n1, n2 = await linked(make)
    incoming = n2.handler.links["from n1"]
    assert incoming._transport is not None
    incoming._transport.pause_reading()
    link = n1.handler.links["to n2"]
    body = bytes(MIB)
    was_writable = link.writable
    sent = 0
    while n1.network.send("n2", pack(Type.IO_DATA, length=MIB), body) and sent < 400:
        sent += 1
        await asyncio.sleep(0)
    assert was_writable and not link.writable
    assert sent < 100
    assert "unread" in n1.handler.reasons[0]


async def test_writable_turns_true_again(make: Make) -> None:
    n1, n2 = await linked(make)
    incoming = n2.handler.links["from n1"]
    assert incoming._transport is not None
    incoming._transport.pause_reading()
    link = n1.handler.links["to n2"]
    resumed: list[Link] = []
    link.on_writable = resumed.append
    while link.writable:
        link.send(pack(Type.IO_DATA, length=MIB), bytes(MIB))
        await asyncio.sleep(0)
    assert link.pending_bytes > MIB
    incoming._transport.resume_reading()
    await until(lambda: resumed == [link])
    assert link.writable


async def test_a_port_in_use_stops_the_network_with_a_clear_word(make: Make) -> None:
    n1 = await make("n1")
    with pytest.raises(StosError) as caught:
        await make("n2", port=n1.port)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "in use" in str(caught.value)


# ---- turns -------------------------------------------------------------------------------------------


async def test_a_burst_is_handed_over_in_slices_whole_and_in_order(make: Make) -> None:
    n1, n2 = await linked(make)
    count = 20_000
    for number in range(count):
        n1.network.send("n2", pack(Type.IO_FLUSH, id=number))
    await until(lambda: len(n2.handler.seen) == count)
    assert n2.handler.ids(Type.IO_FLUSH) == list(range(count))
    assert n2.handler.calls >= count // link_module.SLICE_FRAMES


async def test_what_takes_thought_is_handed_over_a_few_frames_at_a_time(make: Make) -> None:
    """A node with a hundred volumes comes back: their hundred joins were one turn of 20 ms for everybody else."""
    n1, n2 = await linked(make)
    for number in range(100):
        n1.network.send("n2", pack(Type.JOIN, id=number))
    await until(lambda: len(n2.handler.seen) == 100)
    assert n2.handler.ids(Type.JOIN) == list(range(100))
    assert n2.handler.calls >= 100 // (link_module.SLICE_BYTES // CONSIDERED_BYTES)


async def test_others_have_their_turn_while_one_sends_without_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """n3 asks once while thousands of n1's frames wait: it is answered before they are through."""
    monkeypatch.setattr(link_module, "TURN_NS", 1)
    n1, n2 = await linked(make)
    n3 = await make("n3")
    n3.network.dial("n2", n2.address)
    await until(lambda: n3.network.connected("n2"))
    for number in range(50_000):
        n1.network.send("n2", pack(Type.IO_FLUSH, id=number))
    n3.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n3.handler.ids(Type.ACK) == [1])
    assert len(n2.handler.seen) < 50_001
    await until(lambda: len(n2.handler.seen) == 50_001)


async def test_the_last_words_of_a_peer_that_hangs_up_are_heard(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "TURN_NS", 1)
    n1, n2 = await linked(make)
    for number in range(3000):
        n1.network.send("n2", pack(Type.IO_FLUSH, id=number))
    n1.network.hang_up("n2")
    await until(lambda: "down from n1" in n2.handler.events)
    assert n2.handler.ids(Type.IO_FLUSH) == list(range(3000))


async def test_a_link_that_is_charged_too_much_rests_and_goes_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CHARGES_BURST", 100)
    monkeypatch.setattr(link_module, "CHARGES_PER_S", 1000)
    n1, n2 = await linked(make)
    handled = n2.handler.frames
    loop = asyncio.get_running_loop()

    def frames(link: Link, frames: list[Frame]) -> None:
        link.charge(len(frames))
        handled(link, frames)

    n2.handler.frames = frames  # type: ignore[method-assign]
    began = loop.time()
    for number in range(600):
        n1.network.send("n2", pack(Type.IO_FLUSH, id=number))
    await until(lambda: len(n2.handler.seen) == 600)
    # 100 at once and the rest in slices, each of which is paid for before the next: 256 ms at the least.
    assert loop.time() - began > 0.25
    assert n2.handler.ids(Type.IO_FLUSH) == list(range(600))


async def test_who_asks_and_does_not_read_gets_no_more_answers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a window of answers its questions wait, in its own memory, and none is lost."""
    monkeypatch.setattr(link_module, "ANSWERS_BYTES_MAX", 16 * MIB)
    n1, n2 = await linked(make)
    asker, answerer = n1.handler.links["to n2"], n2.handler.links["from n1"]
    assert asker._transport is not None
    asker._transport.pause_reading()
    body = bytes(MIB)
    highest = 0
    for number in range(80):
        asker.send(pack(Type.COPY, id=number, length=MIB), body)
        await asyncio.sleep(0.005)
        highest = max(highest, answerer.pending_bytes)
    assert 12 * MIB < highest < 24 * MIB
    asker._transport.resume_reading()
    await until(lambda: len(n1.handler.ids(Type.WRITE)) == 80)
    assert n1.handler.ids(Type.WRITE) == list(range(80))


async def test_a_fault_of_ours_ends_the_link_and_is_reported(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    n1, n2 = await linked(make)

    def frames(link: Link, frames: list[Frame]) -> None:
        raise ZeroDivisionError("a mistake")

    n2.handler.frames = frames  # type: ignore[method-assign]
    n1.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n2.handler.reasons)
    assert n2.handler.reasons == ["internal: ZeroDivisionError: a mistake"]
    del n2.handler.frames  # type: ignore[method-assign]
    await until(lambda: n1.network.connected("n2") and n2.handler.events.count("up from n1") == 2)
