"""The nats-server program as our child: started, read, restarted, ended with us.

It must not outlive us. A server without its service would keep the port, log to nobody, and never learn of a new
certificate or a revocation that needs its files read again. So the kernel is asked to kill it when its parent dies,
however that happens (PR_SET_PDEATHSIG, prctl(2)).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

from stoscore import nats_server
from stoscore.errors import precondition
from stoscore.telemetry import get_logger

RESTART_MIN_S, RESTART_MAX_S = 0.25, 5.0
STEADY_S = 10.0
"""A server that ran so long did not die of its start: the next wait is the shortest again."""
STOP_S = 10.0
LINE_BYTES_MAX = 64 << 10
_PR_SET_PDEATHSIG = 1

log = get_logger("nats")


def _die_with(parent: int) -> None:
    """In the child, before the program runs."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel was asked


class NatsChild:
    """Keeps one nats-server running on a configuration file. `on_line` gets every line that it logs."""

    def __init__(self, config: Path, on_line: Callable[[str], None]):
        self._config = config
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        """Until it is cancelled, which ends the server in its own order."""
        wait_s = RESTART_MIN_S
        loop = asyncio.get_running_loop()
        try:
            while True:
                began_s = loop.time()
                code = await self._run()
                if loop.time() - began_s > STEADY_S:
                    wait_s = RESTART_MIN_S
                log.error("nats-server ended with code %d; started again in %.2f s", code, wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RESTART_MAX_S)
        finally:
            await self._stop()

    def reload(self) -> None:
        """It reads its configuration and certificate again; connections stay."""
        self._signal(signal.SIGHUP)

    def restart(self) -> None:
        """Ended in its own order; `keep_running` starts the next one."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    async def _run(self) -> int:
        parent = os.getpid()
        try:
            self._process = await asyncio.create_subprocess_exec(
                nats_server.executable(),
                "-c",
                self._config,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=LINE_BYTES_MAX,
                preexec_fn=lambda: _die_with(parent),
            )
        except OSError as error:
            raise precondition(f"nats-server can't be started: {error.strerror}") from None
        assert self._process.stdout is not None
        await self._read(self._process.stdout)
        return await self._process.wait()

    async def _read(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:
                continue  # longer than the limit; what is left of it follows as further lines
            if not line:
                return
            try:
                self._on_line(line.decode("utf-8", "replace").rstrip())
            except Exception:
                # One line that is not understood must not stop the reading: the server would block on a full pipe.
                log.exception("a line of nats-server was not understood")

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                assert process.stdout is not None
                await self._read(process.stdout)
                await process.wait()
        except TimeoutError:
            log.error("nats-server does not stop; killed")
            self._signal(signal.SIGKILL)
            await process.wait()
