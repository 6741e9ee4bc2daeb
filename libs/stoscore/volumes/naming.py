"""Which volumes are possible: names, sizes, numbers of copies, and what a wrong one is told.

A size is rounded up to a whole MiB: a user who writes 10G means a size and not a number of blocks, and the
rounded size is what every later comparison sees. `replicas` are the copies besides the primary one, so
copies = replicas + 1; an even number of copies gets a witness, which votes and holds no data, so that a
majority exists when half of the copies are gone: 1, 3, 5 or 7 voters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stoscore.errors import Code, StosError, invalid
from stoscore.limits import (
    COPIES_MAX,
    LABEL_BYTES_MAX,
    LABELS_MAX,
    NAME_BYTES_MAX,
    OWN_SNAPSHOT,
    REPLICAS_MAX,
    VOLUME_BYTES_MAX,
    VOTERS_MAX,
    valid_snapshot_name,
    valid_volume_id,
    valid_volume_name,
)
from stoscore.messages import APART_LABEL, Apart, FailureMode, OnUnavailable
from stoscore.units import MIB, format_size


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What a volume is to begin as: a snapshot, or, without one, what the volume holds now."""

    volume: str
    """id"""
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A possible volume, as asked for. `size_bytes` is whole MiB."""

    name: str
    size_bytes: int
    replicas: int
    zones: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    failure_mode: FailureMode = "alwayson"
    on_unavailable: OnUnavailable = "suspend"
    source: SourceSpec | None = None

    @property
    def apart(self) -> Apart:
        """What its copies may not share."""
        return parse_apart(dict(self.labels).get(APART_LABEL, ""))

    @property
    def copies(self) -> int:
        return copies_of(self.replicas)

    @property
    def witnesses(self) -> int:
        return witnesses_of(self.replicas)


def copies_of(replicas: int) -> int:
    """Data copies of a volume with that many replicas besides the primary copy."""
    return replicas + 1


def witnesses_of(replicas: int) -> int:
    return 1 if copies_of(replicas) % 2 == 0 else 0


def round_size(size_bytes: int) -> int:
    """Up to a whole MiB."""
    return -(-size_bytes // MIB) * MIB


def check_spec(
    name: str,
    size_bytes: int,
    replicas: int,
    zones: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    failure_mode: FailureMode = "alwayson",
    on_unavailable: OnUnavailable = "suspend",
    source: SourceSpec | None = None,
) -> VolumeSpec:
    """The spec, or StosError INVALID_ARGUMENT or OUT_OF_RANGE that says what to change."""
    check_name(name)
    if size_bytes <= 0:
        raise invalid(f"a volume of {size_bytes} bytes can't be made", "choose a size above 0, such as 1GiB")
    if size_bytes > VOLUME_BYTES_MAX:
        raise StosError(
            Code.OUT_OF_RANGE,
            f"a volume of {size_bytes} bytes is too large",
            next_step=f"choose a size of at most {format_size(VOLUME_BYTES_MAX)}",
        )
    if not 0 <= replicas <= REPLICAS_MAX:
        raise invalid(
            f"{replicas} replicas are not possible",
            f"choose 0 to {REPLICAS_MAX}: the number of copies besides the primary one",
        )
    check_mode(failure_mode, replicas)
    size_bytes, checked = round_size(size_bytes), _check_labels(labels or {})
    parse_apart(dict(checked).get(APART_LABEL, ""))
    return VolumeSpec(name, size_bytes, replicas, tuple(zones), checked, failure_mode, on_unavailable, source)


def check_snapshot_name(name: str) -> None:
    """Raises StosError INVALID_ARGUMENT for a name that no snapshot of people can have."""
    if not valid_snapshot_name(name) or name.startswith(OWN_SNAPSHOT) or name.endswith("-"):
        raise invalid(
            f"{name[:80]!r} is no possible name for a snapshot",
            "use up to 64 of a-z, 0-9 and '-', with a letter or digit at both ends",
        )


def parse_failure_mode(text: str) -> FailureMode:
    """From "hard", "soft", "alwayson" or a number of copies. Raises StosError INVALID_ARGUMENT."""
    match text:
        case "hard" | "soft" | "alwayson":
            return text
        case _ if re.fullmatch(r"[1-9]", text, re.ASCII) and int(text) <= COPIES_MAX:
            return int(text)
    raise invalid(
        f"failure mode {text[:32]!r} is not possible",
        f"write hard (every copy), soft (a majority of them), alwayson (one is enough) or a number up to {COPIES_MAX}",
    )


def parse_on_unavailable(text: str) -> OnUnavailable:
    """Raises StosError INVALID_ARGUMENT."""
    match text:
        case "suspend" | "error":
            return text
    raise invalid(f"on-unavailable {text[:32]!r} is not possible", "write suspend (writes wait) or error (they fail)")


def parse_apart(text: str) -> Apart:
    """Raises StosError INVALID_ARGUMENT."""
    match text:
        case "" | "zone" | "node":
            return text
    raise invalid(f"{text[:32]!r} is nothing that copies could be kept apart by", "write zone or node")


def check_mode(mode: FailureMode, replicas: int) -> None:
    """Raises StosError INVALID_ARGUMENT for more copies than there are to be."""
    if isinstance(mode, int) and mode > copies_of(replicas):
        raise invalid(
            f"a write can't need {mode} of {copies_of(replicas)} copies",
            f"choose a number up to {copies_of(replicas)}, or more replicas",
        )


def check_name(name: str) -> None:
    """Raises StosError INVALID_ARGUMENT for a name that no volume can have."""
    if not valid_volume_name(name):
        raise invalid(
            f"{name!r} is no possible volume name",
            f"use letters, digits, '-', '_' and '.', at most {NAME_BYTES_MAX}, "
            "starting and ending with a letter or digit",
        )
    if valid_volume_id(name):
        raise invalid(
            f"the name {name!r} would be read as a volume id",
            "choose a name that is not 32 hexadecimal digits",
        )


def _check_labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if len(labels) > LABELS_MAX:
        raise invalid(f"{len(labels)} labels are too many", f"use at most {LABELS_MAX}")
    for key, value in labels.items():
        if not key or len(key) > LABEL_BYTES_MAX or len(value) > LABEL_BYTES_MAX:
            raise invalid(
                f"the label {key[:40]!r} is empty or too long",
                f"use 1 to {LABEL_BYTES_MAX} characters for the key, at most as many for the value",
            )
    return tuple(sorted(labels.items()))


assert witnesses_of(REPLICAS_MAX) + copies_of(REPLICAS_MAX) <= VOTERS_MAX
