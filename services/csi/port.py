"""The few requests to the cluster that CSI is made of.

`stoscore.volumes.Volumes` is what runs; this names the part of it that is used here, so that the gRPC
services can be exercised without a cluster behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from stoscore.messages import (
    Apart,
    Attached,
    Capacity,
    CatalogueEntry,
    FailureMode,
    FrontendOpened,
    GroupClaim,
    OnUnavailable,
    RecordModel,
    ReplicaStatus,
    SnapshotClaim,
    SnapshotView,
    StampModel,
)
from stoscore.volumes import SourceSpec, Survey
from stoscore.volumes.snapshots import Listed


class SnapshotsPort(Protocol):
    """As `stoscore.volumes.Snapshots`; all idempotent."""

    async def take(
        self, volume: str, snapshot: str, *, since: StampModel | None = None, timeout_s: float = 30.0
    ) -> SnapshotView: ...

    async def drop(
        self,
        volume: str,
        snapshot: str,
        *,
        created_ms: int | None = None,
        fence: bool = False,
        timeout_s: float = 30.0,
    ) -> None: ...

    async def of(self, volume: str, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]: ...

    async def get(self, volume: str, snapshot: str, *, timeout_s: float = 30.0) -> SnapshotView: ...

    async def listed(self, volume: str, *, timeout_s: float = 30.0) -> Listed: ...

    async def page(self, after: str, limit: int, *, timeout_s: float = 30.0) -> tuple[Listed, str]: ...

    async def claim(self, claim: SnapshotClaim) -> SnapshotClaim | None: ...

    async def claimed(self, snapshot: str) -> SnapshotClaim | None: ...

    async def release(self, claim: SnapshotClaim) -> None: ...


class GroupsPort(Protocol):
    """As `stoscore.volumes.Groups`; all idempotent."""

    async def take(
        self, name: str, volumes: Sequence[str], *, timeout_s: float = 30.0
    ) -> tuple[GroupClaim, tuple[SnapshotView, ...]]: ...

    async def drop(self, name: str, attempt: str, *, timeout_s: float = 30.0) -> None: ...

    async def find(self, name: str) -> GroupClaim | None: ...

    async def get(self, name: str, attempt: str = "") -> GroupClaim: ...

    async def of(self, claim: GroupClaim, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]: ...


class VolumesPort(Protocol):
    """All idempotent; each raises StosError (NOT_FOUND, FAILED_PRECONDITION, UNAVAILABLE, …)."""

    @property
    def snapshots(self) -> SnapshotsPort: ...

    @property
    def groups(self) -> GroupsPort: ...

    async def create(
        self,
        name: str,
        size_bytes: int,
        *,
        replicas: int = 2,
        zones: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        failure_mode: FailureMode = "alwayson",
        on_unavailable: OnUnavailable = "suspend",
        near: str | None = None,
        source: SourceSpec | None = None,
        timeout_s: float = 30.0,
    ) -> ReplicaStatus: ...

    async def get(self, name_or_id: str) -> tuple[CatalogueEntry, ReplicaStatus | None]: ...

    async def survey(self, name_or_id: str) -> tuple[CatalogueEntry, Survey]: ...

    async def page(
        self, after: str, limit: int, *, timeout_s: float = 30.0
    ) -> tuple[list[tuple[CatalogueEntry, Survey]], str]: ...

    async def capacity(
        self, replicas: int, *, zones: Sequence[str] = (), apart: Apart = "", timeout_s: float = 30.0
    ) -> Capacity: ...

    async def attached_to(self, node: str, *, timeout_s: float = 30.0) -> int: ...

    async def set_policy(
        self,
        volume: str,
        *,
        replicas: int | None = None,
        failure_mode: FailureMode | None = None,
        on_unavailable: OnUnavailable | None = None,
        timeout_s: float = 30.0,
    ) -> RecordModel: ...

    async def expand(self, volume: str, size_bytes: int, *, timeout_s: float = 30.0) -> RecordModel: ...

    async def move_primary(self, volume: str, to: str | None = None, *, timeout_s: float = 30.0) -> ReplicaStatus: ...

    async def attach(self, volume: str, node: str, *, timeout_s: float = 30.0) -> Attached: ...

    async def detach(self, volume: str, node: str | None = None, *, timeout_s: float = 30.0) -> None: ...

    async def delete(self, name_or_id: str, *, timeout_s: float = 30.0) -> bool: ...

    async def open_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> FrontendOpened: ...

    async def close_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> None: ...
