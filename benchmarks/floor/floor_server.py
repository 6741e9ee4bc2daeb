"""The floor: what a replicated write costs in plain Python when nothing but the work itself is done.

NBD in on a Unix socket, one xxh3-64 per 4 KiB block, three copies (two processes reached over TLS 1.3, and this
one's file), the answer when all three have stored. uvloop and Protocol classes, everything that one wake-up
delivers handled together, one write per peer and wake-up. No epochs, no windows, no intent log, no store format,
no recovery: it shows how far our own layers are from the cost of the system calls and TLS below them.

    python -m benchmarks.floor.floor_server DIRECTORY SIZE_BYTES

prints one JSON line {"uri": ..., "pids": {...}} when it serves, and ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import uvloop

from benchmarks.floor import nbd
from benchmarks.floor.wire import FLUSH, FRAME, WRITE, Buffer, certificate, context, sums

COPIES_ELSEWHERE = 2


class ReplicaLink(asyncio.BufferedProtocol):
    """To one replica. Frames of a wake-up are collected in `out` and written once."""

    def __init__(self, primary: Primary) -> None:
        self.primary = primary
        self.buffer = Buffer()
        self.out: list[bytes | memoryview] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer.room()

    def buffer_updated(self, nbytes: int) -> None:
        buffer = self.buffer
        buffer.end += nbytes
        view, at = buffer.view, buffer.start
        while buffer.end - at >= FRAME.size:
            self.primary.stored(FRAME.unpack_from(view, at)[2])
            at += FRAME.size
        buffer.start = at
        self.primary.reply()

    def flush(self) -> None:
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()


class Client(asyncio.BufferedProtocol):
    """One NBD connection."""

    def __init__(self, primary: Primary) -> None:
        self.primary = primary
        self.buffer = Buffer()
        self.negotiation = nbd.Negotiation(primary.size_bytes)
        self.out: list[bytes] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(nbd.GREETING)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer.room()

    def buffer_updated(self, nbytes: int) -> None:
        self.buffer.end += nbytes
        if not self.negotiation.done:
            self._negotiate()
        if self.negotiation.done:
            self._requests()
            self.primary.flush_links()
            self.primary.reply()

    def _negotiate(self) -> None:
        buffer = self.buffer
        while not self.negotiation.done:
            step = self.negotiation.step(buffer.view[buffer.start : buffer.end])
            if step is None:
                return
            buffer.start += step[0]
            self.transport.write(step[1])

    def _requests(self) -> None:
        buffer = self.buffer
        view, at, end = buffer.view, buffer.start, buffer.end
        while end - at >= nbd.REQUEST.size:
            magic, flags, kind, cookie, offset, length = nbd.REQUEST.unpack_from(view, at)
            if magic != nbd.REQUEST_MAGIC or kind == nbd.DISCONNECT:
                self.transport.close()
                return
            data = at + nbd.REQUEST.size
            at = data + (length if kind == nbd.WRITE else 0)
            if at > end:
                return
            buffer.start = at
            if kind == nbd.WRITE:
                self.primary.write(self, cookie, offset, view[data:at], bool(flags & nbd.FUA))
            elif kind == nbd.READ:
                self.primary.read(self, cookie, offset, length)
            else:
                self.primary.flush(self, cookie)


class Primary:
    """Counts, per request, the copies that have not answered yet."""

    def __init__(self, file: int, size_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.links: list[ReplicaLink] = []
        self.request = 0
        self.waiting: dict[int, tuple[Client, int]] = {}
        self.missing: dict[int, int] = {}
        self.to_answer: dict[Client, None] = {}

    def write(self, client: Client, cookie: int, offset: int, data: memoryview, fua: bool) -> None:
        request = self.expect(client, cookie, answers=2 if fua else 1)
        self.to_all(WRITE, request, offset, sums(data), data)
        if fua:
            self.to_all(FLUSH, request, 0)
        os.pwrite(self.file, data, offset)
        if fua:
            self.flush_links()
            os.fdatasync(self.file)

    def flush(self, client: Client, cookie: int) -> None:
        self.to_all(FLUSH, self.expect(client, cookie, answers=1), 0)
        self.flush_links()
        os.fdatasync(self.file)

    def read(self, client: Client, cookie: int, offset: int, length: int) -> None:
        data = os.pread(self.file, length, offset)
        sums(memoryview(data))
        client.out += (nbd.REPLY.pack(nbd.REPLY_MAGIC, 0, cookie), data)
        self.to_answer[client] = None

    def expect(self, client: Client, cookie: int, *, answers: int) -> int:
        """A new request that each replica answers so many times."""
        self.request += 1
        self.waiting[self.request] = (client, cookie)
        self.missing[self.request] = answers * len(self.links)
        return self.request

    def to_all(self, kind: int, request: int, offset: int, *parts: bytes | memoryview) -> None:
        header = FRAME.pack(kind, sum(map(len, parts)), request, offset)
        for link in self.links:
            link.out += (header, *parts)

    def stored(self, request: int) -> None:
        left = self.missing[request] - 1
        if left:
            self.missing[request] = left
            return
        del self.missing[request]
        client, cookie = self.waiting.pop(request)
        client.out.append(nbd.REPLY.pack(nbd.REPLY_MAGIC, 0, cookie))
        self.to_answer[client] = None

    def flush_links(self) -> None:
        for link in self.links:
            link.flush()

    def reply(self) -> None:
        for client in self.to_answer:
            client.transport.write(b"".join(client.out))
            client.out.clear()
        self.to_answer.clear()


async def start_replica(directory: Path, name: str, size_bytes: int) -> tuple[asyncio.subprocess.Process, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.floor.replica",
        directory,
        name,
        str(size_bytes),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


async def main(directory: Path, size_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, ended.set)
    certificate(directory)
    file = os.open(directory / "primary", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, size_bytes)
    primary = Primary(file, size_bytes)
    processes = []
    try:
        for number in range(COPIES_ELSEWHERE):
            process, port = await start_replica(directory, f"replica-{number}", size_bytes)
            processes.append(process)
            _, link = await loop.create_connection(
                lambda: ReplicaLink(primary), "127.0.0.1", port, ssl=context(directory, server=False)
            )
            primary.links.append(link)
        path = directory / "floor.sock"
        await loop.create_unix_server(lambda: Client(primary), str(path))
        pids = {"primary": os.getpid(), **{f"replica-{n}": p.pid for n, p in enumerate(processes)}}
        print(json.dumps({"uri": f"nbd+unix:///floor?socket={path}", "pids": pids}), flush=True)
        await ended.wait()
    finally:
        for process in processes:
            with suppress(ProcessLookupError):  # whoever interrupts a terminal ends all three at once
                process.terminate()
            await process.wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
