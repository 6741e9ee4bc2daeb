"""`format.json`: what a replica directory is, read before anything else in it is trusted.

It names the format version, the cluster, the volume and this replica's incarnation, and carries a checksum
over all of it. The version is looked at first: a program that is older than the directory says so and touches
nothing, whatever else it can't make sense of.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xxhash import xxh3_64_hexdigest

from services.replica.store.disk import failed
from services.replica.store.port import FormatError
from stoscore.limits import valid_volume_id
from stoscore.units import BLOCK_BYTES

VERSION = 2
"""The newest that this program knows. A directory is of format 1 until its first layer is sealed: see `stack`."""
FILE = "format.json"
_FIELDS = {"format": int, "cluster": str, "volume": str, "name": str, "incarnation": str, "kind": str}
_FIELDS |= {"size_blocks": int, "check": str}


@dataclass(frozen=True, slots=True)
class Format:
    """The identity of one replica. `incarnation` is 16 hex digits, drawn by the node that made it (rule I1);
    `size_blocks` is 0 for a witness."""

    cluster: str
    volume: str
    name: str
    incarnation: str
    kind: Literal["data", "witness"]
    size_blocks: int
    version: int = 1

    def __post_init__(self) -> None:
        if not valid_volume_id(self.volume) or not re.fullmatch(r"[0-9a-f]{16}", self.incarnation):
            raise ValueError(f"volume {self.volume!r} or incarnation {self.incarnation!r} is no hex identity")
        if self.kind not in ("data", "witness") or (self.size_blocks > 0) != (self.kind == "data"):
            raise ValueError(f"a {self.kind} replica can't have {self.size_blocks} blocks")

    def to_bytes(self) -> bytes:
        fields: dict[str, Any] = {
            "format": self.version,
            "cluster": self.cluster,
            "volume": self.volume,
            "name": self.name,
            "incarnation": self.incarnation,
            "kind": self.kind,
            "size_blocks": self.size_blocks,
        }
        fields["check"] = _check(fields)
        return json.dumps(fields, indent=1).encode() + b"\n"

    @property
    def size_bytes(self) -> int:
        return self.size_blocks * BLOCK_BYTES


def read_format(directory: Path, *, cluster: str | None = None, volume: str | None = None) -> Format:
    """The identity of a replica directory. Raises FormatError when there is none, when it is of a newer
    format, torn, or of another cluster or volume than the given one; StoreError when it can't be read."""
    path = directory / FILE
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"{directory} is no replica directory: it has no {FILE}") from None
    except OSError as error:
        raise failed("read", str(path), error) from error
    found = parse_format(raw, path)
    if cluster is not None and found.cluster != cluster:
        raise FormatError(f"{directory} belongs to cluster {found.cluster!r} and this is cluster {cluster!r}")
    if volume is not None and found.volume != volume:
        raise FormatError(f"{directory} holds volume {found.volume}, not {volume}")
    return found


def parse_format(raw: bytes, path: Path) -> Format:
    """Raises FormatError."""
    try:
        fields = json.loads(raw)
    except ValueError:
        raise FormatError(f"{path} is damaged: it is no JSON") from None
    version = fields.get("format") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise FormatError(f"{path} is damaged: it names no format version")
    if version > VERSION:
        raise FormatError(f"{path} is of format {version} and this program knows up to {VERSION}: update stos")
    if {name: type(value) for name, value in fields.items()} != _FIELDS:
        raise FormatError(f"{path} is damaged: it has other fields than format {version} knows")
    if fields.pop("check") != _check(fields):
        raise FormatError(f"{path} is damaged: its checksum does not match")
    del fields["format"]
    try:
        return Format(**fields, version=version)
    except ValueError as error:
        raise FormatError(f"{path} makes no sense: {error}") from None


def _check(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return str(xxh3_64_hexdigest(canonical.encode()))
