"""What every process counts of itself: CPU, memory, the event loop's lag, the bus, its certificate, its spans."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stoscore import metrics, telemetry
from stoscore.bus import Bus
from stoscore.metrics import Histogram, Sample

LOOK_S = 0.25
PUSH_S = 15.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class LoopLag:
    """How late the event loop is: it asks to be woken, four times a second, and looks how much later it is."""

    def __init__(self) -> None:
        self.seen = Histogram()
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + LOOK_S
        self._handle = loop.call_at(due_s, self._woken, due_s)

    def _woken(self, due_s: float) -> None:
        self.seen.record(max(0.0, asyncio.get_running_loop().time() - due_s))
        self.start()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class ProcessMetrics:
    """The source for the process as a whole."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._began_s = time.monotonic()
        self._lag = LoopLag()

    def start(self) -> None:
        self._lag.start()
        metrics.register(self.samples)

    def stop(self) -> None:
        self._lag.stop()
        metrics.unregister(self.samples)

    def samples(self) -> Iterator[Sample]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield Sample("stos.build", 1, (self._version,))
        yield Sample("process.cpu.time", used.ru_utime + used.ru_stime)
        yield Sample("process.memory.usage", _resident_bytes())
        yield Sample("stos.process.uptime", time.monotonic() - self._began_s)
        yield metrics.sampled("stos.loop.lag", self._lag.seen)
        store = telemetry.store
        if store is not None:
            yield Sample("stos.spans", store.kept, ("kept",))
            yield Sample("stos.spans", store.dropped, ("dropped",))


class BusMetrics:
    """The source for one service's connection and identity."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._connections = 0

    def start(self) -> None:
        self._bus.on_connected.append(self._connected)
        self._connections = int(self._bus.connected)
        metrics.register(self.samples)

    def stop(self) -> None:
        """Idempotent, and good before `start`."""
        metrics.unregister(self.samples)

    async def _connected(self) -> None:
        self._connections += 1

    def samples(self) -> Iterator[Sample]:
        identity = self._bus.identity
        who = (str(self._bus.me),)
        now_s = time.time()
        yield Sample("stos.bus.connected", int(self._bus.connected), who)
        yield Sample("stos.bus.connections", self._connections, who)
        yield Sample("stos.bus.subscriptions", self._bus.subscriptions, who)
        yield Sample("stos.certificate.age", now_s - identity.peer.issued_s, who)
        yield Sample("stos.certificate.remaining", identity.not_after.timestamp() - now_s, who)
        state = identity.trust_state
        if state is not None:
            yield Sample("stos.trust.number", state.number, who)


async def push(send: Callable[[list[Sample]], None]) -> None:
    """Hand everything over, again and again, until cancelled. `send` waits for a collector in a thread of its
    own; while one call hangs no other is made, so a dead collector costs one thread and one collection."""
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="otlp metrics")
    try:
        while True:
            await asyncio.sleep(PUSH_S)
            await loop.run_in_executor(thread, send, metrics.collect())
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
