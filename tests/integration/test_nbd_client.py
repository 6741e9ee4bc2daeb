"""The NBD client against qemu-nbd, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.dev.nbd_client import NbdClient, NbdError, NbdProtocolError
from stoscore.units import KIB, MIB

SIZE = 8 * MIB
QEMU_NBD = shutil.which("qemu-nbd") or "/usr/bin/qemu-nbd"
needs_qemu = pytest.mark.skipif(not os.path.exists(QEMU_NBD), reason="qemu-nbd: apt install qemu-utils")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Path]:
    """qemu-nbd over a sparse file, export "disk"."""
    image, path = tmp_path / "image", tmp_path / "nbd.sock"
    with image.open("wb") as file:
        file.truncate(SIZE)
    process = await asyncio.create_subprocess_exec(
        QEMU_NBD, "-t", "-f", "raw", "-x", "disk", "-e", "4", "-k", path, image, "--discard=unmap"
    )
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.01)
    yield path
    process.terminate()
    await process.wait()


@needs_qemu
async def test_what_is_written_is_read(server: Path) -> None:
    async with await NbdClient.connect(server, "disk") as client:
        assert client.size == SIZE
        data = os.urandom(64 * KIB)
        await client.write(128 * KIB, data)
        await client.write(4096, data[:4096], fua=True)
        await client.flush()
        assert await client.read(128 * KIB, 64 * KIB) == data
        assert await client.read(0, 12 * KIB) == bytes(4096) + data[:4096] + bytes(4096)
        await client.write_zeroes(128 * KIB, 4096)
        await client.trim(132 * KIB, 4096)
        assert (await client.read(128 * KIB, 4096)) == bytes(4096)


@needs_qemu
async def test_many_requests_are_under_way_at_once(server: Path) -> None:
    async with await NbdClient.connect(server, "disk") as client:
        blocks = [os.urandom(4096) for _ in range(256)]
        await asyncio.gather(*(client.write(n * 4096, block) for n, block in enumerate(blocks)))
        found = await asyncio.gather(*(client.read(n * 4096, 4096) for n in range(256)))
        assert found == blocks


@needs_qemu
async def test_one_large_request(server: Path) -> None:
    async with await NbdClient.connect(server, "disk") as client:
        data = os.urandom(SIZE)
        await client.write(0, data)
        assert await client.read(0, SIZE) == data


@needs_qemu
async def test_the_servers_errors_carry_their_errno_and_the_connection_lives_on(server: Path) -> None:
    async with await NbdClient.connect(server, "disk") as client:
        with pytest.raises(NbdError) as caught:
            await client.read(SIZE, 4096)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(NbdError) as caught:
            await client.write(SIZE - 2048, bytes(4096))
        assert caught.value.errno in (errno.EINVAL, errno.ENOSPC)
        assert await client.read(0, 4096) == bytes(4096)


@needs_qemu
async def test_an_unknown_export_is_refused_by_name(server: Path) -> None:
    with pytest.raises(NbdError, match=r"'nothing'.*unknown export"):
        await NbdClient.connect(server, "nothing")


@needs_qemu
async def test_after_close_nothing_goes_out(server: Path) -> None:
    client = await NbdClient.connect(server, "disk")
    await client.close()
    await client.close()
    with pytest.raises(ConnectionError):
        await client.flush()


async def test_nobody_listening_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await NbdClient.connect(tmp_path / "none.sock", "disk")


class Scripted:
    """A server that negotiates properly, takes one request and answers with given bytes."""

    def __init__(self, answer: bytes, greeting: bytes | None = None) -> None:
        self.answer = answer
        self.greeting = greeting

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.greeting is not None:
            writer.write(self.greeting)
            writer.close()
            return
        writer.write(struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3))
        await reader.readexactly(4)
        for option, info in ((8, b""), (7, struct.pack(">HQH", 0, SIZE, 0x65))):
            _, _, length = struct.unpack(">QII", await reader.readexactly(16))
            await reader.readexactly(length)
            if info:
                writer.write(struct.pack(">QIII", 0x3E889045565A9, option, 3, len(info)) + info)
            writer.write(struct.pack(">QIII", 0x3E889045565A9, option, 1, 0))
        await reader.readexactly(28)
        writer.write(self.answer)
        await writer.drain()
        if not self.answer:
            writer.close()
        await reader.read()
        writer.close()


async def answered(tmp_path: Path, server: Scripted) -> bytes:
    path = tmp_path / "scripted.sock"
    async with await asyncio.start_unix_server(server, path):
        client = await NbdClient.connect(path, "disk")
        try:
            return await asyncio.wait_for(client.read(4096, 4096), 5)
        finally:
            await client.close()


CHUNK = struct.Struct(">IHHQI")


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense",
        CHUNK.pack(0x668E33EF, 1, 0, 99, 0),
        CHUNK.pack(0x668E33EF, 1, 77, 1, 0),
        CHUNK.pack(0x668E33EF, 1, 1, 1, 2**31),
        CHUNK.pack(0x668E33EF, 1, 0, 1, 0),
        CHUNK.pack(0x668E33EF, 1, 1, 1, 16) + struct.pack(">Q", 0) + bytes(8),
    ],
)
async def test_answers_that_break_the_protocol_end_the_request(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(NbdProtocolError):
        await answered(tmp_path, Scripted(answer))


async def test_a_server_that_hangs_up_ends_the_request(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="hung up"):
        await answered(tmp_path, Scripted(b""))


async def test_data_in_pieces_holes_and_simple_replies(tmp_path: Path) -> None:
    pieces = (
        CHUNK.pack(0x668E33EF, 0, 1, 1, 8 + 1024)
        + struct.pack(">Q", 4096 + 3072)
        + b"z" * 1024
        + CHUNK.pack(0x668E33EF, 1, 2, 1, 12)
        + struct.pack(">QI", 4096, 3072)
    )
    assert await answered(tmp_path, Scripted(pieces)) == bytes(3072) + b"z" * 1024
    simple = struct.pack(">IIQ", 0x67446698, 0, 1) + b"s" * 4096
    assert await answered(tmp_path, Scripted(simple)) == b"s" * 4096
    with pytest.raises(NbdError) as caught:
        await answered(tmp_path, Scripted(struct.pack(">IIQ", 0x67446698, errno.EIO, 1)))
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("greeting", [b"", b"NBDMAGIC", b"x" * 18])
async def test_what_is_no_nbd_server_is_refused(tmp_path: Path, greeting: bytes) -> None:
    path = tmp_path / "scripted.sock"
    async with await asyncio.start_unix_server(Scripted(b"", greeting), path):
        with pytest.raises(ConnectionError):
            await NbdClient.connect(path, "disk")
