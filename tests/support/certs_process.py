"""The certs service as its own process, with the NATS service beside it, as a cluster starts them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stoscore.bus import Bus
from stoscore.enrolment import enrol, issue_token
from stoscore.files import write_private
from stoscore.identity import Identity
from stoscore.invitations import JoinToken
from tests.support.nats_service import NatsService, free_port

START_TIMEOUT_S = 30.0


class CertsProcess:
    """`stos serve certs` in a directory of its own; a subclass may host more services in the process."""

    services: tuple[str, ...] = ("certs",)

    def __init__(self, directory: Path, **settings: str):
        self.directory = directory
        self.data = directory / "certs"
        self.socket = directory / "admin.sock"
        self.port = free_port()
        self.nats = NatsService(directory, directory / "identities" / "svc-nats", free_port())
        self.nats_urls = [self.nats.url]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
        self.environment = clean | {
            "STOS_NATS_URLS": self.nats_urls[0],
            "STOS_LOG_FORMAT": "plain",
            "STOS_CERTS_DATA_DIR": str(self.data),
            "STOS_CERTS_ADMIN_SOCKET": str(self.socket),
            "STOS_CERTS_PORT": str(self.port),
            **settings,
        }
        self.log = directory / "certs.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [sys.executable, "-m", "services.cli.main", "serve", *self.services]

    def start(self) -> None:
        offset = len(self.logged())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), env=self.environment, stdout=log, stderr=log)
        end = time.monotonic() + START_TIMEOUT_S
        while "certs is ready" not in self.logged()[offset:]:
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"certs did not start:\n{self.logged()[-3000:]}")
            time.sleep(0.02)
        if not self.nats.token_file.exists():
            token = asyncio.run(issue_token(self.socket, "svc", "nats"))
            write_private(self.nats.token_file, token.encode("ascii"))

    def run_to_end(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """A start that is expected to fail."""
        return subprocess.run(
            self.command(), env=self.environment | settings, capture_output=True, text=True, timeout=30
        )

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(20)

    def stop(self) -> None:
        self.kill()
        self.nats.kill()

    async def enrolled(self, kind: str, name: str, role: str = "") -> Identity:
        """An identity that was enrolled through the front door; a user is an administrator unless its role is given."""
        role = role or ("admin" if kind == "user" else "")
        token = JoinToken.decode(await issue_token(self.socket, kind, name, role=role))
        directory = self.directory / "identities" / f"{kind}-{name}"
        await enrol(directory, token)
        return Identity.load(directory)

    async def bus(self, identity: Identity) -> Bus:
        bus = await Bus.connect(identity, self.nats_urls, name=f"test {identity.name}")
        async with asyncio.timeout(10):
            while not bus.connected:
                await asyncio.sleep(0.02)
        return bus
