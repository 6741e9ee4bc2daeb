"""One copy of the floor: frames in, checksums verified, `pwrite` to a sparse file, answer.

python -m benchmarks.floor.replica DIRECTORY NAME SIZE_BYTES     (prints its port)
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from benchmarks.floor.wire import DONE, FLUSH, FRAME, SUM, Buffer, context, sums


class ReplicaLink(asyncio.BufferedProtocol):
    def __init__(self, file: int) -> None:
        self.file = file
        self.buffer = Buffer()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().stop()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer.room()

    def buffer_updated(self, nbytes: int) -> None:
        buffer = self.buffer
        view, at = buffer.view, buffer.start
        end = buffer.end = buffer.end + nbytes
        answers = []
        while end - at >= FRAME.size:
            kind, length, request, offset = FRAME.unpack_from(view, at)
            stop = at + FRAME.size + length
            if stop > end:
                break
            if kind == FLUSH:
                os.fdatasync(self.file)
            else:
                self.store(offset, view[at + FRAME.size : stop])
            answers.append(FRAME.pack(DONE, 0, request, 0))
            at = stop
        buffer.start = at
        if answers:
            self.transport.write(b"".join(answers))

    def store(self, offset: int, payload: memoryview) -> None:
        blocks = len(payload) // (SUM + 4096)
        data = payload[blocks * SUM :]
        if sums(data) != payload[: blocks * SUM]:
            raise ValueError(f"a checksum does not match at {offset}")
        os.pwrite(self.file, data, offset)


async def serve(directory: Path, name: str, size_bytes: int) -> None:
    file = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, size_bytes)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ReplicaLink(file), "127.0.0.1", 0, ssl=context(directory, server=True))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    except RuntimeError as error:
        # The primary hung up: that is how a run ends.
        if "stopped before" not in str(error):
            raise
