"""A TCP proxy in user space that holds back a share of what passes, for a NATS that is far away or a bad link.

What is sent through TLS can't be told apart, so a piece is what one read gives: small requests and answers travel in a
piece each. Order is kept, as TCP keeps it: what comes behind a late piece is late as well. `share`, `delay_s` and
`bytes_per_s` may change at any time; `cut` ends what is connected.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

PIECE_BYTES = 64 * 1024


class SlowRoad:
    """Use it in a `with` block; `port` is there before the block begins."""

    def __init__(
        self,
        target: Callable[[], int],
        *,
        share: float = 0.0,
        delay_s: tuple[float, float] = (0.0, 0.0),
        bytes_per_s: int = 0,
        seed: int = 7,
    ):
        """`target`: the port behind it, asked for with each connection. `bytes_per_s`: each way of each connection; 0:
        as many as there are."""
        self.passed = 0
        self.delayed = 0
        self.share, self.delay_s, self.bytes_per_s = share, delay_s, bytes_per_s
        self._target = target
        self._choice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow road", daemon=True)
        self._ways: set[asyncio.Task[None]] = set()

    def __enter__(self) -> SlowRoad:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop
        ).result(30)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """All connections; new ones pass."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(30)

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target())
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back), (there, writer)):
            way = asyncio.create_task(self._carry(source, sink))
            self._ways.add(way)
            way.add_done_callback(self._ways.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while piece := await source.read(PIECE_BYTES):
                    self.passed += 1
                    if self._choice.random() < self.share:
                        self.delayed += 1
                        await asyncio.sleep(self._choice.uniform(*self.delay_s))
                    if self.bytes_per_s:
                        await asyncio.sleep(len(piece) / self.bytes_per_s)
                    sink.write(piece)
                    await sink.drain()
        finally:
            sink.close()
