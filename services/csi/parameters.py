"""The parameters of a storage class and of a volume attributes class: what each may say, and what it means.

    storage class             replicas  failureMode  onUnavailable  topologyKey  dataLocality  fsType
    volume attributes class   replicas  failureMode  onUnavailable                             (changes a live volume)

`docs/csi.md` tells them to people. What is not known is refused by its name, for a misspelt parameter that is
ignored is a volume with fewer copies than its owner believes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from services.csi.topology import NODE_KEY, ZONE_KEY
from stoscore.errors import StosError, invalid
from stoscore.limits import LABEL_BYTES_MAX, LABELS_MAX, REPLICAS_MAX
from stoscore.messages import APART_LABEL, Apart, FailureMode, OnUnavailable
from stoscore.units import MIB
from stoscore.volumes.naming import parse_failure_mode, parse_on_unavailable

FS_BYTES_MIN = {"ext4": 16 * MIB, "xfs": 300 * MIB}
"""Below these, mkfs leaves out the journal (ext4) or refuses (xfs)."""
REPLICAS_DEFAULT = 2
LOCALITY_LABEL = "stos.dev/data-locality"
OWN_LABELS = 4
"""Places that stay free for what the driver itself remembers: file system, locality, what copies may not share, what
the volume began as."""

_MUTABLE = ("replicas", "failureMode", "onUnavailable")
_FS = ("csi.storage.k8s.io/fstype", "fsType")
_KNOWN = (*_MUTABLE, "topologyKey", "dataLocality", "fsType")
_KUBERNETES = "csi.storage.k8s.io/"
_APART: dict[str, Apart] = {ZONE_KEY: "zone", NODE_KEY: "node"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Changes:
    """What a volume attributes class asks for; None leaves it as it is."""

    replicas: int | None = None
    failure_mode: FailureMode | None = None
    on_unavailable: OnUnavailable | None = None

    @property
    def nothing(self) -> bool:
        return self == Changes()


@dataclass(frozen=True, slots=True)
class Class:
    """What a storage class asks for."""

    replicas: int = REPLICAS_DEFAULT
    failure_mode: FailureMode = "alwayson"
    on_unavailable: OnUnavailable = "suspend"
    fs_type: str = ""
    """empty when it leaves the choice"""
    apart: Apart = ""
    local: bool = False
    """a copy, and the primary, where the volume is used"""
    labels: dict[str, str] = field(default_factory=dict)


def of_class(given: Mapping[str, str], mutable: Mapping[str, str] | None = None) -> Class:
    """`mutable` wins over what the class says of the same. Raises INVALID_ARGUMENT, naming what is wrong."""
    unknown = sorted(key for key in given if key not in _KNOWN and not key.startswith(_KUBERNETES))
    if unknown:
        raise invalid(f"unknown parameter {unknown[0][:64]!r}", next_step=f"known: {', '.join(_KNOWN)}")
    first = changes({key: value for key, value in given.items() if key in _MUTABLE})
    then = changes(mutable or {})
    apart, local = _apart(given.get("topologyKey")), _local(given.get("dataLocality"))
    labels = _metadata(given)
    if apart:
        labels[APART_LABEL] = apart
    if local:
        labels[LOCALITY_LABEL] = "best-effort"
    default = Class()
    return Class(
        replicas=_last(default.replicas, first.replicas, then.replicas),
        failure_mode=_last(default.failure_mode, first.failure_mode, then.failure_mode),
        on_unavailable=_last(default.on_unavailable, first.on_unavailable, then.on_unavailable),
        fs_type=_fs_types(given),
        apart=apart,
        local=local,
        labels=labels,
    )


def of_snapshot(given: Mapping[str, str]) -> None:
    """A snapshot class has no parameters; what Kubernetes tells of one is not kept. Raises INVALID_ARGUMENT."""
    unknown = sorted(key for key in given if not key.startswith(_KUBERNETES))
    if unknown:
        raise invalid(f"unknown parameter {unknown[0][:64]!r}", next_step="a snapshot class has no parameters")


def changes(given: Mapping[str, str]) -> Changes:
    """The parameters that may change while a volume lives. Raises INVALID_ARGUMENT, naming what is wrong."""
    unknown = sorted(key for key in given if key not in _MUTABLE)
    if unknown:
        what = f"parameter {unknown[0][:64]!r} is unknown or can't be changed"
        raise invalid(what, next_step=f"known: {', '.join(_MUTABLE)}")
    mode, otherwise = given.get("failureMode"), given.get("onUnavailable")
    return Changes(
        replicas=None if "replicas" not in given else _replicas(given["replicas"]),
        failure_mode=None if mode is None else _named("failureMode", lambda: parse_failure_mode(mode)),
        on_unavailable=None if otherwise is None else _named("onUnavailable", lambda: parse_on_unavailable(otherwise)),
    )


def _last(default: T, *others: T | None) -> T:
    return next((other for other in reversed(others) if other is not None), default)


def _named(key: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except StosError as error:
        raise invalid(f"parameter {key}: {error.message}", next_step=error.next_step) from error


def _replicas(text: str) -> int:
    if not re.fullmatch(r"\d{1,3}", text, re.ASCII) or int(text) > REPLICAS_MAX:
        raise invalid(f"parameter replicas is {text[:32]!r}: write 0 to {REPLICAS_MAX} copies besides the primary one")
    return int(text)


def _apart(text: str | None) -> Apart:
    if text is None:
        return ""
    if text not in _APART:
        raise invalid(f"parameter topologyKey is {text[:64]!r}", next_step=f"use {' or '.join(_APART)}")
    return _APART[text]


def _local(text: str | None) -> bool:
    if text not in (None, "disabled", "best-effort"):
        raise invalid(f"parameter dataLocality is {str(text)[:32]!r}", next_step="use disabled or best-effort")
    return text == "best-effort"


def _fs_types(given: Mapping[str, str]) -> str:
    asked = {key: given[key] for key in _FS if key in given}
    for key, value in asked.items():
        if value not in FS_BYTES_MIN:
            raise invalid(f"parameter {key} is {value[:32]!r}", next_step=f"use {' or '.join(FS_BYTES_MIN)}")
    if len(set(asked.values())) > 1:
        said = " but ".join(f"{key}={value}" for key, value in asked.items())
        raise invalid(f"parameters contradict each other: {said}")
    return next(iter(asked.values()), "")


def _metadata(given: Mapping[str, str]) -> dict[str, str]:
    """What Kubernetes tells of the claim: its name, its namespace, the volume's name."""
    labels = {key: value for key, value in sorted(given.items()) if key.startswith(_KUBERNETES) and key not in _FS}
    for key, value in labels.items():
        if not key.isprintable() or not value.isprintable():
            raise invalid(f"the metadata {key[:64]!r} has control characters")
    too_long = any(len(text.encode()) > LABEL_BYTES_MAX for pair in labels.items() for text in pair)
    if too_long or len(labels) > LABELS_MAX - OWN_LABELS:
        raise invalid(f"too much metadata: up to {LABELS_MAX - OWN_LABELS} entries of {LABEL_BYTES_MAX} bytes are kept")
    return labels
