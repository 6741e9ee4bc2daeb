"""A frontend's surroundings for tests: nodes that serve it out of memory, and clients of every kind."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from pathlib import Path

import pytest

from services.replica.nbd import Frontend
from services.replica.nbd.wire import Option
from services.replica.peers.frames import FUA, HEADER, Frame, Type, pack
from services.replica.peers.payloads import pack_asks, pack_extents, pack_u64s, split_asks, unpack_asks, unpack_u64s
from services.replica.store.extents import walk
from services.replica.store.sums import block_sums
from stoscore.units import MIB

SIZE = 64 * MIB
VOLUME = "ab" * 16
NAME = "vol-1"


class Nodes:
    """Two nodes with one content between them: `primary` serves in `epoch`, the other refuses. Frames are
    answered in a later turn of the loop, as over a link."""

    def __init__(self) -> None:
        self.content = bytearray(SIZE)
        self.primary, self.epoch, self.up = "n1", 1, {"n1", "n2"}
        self.session: dict[str, int] = {}
        self.frontend: Frontend | None = None
        self.flushes = self.fua_writes = 0
        self.together = 0
        """Messages with reads, or writes, that came together."""
        self.rotten = False
        self.errno = 0
        self.opened_flags = 0
        """What the primary knows, by its word."""
        self.felt: list[int] = []
        self.fenced = False
        self.held: list[tuple[str, Frame]] | None = None
        """A list: requests are taken and not answered."""

    def send(self, node: str, *parts: bytes | memoryview) -> bool:
        if node not in self.up:
            return False
        raw = b"".join(parts)
        _, kind, flags, length, *fields = HEADER.unpack_from(raw)
        assert len(raw) == HEADER.size + length
        frame = Frame._make((kind, flags, *fields, memoryview(raw)[HEADER.size :]))
        assert frame.volume.hex() == VOLUME and frame.attach_epoch == 3
        assert frame.target == {"n1": 1, "n2": 2}[node], "it says by which incarnation it knows the copy (I1)"
        asyncio.get_running_loop().call_soon(self.receive, node, frame)
        return True

    def receive(self, node: str, frame: Frame) -> None:
        if node not in self.up or frame.type == Type.CLOSE:
            return
        serves = node == self.primary
        if self.fenced:
            refusal = b'{"message": "attached elsewhere", "hint": ""}'
            self.answer(node, pack(Type.REFUSED, epoch=self.epoch, id=frame.id, x=2, length=len(refusal)), refusal)
        elif frame.type == Type.OPEN and serves:
            self.session[node] = frame.id
            self.answer(node, pack(Type.OPENED, flags=self.opened_flags, epoch=self.epoch, id=frame.id, x=SIZE // 4096))
        elif not serves or frame.x != self.session.get(node):
            refusal = json.dumps({"message": "not the primary", "hint": self.primary}).encode()
            header = pack(Type.REFUSED, epoch=self.epoch, id=frame.id, x=1, length=len(refusal))
            self.answer(node, header, refusal)
        elif self.held is not None:
            self.held.append((node, frame))
        else:
            self.serve(node, frame)

    def serve(self, node: str, frame: Frame) -> None:
        if frame.type == Type.FELT:
            self.felt += unpack_u64s(frame.payload)
            return
        if frame.type == Type.IO_READS:
            self.read_together(node, frame)
            return
        if frame.type == Type.IO_WRITES:
            self.write_together(node, frame)
            return
        start, end = frame.y * 4096, (frame.y + frame.z) * 4096
        if frame.type == Type.IO_READ and not self.errno:
            data = bytes(self.content[start:end])
            sums = block_sums(data)
            if self.rotten:
                data = b"\xff" + data[1:]
            header = pack(
                Type.IO_DATA,
                epoch=self.epoch,
                id=frame.id,
                x=frame.x,
                y=frame.y,
                z=frame.z,
                length=len(sums) + len(data),
            )
            self.answer(node, header, sums, data)
            return
        if frame.type == Type.IO_STATUS:
            sums = block_sums(bytes(self.content[start:end]))
            extents = walk(0, frame.z, lambda at, count: sums[8 * at : 8 * (at + count)])
            body = pack_extents(extents)
            header = pack(Type.IO_EXTENTS, epoch=self.epoch, id=frame.id, x=frame.x, y=frame.y, length=len(body))
            self.answer(node, header, body)
            return
        if frame.type == Type.IO_WRITE:
            written = frame.payload[8 * frame.z :]
            assert block_sums(written) == frame.payload[: 8 * frame.z]
            self.content[start:end] = written
        elif frame.type == Type.IO_ZERO:
            self.content[start:end] = bytes(end - start)
        elif frame.type == Type.IO_FLUSH:
            self.flushes += 1
        self.fua_writes += bool(frame.flags & FUA)
        self.answer(node, pack(Type.IO_DONE, epoch=self.epoch, id=frame.id, x=frame.x, y=self.errno))

    def read_together(self, node: str, frame: Frame) -> None:
        self.together += 1
        asks = unpack_asks(frame.payload)
        data = b"".join(self.content[block * 4096 : (block + count) * 4096] for _, block, count in asks)
        body = pack_asks(asks) + block_sums(data) + (b"\xff" + data[1:] if self.rotten else data)
        header = pack(Type.IO_DATAS, epoch=self.epoch, x=frame.x, z=len(asks), length=len(body))
        self.answer(node, header, body)

    def write_together(self, node: str, frame: Frame) -> None:
        """With an error, the first of them fails."""
        self.together += 1
        asks, sums, data = split_asks(frame)
        assert block_sums(data) == sums
        at = 0
        for _, block, count in asks:
            self.content[block * 4096 : (block + count) * 4096] = data[at * 4096 : (at + count) * 4096]
            at += count
        if self.errno:
            request = asks[0][0]
            self.answer(node, pack(Type.IO_DONE, epoch=self.epoch, id=request, x=frame.x, y=self.errno))
            asks = asks[1:]
        body = pack_u64s([request for request, _, _ in asks])
        self.answer(node, pack(Type.IO_DONES, epoch=self.epoch, x=frame.x, length=len(body)), body)

    def answer(self, node: str, *parts: bytes) -> None:
        raw = b"".join(parts)
        _, kind, flags, _, *fields = HEADER.unpack_from(raw)
        assert self.frontend is not None
        self.frontend.on_frame(node, Frame._make((kind, flags, *fields, memoryview(raw)[HEADER.size :])))

    def fail_over(self) -> None:
        """The primary's node dies; the other one serves in the next epoch."""
        assert self.frontend is not None
        dead, self.held = self.primary, None
        self.up.discard(dead)
        self.primary = "n2" if dead == "n1" else "n1"
        self.epoch += 1
        self.frontend.on_link_down(dead)


async def run(*command: str, timeout_s: float = 60) -> tuple[int, str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    return process.returncode or 0, output.decode()


class RawClient:
    """A client that sends what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, path: Path, *, go: bool = True) -> RawClient:
        client = cls(*await asyncio.open_unix_connection(path))
        assert await client.read(18) == b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
        client.writer.write(struct.pack(">I", 3))
        if go:
            client.option(Option.EXPORT_NAME, b"vol-1")
            assert struct.unpack(">Q", (await client.read(10))[:8]) == (SIZE,)
        return client

    async def read(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), 10)

    def option(self, number: int, data: bytes = b"") -> None:
        self.writer.write(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)

    async def option_reply(self) -> tuple[int, bytes]:
        magic, _, reply, length = struct.unpack(">QIII", await self.read(20))
        assert magic == 0x3E889045565A9
        return reply, await self.read(length)

    def ask(self, command: int, offset: int, length: int, handle: int = 1, data: bytes = b"") -> None:
        self.writer.write(struct.pack(">IHHQQI", 0x25609513, 0, command, handle, offset, length) + data)

    async def reply(self) -> tuple[int, int]:
        magic, errno, handle = struct.unpack(">IIQ", await self.read(16))
        assert magic == 0x67446698
        return errno, handle

    async def is_hung_up(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 10) == b""

    def close(self) -> None:
        self.writer.transport.abort()
