"""What the tests of the csi service share: volumes kept in memory, and messages that are right."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from stoscore.errors import Code, StosError, not_found, precondition
from stoscore.messages import (
    Attached,
    AttachmentModel,
    CatalogueEntry,
    FrontendOpened,
    RecordModel,
    ReplicaStatus,
    VoterModel,
)
from stoscore.proto import csi_pb2 as pb
from stoscore.units import GIB

SINGLE = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER


def mounted(fs_type: str = "", mode: Any = SINGLE, flags: Sequence[str] = ()) -> pb.VolumeCapability:
    capability = pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(fs_type=fs_type, mount_flags=flags))
    capability.access_mode.mode = mode
    return capability


def block(mode: Any = SINGLE) -> pb.VolumeCapability:
    capability = pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume())
    capability.access_mode.mode = mode
    return capability


def create_request(
    name: str = "pvc-1",
    required_bytes: int = GIB,
    limit_bytes: int = 0,
    capability: pb.VolumeCapability | None = None,
    **parameters: str,
) -> pb.CreateVolumeRequest:
    return pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=required_bytes, limit_bytes=limit_bytes),
        volume_capabilities=[capability or mounted()],
        parameters=parameters,
    )


class MemoryVolumes:
    """The volumes of a cluster with a pool of `pool_bytes`, by the rules that `stoscore.volumes.Volumes`
    keeps; a frontend is served where `export` says."""

    def __init__(self, *, nodes: Sequence[str] = ("n1", "app"), pool_bytes: int = 100 * GIB) -> None:
        self.records: dict[str, RecordModel] = {}
        self.frontends: set[tuple[str, str]] = set()
        self.sockets: dict[str, str] = {}
        """volume -> path of the NBD socket that serves it"""
        self.asked: list[str] = []
        self._nodes = nodes
        self._pool_bytes = pool_bytes

    async def create(
        self,
        name: str,
        size_bytes: int,
        *,
        replicas: int = 2,
        zones: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> ReplicaStatus:
        self.asked.append(f"create {name} zones={','.join(zones)}")
        for record in self.records.values():
            if record.name == name:
                if (record.size_bytes, record.replicas) != (size_bytes, replicas):
                    raise StosError(Code.ALREADY_EXISTS, f"volume {name} has {record.size_bytes} bytes")
                return _status(record)
        if size_bytes > self._pool_bytes:
            raise StosError(Code.RESOURCE_EXHAUSTED, "no node has room for it")
        record = RecordModel(
            volume=secrets.token_hex(16),
            name=name,
            size_bytes=size_bytes,
            replicas=replicas,
            generation=0,
            epoch=1,
            version=1,
            voters=[VoterModel(node="n1", incarnation="0" * 16)],
            in_sync=[],
            labels=dict(labels or {}),
        )
        self.records[record.volume] = record
        return _status(record)

    async def get(self, name_or_id: str) -> tuple[CatalogueEntry, ReplicaStatus | None]:
        record = self._record(name_or_id)
        return _entry(record), _status(record)

    async def list(self) -> list[tuple[CatalogueEntry, ReplicaStatus | None]]:
        return [(_entry(record), None) for record in self.records.values()]

    async def attach(self, volume: str, node: str, *, timeout_s: float = 30.0) -> Attached:
        record = self._record(volume)
        if node not in self._nodes:
            raise not_found(f"there is no node {node}")
        if record.attachment is None:
            epoch = record.attach_epoch + 1
            attachment = AttachmentModel(node=node, attach_epoch=epoch)
            record = record.model_copy(update={"attachment": attachment, "attach_epoch": epoch})
            self.records[volume] = record
        assert record.attachment is not None
        if record.attachment.node != node:
            raise precondition(f"the volume is attached to {record.attachment.node}")
        return Attached(record=record, attach_epoch=record.attach_epoch)

    async def detach(self, volume: str, node: str | None = None, *, timeout_s: float = 30.0) -> None:
        record = self._record(volume)
        if record.attachment is not None and node in (None, record.attachment.node):
            self.records[volume] = record.model_copy(update={"attachment": None})

    async def delete(self, name_or_id: str, *, timeout_s: float = 30.0) -> bool:
        self.asked.append(f"delete {name_or_id}")
        record = self.records.get(name_or_id)
        if record is not None and record.attachment is not None:
            raise precondition(f"the volume is attached to {record.attachment.node}")
        return self.records.pop(name_or_id, None) is not None

    async def open_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> FrontendOpened:
        record = self._record(volume)
        if record.attachment is None or record.attachment.node != node:
            raise precondition(f"the volume is not attached to {node}")
        self.frontends.add((volume, node))
        path = self.sockets.get(volume, f"/run/{volume}.sock")
        return FrontendOpened(node=node, socket=path, uri=f"nbd+unix:///{record.name}?socket={path}")

    async def close_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> None:
        self._record(volume)
        self.frontends.discard((volume, node))

    def _record(self, volume: str) -> RecordModel:
        if volume not in self.records:
            raise not_found(f"there is no volume {volume}")
        return self.records[volume]


def _status(record: RecordModel) -> ReplicaStatus:
    return ReplicaStatus(
        node="n1", incarnation="0" * 16, role="primary", epoch=record.epoch, serving=True, record=record
    )


def _entry(record: RecordModel) -> CatalogueEntry:
    return CatalogueEntry(
        volume=record.volume,
        name=record.name,
        size_bytes=record.size_bytes,
        replicas=record.replicas,
        nodes=["n1"],
        labels=record.labels,
        state="ready",
    )
