"""A real control plane for tests: a certificate authority and a nats-server as the embedded cluster runs them.

The authority works in this process, so that a test makes identities of any kind and name in a millisecond;
the NATS server is the real program with the real configuration.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from services.certs.app import make_streams
from services.certs.authority import Authority
from services.certs.nats_files import CONFIG, write_nats_files
from services.certs.settings import CertsSettings
from services.certs.vault import Vault
from stoscore import nats_server
from stoscore.bus import Bus
from stoscore.identity import Identity

START_TIMEOUT_S = 15.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsProcess:
    """One nats-server that can be killed and started again on its directory."""

    def __init__(self, config: Path, port: int, log: Path):
        self.config, self.port, self._log = config, port, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([nats_server.executable(), "-c", self.config], stdout=log, stderr=log)
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"nats-server did not start:\n{self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def logged(self) -> str:
        return self._log.read_text()


class ControlPlane:
    """Authority, NATS server and streams in one directory."""

    def __init__(self, directory: Path, *, certificate_life_s: int = 4 * 86_400):
        self.directory = directory
        port = free_port()
        self.settings = CertsSettings(
            data_dir=directory / "certs",
            admin_socket=directory / "admin.sock",
            port=free_port(),
            nats_port=port,
            certificate_life_s=certificate_life_s,
        )
        self.vault = Vault(self.settings.data_dir)
        self.authority = Authority(self.settings, self.vault, lambda: datetime.now(UTC))
        write_nats_files(self.authority)
        configuration = self.settings.nats_directory / CONFIG
        self.nats = NatsProcess(configuration, port, directory / "nats.log")
        self.nats_urls = [f"tls://127.0.0.1:{port}"]

    def start(self) -> None:
        self.nats.start()
        asyncio.run(self.make_streams())

    async def make_streams(self) -> None:
        bus = await Bus.connect(self.identity("svc", "certs"), self.nats_urls, name="certs", wait=True)
        await make_streams(self.authority, bus)
        await bus.close()

    def stop(self) -> None:
        self.nats.kill()
        self.vault.close()

    def identity(self, kind: str, name: str) -> Identity:
        """The identity of that kind and name; made at the first call."""
        return self.authority.own_identity(self.directory / "identities" / f"{kind}-{name}", kind, name)

    def environment(self, identity_dir: Path) -> dict[str, str]:
        """What a service's process needs to find this control plane."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
        return ours | {
            "STOS_IDENTITY_DIR": str(identity_dir),
            "STOS_NATS_URLS": ",".join(self.nats_urls),
            "STOS_LOG_FORMAT": "plain",
        }
