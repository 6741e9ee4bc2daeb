"""What a new replica of this node may begin as: a snapshot that another replica here holds.

Only who may have a volume made at all asks for it (`access`), and no node on its own: it would read volumes that it
has no business with. Whoever asks names the snapshot by volume, name and root hash, as the volume's primary told them;
a snapshot that was dropped and taken again under its name is another one. What this node has not heard of *yet* is said
to be unavailable, because a record may still be on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.replica.brain import Snapshot
from services.replica.driver import Node
from services.replica.hosted import Hosted
from services.replica.store import BlockStore, Format, StoreFactory
from stoscore.errors import Code, StosError, invalid, precondition, unavailable
from stoscore.messages import CreateReplica, SnapshotSource
from stoscore.units import BLOCK_BYTES, format_size


@dataclass(frozen=True, slots=True)
class Source:
    """An open replica of this node, and the sealed layer in it, with the size and root hash that its record names."""

    store: BlockStore
    layer: str
    size_bytes: int
    root: str

    def clone(self, path: Path, format: Format, boot_id: str, factory: StoreFactory) -> BlockStore:
        """Blocking. Its checksums say that it is what was asked for, or it is not made. Raises StosError,
        StoreError."""
        store = factory.clone(self.store, self.layer, path, format, boot_id)
        try:
            root = store.origin_root(self.size_bytes // BLOCK_BYTES)
            if root != self.root:
                raise StosError(Code.DATA_LOSS, f"this node's copy of the snapshot has root {root}, not {self.root}")
        except BaseException:
            store.close(clean=False)
            factory.remove(path)
            raise
        return store


def source_of(request: CreateReplica, source: SnapshotSource, node: Node, hosted: Mapping[str, Hosted]) -> Source:
    """Raises StosError."""
    if request.kind != "data" or request.joins:
        raise invalid("only the first data copies of a volume begin as a snapshot")
    if request.volume == source.volume:
        raise invalid("a volume can't begin as a snapshot of itself")
    snapshot = _held(source, node)
    if (snapshot.size_bytes, snapshot.root) != (source.size_bytes, source.root):
        raise precondition(
            f"snapshot {source.snapshot} of volume {source.volume} is another one by now (root {snapshot.root})",
            "remove what was begun, and begin again",
        )
    if request.size_bytes < snapshot.size_bytes:
        raise StosError(
            Code.OUT_OF_RANGE,
            f"the snapshot has {format_size(snapshot.size_bytes)}, and the volume would have less",
            next_step=f"ask for at least {snapshot.size_bytes} bytes",
        )
    store = hosted[source.volume].store
    if store is None:
        raise _not_here(source, "this node's member of it is a witness")
    return Source(store, snapshot.layer, snapshot.size_bytes, snapshot.root)


def _held(source: SnapshotSource, node: Node) -> Snapshot:
    volume = node.volumes.get(source.volume)
    if volume is None:
        raise _not_here(source, "this node has no member of the volume")
    record = volume.brain.record
    snapshot = record.snapshot(source.snapshot) if record is not None and not record.deleted else None
    if snapshot is None:
        raise _not_here(source, "no record that this node has heard of names it")
    if snapshot.state != "ready":
        raise _not_here(source, "it is not ready")
    if volume.brain.me.incarnation not in snapshot.holders:
        raise _not_here(source, "this node's copy lacks it")
    return snapshot


def _not_here(source: SnapshotSource, why: str) -> StosError:
    return unavailable(
        f"snapshot {source.snapshot} of volume {source.volume} is not here: {why}", "see `stos snapshot ls`"
    )
