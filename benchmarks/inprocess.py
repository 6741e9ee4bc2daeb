"""What our own code costs a request: four whole nodes and their client in one process, on a RAM disk.

    python -m benchmarks.inprocess [--rounds N] [--dir DIRECTORY]

Three nodes with copies and the application's, real links with TLS, real stores. No hop between processes: what is
measured is Python, TLS and the file system's calls, and not what waking another process costs. CPU of the whole process
per request, the client's own few microseconds included; the least of the rounds counts, because whatever else the
machine does can only add. `beside` is the client on the primary's node.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from services.replica.nbd import Frontend
from stoscore.units import KIB, MIB
from tests.support import wired as wiring
from tests.support.wired import SIZE, Wired, wired

RAM_DISK = Path("/dev/shm")
REPLY_BYTES = 16
_REQUEST = struct.Struct(">IHHQQI")
_MAGIC, _READ, _WRITE, _FLUSH = 0x25609513, 0, 1, 3
_CLIENT_FLAGS, _EXPORT_NAME = struct.pack(">I", 3), struct.pack(">QII", 0x49484156454F5054, 1, 0)
_GREETING_BYTES, _EXPORT_BYTES = 18, 10
_DATA = random.Random(1).randbytes(4 * MIB)

Make = Callable[[int], list[bytes | memoryview]]
"""Number of a request -> its bytes."""


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    requests: int
    depth: int
    size: int
    command: int
    flushes: bool = False
    """After each write."""
    in_order: bool = False
    """From the volume's beginning to its end."""

    def make(self) -> Make:
        dice = random.Random(self.name)

        def make(number: int) -> list[bytes | memoryview]:
            if self.flushes and number % 2 == 0:
                return [_REQUEST.pack(_MAGIC, 0, _FLUSH, number, 0, 0)]
            place = number - 1 if self.in_order else dice.randrange(SIZE // self.size)
            offset = place * self.size
            header = _REQUEST.pack(_MAGIC, 0, self.command, number, offset, self.size)
            at = dice.randrange((len(_DATA) - self.size) // 4096 + 1) * 4096
            return [header] if self.command == _READ else [header, memoryview(_DATA)[at : at + self.size]]

        return make

    @property
    def reply_bytes(self) -> int:
        return REPLY_BYTES + (self.size if self.command == _READ else 0)


FILL = Load("fill", SIZE // MIB, 4, MIB, _WRITE, in_order=True)
LOADS = (
    Load("write 4k, depth 16", 6000, 16, 4 * KIB, _WRITE),
    Load("write 4k, depth 1", 800, 1, 4 * KIB, _WRITE),
    Load("read 4k, depth 16", 12_000, 16, 4 * KIB, _READ),
    Load("read 4k, depth 1", 2000, 1, 4 * KIB, _READ),
    Load("write 128k, depth 4", 600, 4, 128 * KIB, _WRITE),
    Load("read 1m, depth 4", 200, 4, MIB, _READ),
    Load("write 4k and flush", 400, 1, 4 * KIB, _WRITE, flushes=True),
)


class Client(asyncio.BufferedProtocol):
    """As many requests under way as asked for; replies are counted, their content is not looked at."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(8 * MIB))
        self._filled = 0
        self._wanted = _GREETING_BYTES
        self._transport: asyncio.Transport
        self._load: Load | None = None
        self._make: Make
        self._sent = self._answered = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._load is not None:
            answered, self._filled = divmod(self._filled, self._load.reply_bytes)
            self._answered += answered
            self._ask(self._load)
        elif self._filled >= self._wanted:
            self._filled = 0
            if self._wanted == _GREETING_BYTES:
                self._transport.write(_CLIENT_FLAGS + _EXPORT_NAME)
                self._wanted = _EXPORT_BYTES
            else:
                self._done.set_result(None)

    def _ask(self, load: Load) -> None:
        parts: list[bytes | memoryview] = []
        while self._sent < load.requests and self._sent - self._answered < load.depth:
            self._sent += 1
            parts += self._make(self._sent)
        if parts:
            self._transport.writelines(parts)
        if self._answered == load.requests and not self._done.done():
            self._done.set_result(None)

    async def ready(self) -> None:
        await self._done

    async def run(self, load: Load) -> float:
        """CPU of this process per request, in µs."""
        self._done = asyncio.get_running_loop().create_future()
        self._load, self._make = load, load.make()
        self._sent = self._answered = 0
        began = time.process_time()
        self._ask(load)
        await self._done
        return (time.process_time() - began) * 1e6 / load.requests


@dataclass(frozen=True, slots=True)
class Arena:
    nodes: Wired
    frontend: Frontend
    client: Client


@asynccontextmanager
async def arena(directory: Path, *, beside: bool = False) -> AsyncIterator[Arena]:
    """A full volume of three copies and a client of it."""
    wiring.LEASE_MS = 10_000  # one process is all four nodes: nothing here is about failing over
    async with wired(directory, "n1", "n2", "n3", "app") as nodes:
        volume = await nodes.volume("n1", "n2", "n3")
        where = nodes.leader(volume).name if beside else "app"
        opened = await nodes.open(volume, where)
        _, client = await asyncio.get_running_loop().create_unix_connection(Client, opened.socket)
        await client.ready()
        await client.run(FILL)
        yield Arena(nodes, nodes.nodes[where].frontends._open[bytes.fromhex(volume)].frontend, client)


@asynccontextmanager
async def scratch(parent: Path | None) -> AsyncIterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="stos-bench-", dir=parent or (RAM_DISK if RAM_DISK.is_dir() else None)))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def measure(parent: Path | None, rounds: int) -> dict[tuple[str, bool], float]:
    """(load, beside) -> µs, the least of the rounds; the loads in turns."""
    found: dict[tuple[str, bool], list[float]] = {}
    for beside in (False, True):
        async with scratch(parent) as directory, arena(directory, beside=beside) as here:
            for _ in range(rounds):
                for load in LOADS:
                    found.setdefault((load.name, beside), []).append(await here.client.run(load))
    return {key: min(times) for key, times in found.items()}


def options(description: str, arguments: Sequence[str], rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"[{rounds}]")
    parser.add_argument("--dir", type=Path, help=f"where the volumes are kept meanwhile [{RAM_DISK}]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    given = options("CPU of our own code per request.", arguments, rounds=8)
    figures = uvloop.run(measure(given.dir, given.rounds))
    print(f"{'CPU µs per request':24}{'another node':>14}{'beside':>10}")
    for load in LOADS:
        print(f"{load.name:24}{figures[load.name, False]:14.1f}{figures[load.name, True]:10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
