"""One replica's blocks on one disk: data, checksums, intent log, tail, hard state. See docs/format.md."""

from services.replica.store.check import Report, check
from services.replica.store.cure import Cure, judge
from services.replica.store.digest import Digest, digest
from services.replica.store.directory import clear_leftovers, remove
from services.replica.store.extents import EXTENTS_MAX
from services.replica.store.factory import FileStoreFactory, StoreFactory
from services.replica.store.file_store import FileStore
from services.replica.store.format import Format, read_format
from services.replica.store.port import (
    Blocks,
    BlockStore,
    CorruptBlocks,
    FormatError,
    NoSnapshot,
    StoreError,
    Unproved,
)
from services.replica.store.scattered import by_region
from services.replica.store.state import STATE_BYTES_MAX
from services.replica.store.sums import FAN_OUT, GROUP_BLOCKS, block_sums, node, nodes
from services.replica.store.sums import verify as verify_sums
from services.replica.store.tree import GROUPS, REGIONS, span_of
from services.replica.store.witness import WitnessStore

__all__ = [
    "EXTENTS_MAX",
    "FAN_OUT",
    "GROUPS",
    "GROUP_BLOCKS",
    "REGIONS",
    "STATE_BYTES_MAX",
    "BlockStore",
    "Blocks",
    "CorruptBlocks",
    "Cure",
    "Digest",
    "FileStore",
    "FileStoreFactory",
    "Format",
    "FormatError",
    "NoSnapshot",
    "Report",
    "StoreError",
    "StoreFactory",
    "Unproved",
    "WitnessStore",
    "block_sums",
    "by_region",
    "check",
    "clear_leftovers",
    "digest",
    "judge",
    "node",
    "nodes",
    "read_format",
    "remove",
    "span_of",
    "verify_sums",
]
