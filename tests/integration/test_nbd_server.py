"""The frontend with real NBD clients (libnbd's and qemu's programs, and a raw socket for what they never
send), in front of a primary that lives in this test and speaks the peer link's frames."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import uvloop

from services.replica.frontends import Frontends
from services.replica.nbd import Frontend
from services.replica.nbd.wire import Command, Errno, Option, Reply
from services.replica.peers import PeerNetwork
from services.replica.peers.frames import OPENED_FELT, OPENED_MANY, Type, pack
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.messages import OpenFrontend, VoterModel
from stoscore.units import MIB, SECOND
from tests.support.nbd import NAME, SIZE, VOLUME, Nodes, RawClient, run
from tests.support.trail import HeardTrail

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy.")


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop of the real service."""
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
async def frontend(tmp_path: Path, nodes: Nodes) -> AsyncIterator[Frontend]:
    path = tmp_path / "vol.sock"
    made = Frontend(VOLUME, "vol-1", SIZE, 3, {"n1": 1, "n2": 2}, path, nodes.send, nodes.up.__contains__)
    nodes.frontend = made
    await made.start()
    yield made
    await made.close()
    assert not path.exists()


def uri(frontend: Frontend, name: str = "vol-1") -> str:
    return f"nbd+unix:///{name}?socket={frontend.socket_path}"


# ---- real clients ---------------------------------------------------------------------------------------


async def test_nbdinfo_sees_the_volume(frontend: Frontend) -> None:
    code, output = await run("nbdinfo", "--json", uri(frontend))
    assert code == 0, output
    (export,) = json.loads(output)["exports"]
    assert (export["export-name"], export["export-size"]) == ("vol-1", SIZE)
    assert (export["block_size_minimum"], export["block_size_preferred"]) == (512, 4096)
    assert export["can_fua"] and export["can_flush"] and export["can_trim"] and export["can_zero"]
    assert export["can_multi_conn"] and export["can_cache"] and export["can_fast_zero"] and export["can_df"]
    assert not export["is_read_only"] and export["contexts"] == ["base:allocation"]
    code, output = await run("nbdinfo", "--list", uri(frontend, ""))
    assert code == 0 and 'export="vol-1"' in output, output


async def test_nbdinfo_maps_what_was_written(frontend: Frontend, nodes: Nodes) -> None:
    nodes.content[8 * MIB : 9 * MIB] = os.urandom(MIB)
    nodes.content[SIZE - 4096 :] = b"x" * 4096
    code, output = await run("nbdinfo", "--json", "--map", uri(frontend))
    assert code == 0, output
    assert [(extent["offset"], extent["length"], extent["type"]) for extent in json.loads(output)] == [
        (0, 8 * MIB, 3),
        (8 * MIB, MIB, 0),
        (9 * MIB, SIZE - 9 * MIB - 4096, 3),
        (SIZE - 4096, 4096, 0),
    ]


async def test_sectors_of_one_block_written_at_the_same_time_are_all_kept(frontend: Frontend, nodes: Nodes) -> None:
    """On two connections, across a failover between their reading and their writing."""
    clients = [await RawClient.connect(frontend.socket_path) for _ in range(2)]
    nodes.content[:8192] = before = os.urandom(8192)
    wanted = bytearray(before)
    held = nodes.held = []
    for sector in range(1, 16, 2):
        wanted[sector * 512 : sector * 512 + 512] = bytes([sector]) * 512
        clients[sector // 2 % 2].ask(Command.WRITE, sector * 512, 512, sector, bytes([sector]) * 512)
    async with asyncio.timeout(10):
        while frontend.status().in_flight < 8 or len(held) < 2:
            await asyncio.sleep(0.01)
        reads, held[:] = held[:], []
        assert [frame.type for _, frame in reads] == [Type.IO_READ] * 2, "one a block, the others wait for them"
        for read in reads:
            nodes.serve(*read)
        while len(held) < 2:
            await asyncio.sleep(0.01)
    assert [frame.type for _, frame in held] == [Type.IO_WRITE] * 2
    nodes.fail_over()
    for client in clients:
        for _ in range(4):
            assert (await client.reply())[0] == 0
        client.close()
    assert nodes.content[:8192] == wanted
    left = frontend._in_flight
    assert not left.patches and not left.writes and not left.contents


async def test_a_flush_on_one_connection_comes_after_the_answered_writes_of_another(
    frontend: Frontend, nodes: Nodes
) -> None:
    """The guarantee of CAN_MULTI_CONN: all connections are one session at one primary, in one stream of requests."""
    writer, flusher = [await RawClient.connect(frontend.socket_path) for _ in range(2)]
    writer.ask(Command.WRITE, 0, 4096, 1, b"w" * 4096)
    assert await writer.reply() == (0, 1)
    flusher.ask(Command.READ, 0, 4096, 2)
    assert await flusher.reply() == (0, 2)
    assert await flusher.read(4096) == b"w" * 4096
    seen = nodes.session.copy()
    flusher.ask(Command.FLUSH, 0, 0, 3)
    assert await flusher.reply() == (0, 3)
    assert nodes.flushes == 1 and nodes.session == seen
    for client in (writer, flusher):
        client.close()


async def test_nbdcopy_there_and_back(frontend: Frontend, nodes: Nodes, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(8 * MIB) + bytes(SIZE - 16 * MIB) + os.urandom(8 * MIB))
    code, output = await run("nbdcopy", "--flush", str(source), uri(frontend))
    assert code == 0, output
    assert nodes.flushes
    code, output = await run("nbdcopy", uri(frontend), str(back))
    assert code == 0, output
    assert back.read_bytes() == source.read_bytes() == nodes.content


async def test_qemu_io_writes_trims_and_verifies(frontend: Frontend, nodes: Nodes) -> None:
    commands = (
        "write -P 0x11 0 1M",
        "write -f -P 0x22 1M 64k",
        "write -z 8k 4k",
        "discard 16k 8k",
        "flush",
        "read -P 0x11 0 8k",
        "read -P 0 8k 4k",
        "read -P 0x11 12k 4k",
        "read -P 0x22 1M 64k",
        "aio_write -P 0x33 4M 32M",
        "aio_flush",
        "read -P 0x33 4M 32M",
        "write -P 0x44 5632 512",
        "write -P 0x55 45k 34k",
        "write -z 46k 512",
        "read -P 0x44 5632 512",
        "read -P 0x11 6k 2k",
        "read -P 0x55 45k 1k",
        "read -P 0 46k 512",
        "read -P 0x55 47616 30k",
    )
    arguments = [word for command in commands for word in ("-c", command)]
    code, output = await run("qemu-io", "-f", "raw", *arguments, uri(frontend))
    assert code == 0, output
    assert "failed" not in output and "error" not in output.lower()
    assert nodes.fua_writes and nodes.flushes
    assert nodes.content[16384 : 16384 + 8192] == bytes(8192)


async def test_qemu_img_formats_and_checks(frontend: Frontend) -> None:
    code, output = await run("qemu-img", "create", "-f", "qcow2", uri(frontend), "16M")
    assert code == 0, output
    code, output = await run("qemu-img", "check", "-f", "qcow2", uri(frontend))
    assert code == 0, output


async def test_an_unknown_export_is_a_clear_error(frontend: Frontend) -> None:
    code, output = await run("nbdinfo", uri(frontend, "nothing"))
    assert code != 0
    assert "vol-1" in output or "nothing" in output
    code, _ = await run("nbdinfo", "--size", uri(frontend))
    assert code == 0


async def test_a_failover_is_a_pause_and_not_an_error(frontend: Frontend, nodes: Nodes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    copy = asyncio.create_task(run("nbdcopy", str(source), uri(frontend)))
    for _ in range(4):
        await asyncio.sleep(0.05)
        nodes.held = []  # from here on requests hang at the dying primary
        await asyncio.sleep(0.02)
        dead = nodes.primary
        nodes.fail_over()
        nodes.up.add(dead)
        frontend.on_link_up(dead)
    code, output = await copy
    assert code == 0, output
    assert nodes.content == source.read_bytes()
    assert frontend.status().in_flight == 0


# ---- what honest clients never send ---------------------------------------------------------------------


async def test_an_unknown_option_and_an_unknown_export(frontend: Frontend) -> None:
    client = await RawClient.connect(frontend.socket_path, go=False)
    client.option(4242, b"data to be skipped")
    assert (await client.option_reply())[0] == Reply.ERR_UNSUP
    client.option(Option.GO, struct.pack(">I5sH", 5, b"other", 0))
    assert (await client.option_reply())[0] == Reply.ERR_UNKNOWN
    client.option(Option.EXPORT_NAME, b"other")
    assert await client.is_hung_up()
    client.close()


@pytest.mark.parametrize(
    ("command", "offset", "length", "errno"),
    [
        (Command.READ, SIZE, 4096, Errno.EINVAL),
        (Command.WRITE, SIZE - 4096, 8192, Errno.ENOSPC),
        (Command.TRIM, SIZE, 4096, Errno.EINVAL),
        (Command.WRITE_ZEROES, SIZE, 4096, Errno.ENOSPC),
        (Command.READ, 256, 512, Errno.EINVAL),
        (Command.BLOCK_STATUS, 0, 4096, Errno.EINVAL),
        (99, 0, 0, Errno.EINVAL),
    ],
)
async def test_bad_requests_cost_an_error_each(
    frontend: Frontend, command: int, offset: int, length: int, errno: int
) -> None:
    client = await RawClient.connect(frontend.socket_path)
    client.ask(command, offset, length, 5, bytes(length) if command == Command.WRITE else b"")
    assert await client.reply() == (errno, 5)
    client.ask(Command.READ, 0, 4096, 6)
    assert await client.reply() == (0, 6)
    assert await client.read(4096) == bytes(4096)
    client.close()


@pytest.mark.parametrize("junk", [b"\0" * 28, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"])
async def test_a_bad_magic_ends_one_connection_only(frontend: Frontend, junk: bytes) -> None:
    bad, good = await RawClient.connect(frontend.socket_path), await RawClient.connect(frontend.socket_path)
    bad.writer.write(junk)
    assert await bad.is_hung_up()
    good.ask(Command.FLUSH, 0, 0)
    assert await good.reply() == (0, 1)
    good.close()


async def test_a_client_that_hangs_up_in_the_middle_costs_only_itself(frontend: Frontend, nodes: Nodes) -> None:
    data = b"m" * 4096
    nodes.held = []
    client = await RawClient.connect(frontend.socket_path)
    client.ask(Command.WRITE, 0, 4096, data=data)
    client.ask(Command.READ, 0, 4096)
    client.ask(Command.WRITE, 8192, 1 * MIB, data=b"half")
    await client.writer.drain()
    while frontend.status().in_flight < 2:
        await asyncio.sleep(0.01)
    client.close()
    while frontend.status().clients:
        await asyncio.sleep(0.01)
    nodes.fail_over()
    after = await RawClient.connect(frontend.socket_path)
    after.ask(Command.READ, 0, 4096)
    assert await after.reply() == (0, 1)
    assert await after.read(4096) == data, "what it had asked for still happened"
    assert frontend.status().in_flight == 0
    left = frontend._in_flight
    assert not left.writes and not left.contents and not left.patches and not left.asked and not left.runs
    after.close()


def burst(blocks: range) -> bytes:
    """Reads in one piece; their handles are the blocks."""
    requests = [struct.pack(">IHHQQI", 0x25609513, 0, Command.READ, block, block * 4096, 4096) for block in blocks]
    return b"".join(requests)


async def replies_to(client: RawClient, count: int) -> dict[int, bytes | int]:
    """Handle -> what was read, or the error."""
    found: dict[int, bytes | int] = {}
    for _ in range(count):
        error, handle = await client.reply()
        found[handle] = error or await client.read(4096)
    return found


async def test_reads_that_come_together_are_asked_for_and_answered_together(nodes: Nodes, frontend: Frontend) -> None:
    nodes.opened_flags = OPENED_MANY
    nodes.fail_over()
    nodes.up.add("n1")
    frontend.on_link_up("n1")
    nodes.content[: 16 * 4096] = os.urandom(16 * 4096)
    right = {block: bytes(nodes.content[block * 4096 : (block + 1) * 4096]) for block in range(16)}
    client = await RawClient.connect(frontend.socket_path)
    client.writer.write(burst(range(16)))
    assert await replies_to(client, 16) == right
    assert nodes.together and frontend.status().reads == 16 and not frontend.status().in_flight
    (duration,) = [sample for sample in frontend.figures.samples() if sample.name == "stos.volume.io.duration"]
    assert sum(duration.counts) == 16
    nodes.rotten = True
    client.writer.write(burst(range(16)))
    spoilt = await replies_to(client, 16)
    errors = [handle for handle, content in spoilt.items() if content == Errno.EIO]
    assert errors and len(errors) < 16 and all(spoilt[handle] == right[handle] for handle in right.keys() - errors)
    nodes.rotten, nodes.held = False, []
    client.writer.write(burst(range(16)))
    while frontend.status().in_flight < 16:
        await asyncio.sleep(0.01)
    nodes.fail_over()
    assert await replies_to(client, 16) == right, "and they are sent again after a failover"
    client.close()


async def test_whoever_asks_for_many_reads_and_hangs_up_leaves_nothing(frontend: Frontend, nodes: Nodes) -> None:
    nodes.opened_flags = OPENED_MANY
    nodes.fail_over()
    nodes.held = []
    client = await RawClient.connect(frontend.socket_path)
    client.writer.write(burst(range(16)))
    while frontend.status().in_flight < 16:
        await asyncio.sleep(0.01)
    client.close()
    while frontend.status().clients:
        await asyncio.sleep(0.01)
    held, nodes.held = nodes.held, None
    for node, frame in held:
        nodes.serve(node, frame)
    assert frontend.status().in_flight == 0
    left = frontend._in_flight
    assert not left.runs and not left.asked and not left.contents


def written(*blocks: int, fill: int = 0) -> bytes:
    """Writes in one piece; their handles count from 0."""
    return b"".join([
        struct.pack(">IHHQQI", 0x25609513, 0, Command.WRITE, handle, block * 4096, 4096)
        + bytes([handle + fill + 1]) * 4096
        for handle, block in enumerate(blocks)
    ])  # fmt: skip


async def errors_of(client: RawClient, count: int) -> dict[int, int]:
    """Handle -> the error, 0: there is none."""
    replies = [await client.reply() for _ in range(count)]
    assert len({handle for _, handle in replies}) == count, "each is answered once"
    return {handle: error for error, handle in replies}


async def together(nodes: Nodes, frontend: Frontend) -> RawClient:
    """A client whose primary knows requests that come together."""
    nodes.opened_flags = OPENED_MANY
    nodes.fail_over()
    nodes.up.add("n1")
    frontend.on_link_up("n1")
    return await RawClient.connect(frontend.socket_path)


def firsts(nodes: Nodes, count: int) -> list[int]:
    """The first byte of each block."""
    return [nodes.content[block * 4096] for block in range(count)]


async def test_writes_that_come_together_are_asked_for_and_answered_together(nodes: Nodes, frontend: Frontend) -> None:
    client = await together(nodes, frontend)
    client.writer.write(written(*range(16)))
    assert await errors_of(client, 16) == dict.fromkeys(range(16), 0)
    assert firsts(nodes, 16) == list(range(1, 17))
    assert nodes.together and frontend.status().writes == 16 and not frontend.status().in_flight
    (duration,) = [sample for sample in frontend.figures.samples() if sample.name == "stos.volume.io.duration"]
    assert sum(duration.counts) == 16
    nodes.errno = 28
    before = nodes.together
    client.writer.write(written(*range(16), fill=20))
    errors = await errors_of(client, 16)
    assert sum(error == 28 for error in errors.values()) == nodes.together - before, "one of each message fails"
    nodes.errno = 0
    left = frontend._in_flight
    assert not left.writes and not left.runs and not left.asked
    client.close()


async def sixteen_under_way(nodes: Nodes, frontend: Frontend) -> RawClient:
    """Writes that came together and that nobody has answered."""
    client = await together(nodes, frontend)
    nodes.held = []
    client.writer.write(written(*range(16)))
    while frontend.status().in_flight < 16:
        await asyncio.sleep(0.01)
    return client


async def test_writes_that_come_together_are_sent_again_after_a_failover(nodes: Nodes, frontend: Frontend) -> None:
    client = await sixteen_under_way(nodes, frontend)
    assert set(firsts(nodes, 16)) == {0}
    nodes.fail_over()
    assert set((await errors_of(client, 16)).values()) == {0}
    assert firsts(nodes, 16) == list(range(1, 17))
    left = frontend._in_flight
    assert not left.writes and not left.runs and not left.asked
    client.close()


async def test_writes_to_one_block_that_come_together_are_done_in_their_order(nodes: Nodes, frontend: Frontend) -> None:
    client = await together(nodes, frontend)
    client.writer.write(written(3, 4, 3, 5, 3, 4))
    assert set((await errors_of(client, 6)).values()) == {0}
    assert firsts(nodes, 6) == [0, 0, 0, 5, 6, 4]
    client.close()


async def test_whoever_asks_for_many_writes_and_hangs_up_has_them_written(frontend: Frontend, nodes: Nodes) -> None:
    client = await sixteen_under_way(nodes, frontend)
    client.close()
    while frontend.status().clients:
        await asyncio.sleep(0.01)
    held, nodes.held = nodes.held, None
    for node, frame in held:
        nodes.serve(node, frame)
    assert firsts(nodes, 16) == list(range(1, 17))
    assert frontend.status().in_flight == 0
    left = frontend._in_flight
    assert not left.runs and not left.asked and not left.writes


@pytest.mark.parametrize("flags", [0, OPENED_MANY])
async def test_a_flood_of_requests_is_held_back_and_all_are_answered(
    frontend: Frontend, nodes: Nodes, flags: int
) -> None:
    nodes.opened_flags, nodes.held = flags, []
    client = await RawClient.connect(frontend.socket_path)
    count = 20_000
    for handle in range(count):
        client.ask(Command.READ, handle % 1000 * 4096, 4096, handle)
    await asyncio.sleep(0.2)
    assert frontend.status().in_flight == 128
    nodes.fail_over()
    seen = set()
    for _ in range(count):
        errno, handle = await client.reply()
        assert errno == 0
        seen.add(handle)
        await client.read(4096)
    assert len(seen) == count
    client.close()


async def test_a_primary_that_knows_what_to_do_with_it_is_told_how_long_requests_took(
    frontend: Frontend, nodes: Nodes
) -> None:
    client = await RawClient.connect(frontend.socket_path)

    async def read_for(seconds: float) -> None:
        async with asyncio.timeout(60):
            ends = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < ends:
                client.ask(Command.READ, 0, 4096, 1)
                await client.reply()
                await client.read(4096)

    await read_for(0.3)
    assert not nodes.felt, "it did not say that it knows"
    nodes.opened_flags = OPENED_FELT
    nodes.fail_over()
    await read_for(0.5)
    assert len(nodes.felt) > 1 and 0 < min(nodes.felt) <= max(nodes.felt) < 60 * SECOND
    client.close()


async def test_a_client_that_reads_no_replies_is_held_back(frontend: Frontend) -> None:
    client = await RawClient.connect(frontend.socket_path)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    for handle in range(60):
        client.ask(Command.READ, 0, 32 * MIB, handle)
    await asyncio.sleep(0.5)
    reads = frontend.status().reads
    assert reads < 20, "replies that nobody takes are bounded"
    other = await RawClient.connect(frontend.socket_path)
    other.ask(Command.FLUSH, 0, 0)
    assert await other.reply() == (0, 1)
    other.close()
    client.close()


# ---- errors, fencing, the end ---------------------------------------------------------------------------


async def test_content_that_does_not_match_its_checksums_is_never_returned(frontend: Frontend, nodes: Nodes) -> None:
    client = await RawClient.connect(frontend.socket_path)
    nodes.rotten = True
    client.ask(Command.READ, 0, 4096)
    assert await client.reply() == (Errno.EIO, 1)
    nodes.rotten, nodes.errno = False, Errno.ENOSPC
    client.ask(Command.WRITE, 0, 4096, 2, bytes(4096))
    assert await client.reply() == (Errno.ENOSPC, 2)
    client.close()


async def test_a_fenced_frontend_answers_shutdown(frontend: Frontend, nodes: Nodes) -> None:
    client = await RawClient.connect(frontend.socket_path)
    nodes.held = []
    client.ask(Command.WRITE, 0, 4096, 1, bytes(4096))
    while not nodes.held:
        await asyncio.sleep(0.01)
    ((node, frame),) = nodes.held
    refusal = b'{"message": "attached elsewhere", "hint": ""}'
    nodes.answer(node, pack(Type.REFUSED, epoch=1, id=frame.id, x=2, length=len(refusal)), refusal)
    assert await client.reply() == (Errno.ESHUTDOWN, 1)
    client.ask(Command.READ, 0, 4096, 2)
    assert await client.reply() == (Errno.ESHUTDOWN, 2)
    client.close()


async def test_a_node_that_returns_fenced_drops_its_clients_and_forgets_the_volume(tmp_path: Path) -> None:
    """Attached elsewhere while this node was away: its clients must not hang, and its next start must not try again."""
    nodes = Nodes()
    frontends = Frontends("n1", tmp_path, tmp_path, cast(Identity, None), HeardTrail())
    frontends.network = cast(PeerNetwork, Links(nodes))
    voters = [VoterModel(node=f"n{number}", incarnation=f"{number:016x}") for number in (1, 2)]
    opened = await frontends.open(
        OpenFrontend(volume=VOLUME, name=NAME, size_bytes=SIZE, attach_epoch=3, voters=voters), "admin/ann"
    )
    assert json.loads((tmp_path / "frontends.json").read_text()) != []
    (known,) = frontends._open.values()
    frontend = nodes.frontend = known.frontend
    client = await RawClient.connect(frontend.socket_path)
    nodes.held = []
    client.ask(Command.WRITE, 0, 4096, 1, bytes(4096))
    async with asyncio.timeout(10):
        while not nodes.held:
            await asyncio.sleep(0.01)
    nodes.fenced = True
    frontend.on_link_down("n1")
    frontend.on_link_up("n1")
    assert await client.reply() == (Errno.ESHUTDOWN, 1)
    assert await client.is_hung_up()
    async with asyncio.timeout(10):
        while Path(opened.socket).exists() or frontends.statuses():
            await asyncio.sleep(0.01)
    assert json.loads((tmp_path / "frontends.json").read_text()) == []


class Links:
    """The peer network as far as a frontend uses it."""

    def __init__(self, nodes: Nodes):
        self.send = nodes.send
        self.connected = nodes.up.__contains__


async def test_requests_of_one_disconnecting_client_are_answered_first(frontend: Frontend) -> None:
    client = await RawClient.connect(frontend.socket_path)
    client.ask(Command.WRITE, 0, 4096, 1, b"d" * 4096)
    client.ask(Command.DISC, 0, 0)
    assert await client.reply() == (0, 1)
    assert await client.is_hung_up()


async def test_closing_answers_what_is_open(tmp_path: Path, nodes: Nodes) -> None:
    nodes.up.clear()
    path = tmp_path / "v.sock"
    frontend = Frontend(VOLUME, "vol-1", SIZE, 3, {"n1": 1}, path, nodes.send, nodes.up.__contains__)
    await frontend.start()
    client = await RawClient.connect(frontend.socket_path)
    client.ask(Command.READ, 0, 4096)
    await asyncio.sleep(0.05)
    assert not frontend.status().connected
    await frontend.close()
    assert await client.reply() == (Errno.ESHUTDOWN, 1)
    assert await client.is_hung_up()
    assert not path.exists()


async def test_the_socket_is_private_and_a_dead_servers_socket_is_replaced(tmp_path: Path, nodes: Nodes) -> None:
    def make(path: Path) -> Frontend:
        return Frontend(VOLUME, "vol-1", SIZE, 3, {}, path, nodes.send, nodes.up.__contains__)

    path = tmp_path / "v.sock"
    first = make(path)
    await first.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(StosError, match="another process") as caught:
        await make(path).start()
    assert caught.value.code == Code.FAILED_PRECONDITION
    leftover = tmp_path / "leftover.sock"
    os.link(path, leftover)
    await first.close()
    second = make(leftover)  # nobody listens there any more
    await second.start()
    await second.close()
    with pytest.raises(StosError, match="longer than"):
        await make(tmp_path / ("x" * 120)).start()
    with pytest.raises(StosError, match="can't listen"):
        await make(tmp_path / "no" / "directory.sock").start()
