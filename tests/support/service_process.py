"""`stos serve SERVICE` as a process of its own, with everything it logs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


class ServiceProcess:
    """One process with an identity directory of its own below `directory`."""

    def __init__(self, service: str, directory: Path, *, wrapper: Sequence[str] = (), **settings: str):
        self.identity_dir = directory / "identity"
        self.token_file = directory / "token"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
        self.environment = clean | {
            "STOS_IDENTITY_DIR": str(self.identity_dir),
            "STOS_JOIN_TOKEN_FILE": str(self.token_file),
            "STOS_LOG_FORMAT": "plain",
            **settings,
        }
        self._command = [*wrapper, sys.executable, "-m", "services.cli.main", "serve", service]
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            # A group of its own: a wrapper that is killed would leave the service behind.
            self._process = subprocess.Popen(
                self._command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def logged(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    async def wait_logged(self, text: str, *, timeout_s: float = 60.0, offset: int = 0) -> str:
        """Until it has logged that, after `offset`. Returns the line. Raises AssertionError when it never does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while True:
            lines = [line for line in self.logged()[offset:].splitlines() if text in line]
            if lines:
                return lines[0]
            ended = self._process is not None and self._process.poll() is not None
            if ended or loop.time() > end:
                raise AssertionError(f"it never said {text!r}:\n{self.logged()[-4000:]}")
            await asyncio.sleep(0.05)

    async def wait_end(self, timeout_s: float = 60.0) -> int:
        """The exit code, when it ends by itself."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, timeout_s)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, number: int = signal.SIGKILL) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        return process.wait(60)
