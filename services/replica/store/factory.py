"""How a block store is chosen: plugins of group `stos.block_stores` make, open and remove replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from services.replica.store.directory import remove
from services.replica.store.file_store import FileStore
from services.replica.store.format import Format
from services.replica.store.port import BlockStore


class StoreFactory(Protocol):
    """The plugin's contract. All calls block and come from a worker thread."""

    def create(self, directory: Path, format: Format, boot_id: str) -> BlockStore:
        """A new, empty replica, durable and open. Raises StoreError and leaves nothing half made."""

    def clone(self, source: BlockStore, snapshot: str, directory: Path, format: Format, boot_id: str) -> BlockStore:
        """A new replica that holds what the open source held when it was sealed under that name, durable and open; the
        source stays in use. Raises NoSnapshot, StoreError and leaves nothing half made."""

    def open(self, directory: Path, *, cluster: str, boot_id: str, volume: str | None = None) -> BlockStore:
        """Open and recover. Raises FormatError, StoreError."""

    def remove(self, directory: Path) -> None:
        """Give the space of a closed replica back. Idempotent. Raises StoreError."""


class FileStoreFactory:
    """The plugin `file`: sparse files with checksums beside them."""

    def create(self, directory: Path, format: Format, boot_id: str) -> BlockStore:
        return FileStore.create(directory, format, boot_id)

    def clone(self, source: BlockStore, snapshot: str, directory: Path, format: Format, boot_id: str) -> BlockStore:
        assert isinstance(source, FileStore)  # all replicas of a node are this factory's
        return source.clone(snapshot, directory, format, boot_id)

    def open(self, directory: Path, *, cluster: str, boot_id: str, volume: str | None = None) -> BlockStore:
        return FileStore.open(directory, cluster=cluster, boot_id=boot_id, volume=volume)

    def remove(self, directory: Path) -> None:
        remove(directory)
