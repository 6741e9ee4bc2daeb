"""Where everything of an embedded cluster lies, as plain arithmetic on paths.

    DIR/cluster.json         what was made and which processes we started
    DIR/lock                 held by a command while it changes the cluster
    DIR/logs/NAME.log        output of each process
    DIR/certs/               the CA's own state, which both instances of certs share
    DIR/nats/                the NATS server's configuration and streams
    DIR/identities/NAME/     key, certificate and NATS credentials of each process
    DIR/tokens/NAME          one-time join tokens (used up at the first start)
    DIR/data/NODE/           the replicas of a node
    DIR/csi/                 what the CSI node service has attached
    RUN/                     Unix sockets

RUN is DIR/run, unless that would make socket paths longer than the kernel allows (108 bytes).
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 107
"""sockaddr_un.sun_path with its final zero (unix(7))."""
_LONGEST_SOCKET_NAME_BYTES = 60
"""NODE/<volume id>.sock and what else a service may add."""

COPY_NODES_MIN = 1
COPY_NODES_MAX = 16
APP = "app"
"""The node without copies, on which volumes are used."""
ADMIN = "admin"
"""The user that the `stos` command is, and its role."""
CERTS = ("certs-1", "certs-2")
"""The instances of the authority: either of them will do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one embedded cluster. `root` is absolute."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def certs(self) -> Path:
        return self.root / "certs"

    @property
    def nats(self) -> Path:
        return self.root / "nats"

    @property
    def run(self) -> Path:
        """Where the Unix sockets are; below the temporary directory when the cluster's own is too deep."""
        near = self.root / "run"
        if len(bytes(near)) + 1 + _LONGEST_SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX:
            return near
        name = hashlib.sha256(bytes(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"stos-{name}"

    @property
    def csi(self) -> Path:
        return self.root / "csi"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def identity(self, process: str) -> Path:
        return self.root / "identities" / process

    def token(self, process: str) -> Path:
        return self.root / "tokens" / process

    def data(self, node: str) -> Path:
        return self.root / "data" / node

    def socket_directory(self, process: str) -> Path:
        return self.run / process

    def certs_socket(self, instance: str) -> Path:
        return self.run / f"{instance}.sock"

    @property
    def certs_admin_socket(self) -> Path:
        """Of the first instance."""
        return self.certs_socket(CERTS[0])

    def csi_socket(self, part: str) -> Path:
        """`part` is controller or node."""
        return self.run / f"csi-{part}.sock"


def copy_nodes(count: int) -> list[str]:
    """n1, n2, …: the nodes that hold copies."""
    return [f"n{number}" for number in range(1, count + 1)]
