"""What a CSI request must look like before anything is done for it.

Each function takes a message (or a part) as it arrived and returns it in the project's own words, or
raises a `StosError` that names the field and the offending value. Nothing here asks the cluster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.csi import parameters, snapshot_names, topology
from services.csi.parameters import FS_BYTES_MIN
from stoscore.errors import Code, StosError, invalid, not_found
from stoscore.limits import (
    NAME_BYTES_MAX,
    VOLUME_BYTES_DEFAULT,
    VOLUME_BYTES_MAX,
    VOLUME_BYTES_MIN,
    valid_node_name,
    valid_volume_id,
    valid_volume_name,
)
from stoscore.messages import FS_LABEL
from stoscore.proto import csi_pb2 as pb
from stoscore.units import MIB, format_size
from stoscore.volumes.naming import SourceSpec, check_mode

SOURCE_LABEL = "stos.dev/source"
"""The volume, or the snapshot, that a volume began as."""
FS_DEFAULT = "ext4"
PATH_BYTES_MAX = 4095
MOUNT_OPTIONS_BYTES_MAX = 4095
_READABLE_CHARS = 80

_ONE_NODE_MODES = frozenset(
    {
        pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER,
        pb.VolumeCapability.AccessMode.SINGLE_NODE_READER_ONLY,
        pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER,
        pb.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER,
    }
)
# Options that change what is mounted, not how: with them the volume at the path would be another one.
_FLAGS_REFUSED = re.compile(
    r"(bind|rbind|remount|move|loop|offset|sizelimit|(r?(shared|private|slave)))(=.*)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Access:
    """How a volume is to be used: as a mounted filesystem, or as a raw block device."""

    block: bool
    fs_type: str
    """ext4, xfs, or empty when the caller leaves the choice."""
    mount_flags: tuple[str, ...]
    readonly: bool
    one_writer: bool = False
    """One target path at a time, whatever asks."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size to make, and the range in which an existing volume's may lie; a limit of 0 is none. Without a range a
    volume that begins as something has the size of that."""

    chosen_bytes: int
    required_bytes: int
    limit_bytes: int

    def allow(self, size_bytes: int) -> bool:
        return self.required_bytes <= size_bytes and (not self.limit_bytes or size_bytes <= self.limit_bytes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A CreateVolume request that makes sense."""

    name: str
    sizes: Sizes
    asked: parameters.Class
    fs_type: str
    """Empty for a raw block volume."""
    labels: dict[str, str]
    zones: tuple[str, ...]
    near: str | None
    source: SourceSpec | None = None


def create(request: pb.CreateVolumeRequest) -> Wanted:
    """Raises INVALID_ARGUMENT or OUT_OF_RANGE, naming what is wrong."""
    name = _name(request.name)
    source = _source(request.volume_content_source) if request.HasField("volume_content_source") else None
    uses = capabilities(request.volume_capabilities)
    asked = parameters.of_class(request.parameters, request.mutable_parameters)
    check_mode(asked.failure_mode, asked.replicas)
    fs_type = one_fs_type(uses, asked.fs_type)
    labels = asked.labels | ({FS_LABEL: fs_type} if fs_type else {})
    sizes = capacity(request.capacity_range if request.HasField("capacity_range") else None, fs_type)
    where = request.accessibility_requirements
    wish = topology.near(where.preferred)
    if source is not None:
        labels[SOURCE_LABEL] = source.volume + (f".{source.snapshot}" if source.snapshot else "")
    near = wish if asked.local else None
    return Wanted(name, sizes, asked, fs_type, labels, topology.zones(where.requisite), near, source)


def _source(given: pb.VolumeContentSource) -> SourceSpec:
    """Raises NOT_FOUND for an id that nothing can have."""
    match given.WhichOneof("type"):
        case "snapshot":
            named = snapshot_names.of_id(given.snapshot.snapshot_id)
            if not given.snapshot.snapshot_id:
                raise invalid("volume_content_source.snapshot.snapshot_id is empty")
            if named is None:
                raise not_found(f"there is no snapshot {given.snapshot.snapshot_id[:64]!r}")
            return SourceSpec(*named)
        case "volume":
            return SourceSpec(volume_id(given.volume.volume_id))
    raise invalid("volume_content_source is neither a snapshot nor a volume")


def capacity(wanted: pb.CapacityRange | None, fs_type: str) -> Sizes:
    """What a range allows for a volume with that file system, or none."""
    chosen = size(wanted, FS_BYTES_MIN[fs_type] if fs_type else VOLUME_BYTES_MIN)
    return Sizes(chosen, wanted.required_bytes if wanted else 0, wanted.limit_bytes if wanted else 0)


def expansion(request: pb.ControllerExpandVolumeRequest) -> Sizes:
    if not request.HasField("capacity_range"):
        raise invalid("capacity_range is missing")
    if request.HasField("volume_capability"):
        access(request.volume_capability)
    return capacity(request.capacity_range, "")


def size(wanted: pb.CapacityRange | None, minimum_bytes: int = VOLUME_BYTES_MIN) -> int:
    """The size to make, a whole number of MiB within the range; the default when there is no range.

    A range in which both ends are 0 says nothing, and the specification demands that it says something.
    """
    if wanted is None:
        return max(VOLUME_BYTES_DEFAULT, minimum_bytes)
    required, limit = wanted.required_bytes, wanted.limit_bytes
    for field, value in (("required_bytes", required), ("limit_bytes", limit)):
        if value < 0:
            raise invalid(f"capacity_range.{field} is negative: {value}")
    if required == 0 and limit == 0:
        raise invalid("capacity_range asks for 0 bytes: set required_bytes or leave the range out")
    if limit and limit < required:
        raise _out_of_range(f"capacity_range: limit_bytes {limit} is below required_bytes {required}")
    if required > VOLUME_BYTES_MAX:
        raise _out_of_range(f"{required} bytes are more than a volume can have ({format_size(VOLUME_BYTES_MAX)})")
    if limit and limit < minimum_bytes:
        raise _out_of_range(f"limit_bytes {limit} is below the smallest such volume ({format_size(minimum_bytes)})")
    if required == 0:
        return max(min(VOLUME_BYTES_DEFAULT, limit // MIB * MIB), minimum_bytes)
    chosen = max(-(-required // MIB) * MIB, minimum_bytes)
    if limit and chosen > limit:
        raise _out_of_range(f"no whole number of MiB lies between {required} and {limit} bytes")
    return chosen


def capabilities(given: Iterable[pb.VolumeCapability]) -> list[Access]:
    """Every capability that a request lists; at least one, and all of one access type."""
    uses = [access(capability) for capability in given]
    if not uses:
        raise invalid("volume_capabilities is empty")
    if len({use.block for use in uses}) > 1:
        raise invalid("volume_capabilities ask for a block device and for a filesystem at once")
    return uses


def access(capability: pb.VolumeCapability, *, refusal: Code = Code.INVALID_ARGUMENT) -> Access:
    """One capability. `refusal` is the code for a well-formed use that volumes do not offer (the Node
    service says FAILED_PRECONDITION there, the Controller INVALID_ARGUMENT)."""
    kind = capability.WhichOneof("access_type")
    if kind is None:
        raise invalid("volume_capability has no access type: set block or mount")
    mode = capability.access_mode.mode
    if mode == pb.VolumeCapability.AccessMode.UNKNOWN:
        raise invalid("volume_capability has no access mode")
    if mode not in _ONE_NODE_MODES:
        modes = pb.VolumeCapability.AccessMode.Mode
        word = modes.Name(mode) if mode in modes.values() else str(mode)
        raise StosError(
            refusal,
            f"access mode {word} is not supported: a volume is attached to one node at a time",
            next_step="use ReadWriteOnce (SINGLE_NODE_WRITER) or ReadWriteOncePod",
        )
    readonly = mode == pb.VolumeCapability.AccessMode.SINGLE_NODE_READER_ONLY
    one_writer = mode == pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
    if kind == "block":
        return Access(True, "", (), readonly, one_writer)
    mount = capability.mount
    if mount.volume_mount_group:
        raise invalid("volume_mount_group is not supported")
    fs_type = _fs_type(mount.fs_type, "fs_type", refusal) if mount.fs_type else ""
    return Access(False, fs_type, _mount_flags(mount.mount_flags), readonly, one_writer)


def volume_id(text: str) -> str:
    """A volume id that may exist. Raises INVALID_ARGUMENT when empty, NOT_FOUND when no id looks so."""
    if not text:
        raise invalid("volume_id is empty")
    if not valid_volume_id(text):
        raise not_found(f"there is no volume {text[:64]!r}")
    return text


def node_id(text: str) -> str:
    if not text:
        raise invalid("node_id is empty")
    if not valid_node_name(text):
        raise not_found(f"there is no node {text[:64]!r}")
    return text


def path(text: str, field: str) -> str:
    """An absolute path without `..`, control characters or doubled slashes."""
    if not text:
        raise invalid(f"{field} is empty")
    parts = text.split("/")[1:]
    if not text.startswith("/") or text == "/" or not text.isprintable() or len(text.encode()) > PATH_BYTES_MAX:
        raise invalid(f"{field} is no absolute path: {text[:128]!r}")
    if ".." in parts or "." in parts:
        raise invalid(f"{field} has relative parts: {text[:128]!r}")
    return "/" + "/".join(part for part in parts if part)


def fs_of_context(volume_context: Mapping[str, Any]) -> str:
    """The filesystem that CreateVolume was asked for, as it comes back in a volume's context."""
    value = volume_context.get("fsType", "")
    return _fs_type(value, "volume_context fsType") if value else ""


def _name(text: str) -> str:
    """The volume's name: the caller's, or one made of it where that is none of ours. The specification allows a caller
    any printable name of 128 bytes, and asks that the same name always means the same volume."""
    if not text:
        raise invalid("name is empty")
    if len(text.encode()) > NAME_BYTES_MAX or not text.isprintable():
        raise invalid(f"name {text[:64]!r} is longer than {NAME_BYTES_MAX} bytes or has control characters")
    if valid_volume_name(text) and not valid_volume_id(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:_READABLE_CHARS]
    return f"{readable or 'volume'}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _fs_type(text: str, field: str, refusal: Code = Code.INVALID_ARGUMENT) -> str:
    if text not in FS_BYTES_MIN:
        raise StosError(refusal, f"{field} is {text[:32]!r}", next_step=f"use {' or '.join(FS_BYTES_MIN)}")
    return text


def one_fs_type(uses: list[Access], parameter: str) -> str:
    if uses[0].block:
        if parameter:
            raise invalid(f"a raw block volume has no filesystem, but parameters ask for {parameter}")
        return ""
    asked = {use.fs_type for use in uses if use.fs_type} | ({parameter} if parameter else set())
    if len(asked) > 1:
        raise invalid(f"the request asks for several filesystems at once: {', '.join(sorted(asked))}")
    return asked.pop() if asked else FS_DEFAULT


def _mount_flags(given: Iterable[str]) -> tuple[str, ...]:
    flags: list[str] = []
    for flag in (part for text in given for part in text.split(",")):
        if not flag or not flag.isprintable() or " " in flag:
            raise invalid(f"mount flag {flag[:64]!r} is malformed")
        if _FLAGS_REFUSED.fullmatch(flag):
            raise invalid(f"mount flag {flag[:64]!r} is not allowed: it changes what is mounted")
        flags.append(flag)
    if sum(len(flag) + 1 for flag in flags) > MOUNT_OPTIONS_BYTES_MAX:
        raise invalid(f"the mount flags are longer than the {MOUNT_OPTIONS_BYTES_MAX} bytes that the kernel takes")
    return tuple(flags)


def _out_of_range(message: str) -> StosError:
    return StosError(Code.OUT_OF_RANGE, message)
