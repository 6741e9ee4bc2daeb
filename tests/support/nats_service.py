"""`stos serve nats` as a process of its own, on a directory of its own, that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from services.dev.processes import identify

START_TIMEOUT_S = 30.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsService:
    """One NATS server. Its identity is in `identity_dir`, or is enrolled there with the token in `token_file`."""

    def __init__(self, directory: Path, identity_dir: Path, port: int, **settings: str):
        self.directory, self.port = directory, port
        self.identity_dir = identity_dir
        self.url = f"tls://127.0.0.1:{port}"
        self.token_file = directory / "nats.token"
        self._log = directory / "nats.log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
        self.environment = clean | {
            "STOS_IDENTITY_DIR": str(identity_dir),
            "STOS_JOIN_TOKEN_FILE": str(self.token_file),
            "STOS_NATS_URLS": self.url,
            "STOS_LOG_FORMAT": "plain",
            "STOS_NATS_SERVER_DATA_DIR": str(directory / "nats"),
            "STOS_NATS_SERVER_PORT": str(port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Without waiting until it is ready."""
        self._offset = len(self.logged())
        command = [sys.executable, "-m", "services.cli.main", "serve", "nats"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_TIMEOUT_S
        while "nats is ready" not in self.logged()[self._offset :]:
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the NATS service did not start:\n{self.logged()[-3000:]}")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of the service."""
        assert self._process is not None
        return self._process.pid

    @property
    def server_pid(self) -> int:
        """Of its child, the nats-server; 0 while there is none."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """As a crash would, both of them; returns the service's exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is not None:
            return process.returncode
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        servers = [found for child in children if (found := identify(int(child))) is not None]
        process.send_signal(number)
        code = process.wait(30)
        end = time.monotonic() + 10
        while any(identify(server.pid) == server for server in servers):
            assert time.monotonic() < end, "the nats-server outlives its service"
            time.sleep(0.01)
        return code

    def logged(self) -> str:
        return self._log.read_text() if self._log.exists() else ""
