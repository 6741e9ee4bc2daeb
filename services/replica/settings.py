"""The settings of the replica service."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from services.replica.brain import Timing
from services.replica.health import Health
from services.replica.replication.pace import PaceLimits
from services.replica.replication.recovery import RecoveryLimits
from services.replica.scrubbing import Pace
from stoscore.limits import valid_node_name
from stoscore.settings import ServiceSettings
from stoscore.units import GIB, MIB, MS, SECOND


class ReplicaSettings(ServiceSettings):
    """One node's block store, peer links, frontends and brains."""

    service: ClassVar[str] = "replica"

    node: str = Field(description="this node's id; must be the one its certificate names")
    zone: str = Field(default="default", max_length=63, description="failure domain; copies go to different ones")
    data_dir: Path = Field(default=Path("/var/lib/stos/data"), description="directory of the replicas")
    run_dir: Path = Field(default=Path("/run/stos"), description="directory of the NBD sockets")
    holder: Path | None = Field(
        default=None,
        description="Unix socket of the holder (`stos serve holder`), which keeps the NBD sockets open while this "
        "service restarts; by default the sockets are the service's own",
    )
    listen: str = Field(
        default="0.0.0.0:7770",
        description="host:port of the peer link",
    )
    advertise: str = Field(default="", description="host:port that other nodes dial; default: what listen says")
    accepts_copies: bool = Field(default=True, description="false: this node only uses volumes")
    capacity_bytes: int = Field(
        default=0, ge=0, description="space for replicas in bytes; 0: what the file system has free at start"
    )
    boot_id_file: Path = Field(
        default=Path("/proc/sys/kernel/random/boot_id"),
        description="file whose content changes when the host loses its page cache",
    )
    disk_threads: int = Field(default=8, ge=2, le=64, description="threads that wait for the disk")
    lease_ms: int = Field(
        default=500, ge=100, le=10_000, description="milliseconds a promise binds; a failover takes about one"
    )
    beat_ms: int = Field(default=100, ge=10, description="milliseconds between beats; a lease survives two lost ones")
    grace_s: float = Field(
        default=60.0, ge=0.0, le=86_400.0, description="seconds that a lost copy may come back before another is made"
    )

    scrub_period_s: float = Field(
        default=604_800.0, ge=1.0, description="seconds within which everything stored here is read and verified again"
    )
    scrub_mib_s: float = Field(
        default=32.0, ge=0.1, description="MiB a second that this reads at most, when it is behind its period"
    )
    rotten_blocks_max: int = Field(
        default=100, ge=0, description="rotten blocks within a day beyond which a copy is made elsewhere instead"
    )

    recovery_mib_s: float = Field(
        default=1024.0, ge=0.1, description="MiB a second that this node sends at most to copies that catch up, in all"
    )
    recovery_floor_mib_s: float = Field(
        default=16.0, ge=0.1, description="MiB a second that it sends to them whatever the applications' latency is"
    )
    recovery_p99_factor: float = Field(
        default=1.5, ge=1.0, description="how much the p99 of requests may grow before recovery slows down to its floor"
    )
    recovery_copies: int = Field(
        default=32, ge=1, le=4096, description="messages of 256 KiB on their way to copies that catch up, in all"
    )

    @field_validator("node")
    @classmethod
    def _is_label(cls, node: str) -> str:
        if not valid_node_name(node):
            raise ValueError(f"{node!r} is no node name: lower-case letters, digits and '-'")
        return node

    @field_validator("listen")
    @classmethod
    def _has_port(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{listen!r} is no host:port")
        return listen

    def capacity(self, free_bytes: int) -> int:
        return self.capacity_bytes or min(free_bytes, 1024 * GIB)

    def health(self) -> Health:
        return Health(self.rotten_blocks_max, 86_400 * SECOND)

    def scrub_pace(self) -> Pace:
        return Pace(int(self.scrub_period_s * SECOND), int(self.scrub_mib_s * MIB))

    def recovery(self) -> RecoveryLimits:
        ceiling = int(self.recovery_mib_s * MIB)
        floor = min(ceiling, int(self.recovery_floor_mib_s * MIB))
        return RecoveryLimits(PaceLimits(floor, ceiling, self.recovery_p99_factor), self.recovery_copies)

    def timing(self) -> Timing:
        lease_ns = self.lease_ms * MS
        grace_ns = int(self.grace_s * SECOND)
        return Timing(lease_ns=lease_ns, beat_ns=self.beat_ms * MS, suspect_ns=lease_ns * 9 // 10, grace_ns=grace_ns)
