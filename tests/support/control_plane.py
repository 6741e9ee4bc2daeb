"""A real control plane for tests: a certificate authority and a NATS service as the embedded cluster runs them.

The authority works in this process, so that a test makes identities of any kind and name in a millisecond;
the NATS server is the real program, run by the real service with the real configuration.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.streams import make_streams
from services.certs.vault import open_vault
from stoscore.bus import Bus
from stoscore.identity import Identity
from tests.support.nats_service import NatsService, free_port

__all__ = ["ControlPlane", "free_port"]


class ControlPlane:
    """Authority, NATS server and streams in one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        certificate_life_s: int = 4 * 86_400,
        nats_names: list[str] | None = None,
        clock_ahead_s: float = 0,
    ):
        self.directory = directory
        self.settings = CertsSettings(
            data_dir=directory / "certs",
            admin_socket=directory / "admin.sock",
            port=free_port(),
            certificate_life_s=certificate_life_s,
            nats_names=nats_names or [],
        )
        self.vault = open_vault(self.settings)
        self.authority = Authority(
            self.settings, self.vault, lambda: datetime.now(UTC) + timedelta(seconds=clock_ahead_s)
        )
        self.authority.own = self.identity("svc", "certs")
        self.nats = NatsService(directory, self.identity("svc", "nats").directory, free_port())
        self.nats_urls = [self.nats.url]

    def start(self) -> None:
        self.nats.start()
        asyncio.run(self.make_streams())

    async def make_streams(self) -> None:
        bus = await Bus.connect(self.identity("svc", "certs"), self.nats_urls, name="certs", wait=True)
        await make_streams(bus, self.settings.events_bytes, self.settings.events_age_s)
        await bus.close()

    def stop(self) -> None:
        self.nats.kill()
        self.vault.close()

    def identity(self, kind: str, name: str, role: str = "") -> Identity:
        """The identity of that kind and name; made at the first call. A user is an administrator unless its role is
        given."""
        directory = self.directory / "identities" / f"{kind}-{name}"
        return self.authority.own_identity(directory, kind, name, role or ("admin" if kind == "user" else ""))

    def environment(self, identity_dir: Path) -> dict[str, str]:
        """What a service's process needs to find this control plane."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
        return ours | {
            "STOS_IDENTITY_DIR": str(identity_dir),
            "STOS_NATS_URLS": ",".join(self.nats_urls),
            "STOS_LOG_FORMAT": "plain",
        }
