"""The units of a volume: bytes, 4 KiB blocks, 4 MiB regions.

A volume is a row of blocks. A region (1,024 blocks) is the grain of the intent log: it is marked before
its first write. Names of numbers end in their unit: `size_bytes`, `lease_ns`, `delay_s`; `block` is an index,
`count` a number of blocks.
"""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

BLOCK_BYTES = 4096
REGION_BLOCKS = 1024
REGION_BYTES = BLOCK_BYTES * REGION_BLOCKS
SUM_BYTES = 8

MS = 1_000_000
"""Nanoseconds in a millisecond."""
SECOND = 1_000_000_000
"""Nanoseconds in a second."""

_SUFFIX = {
    "": 1,
    "B": 1,
    "K": 1000,
    "KB": 1000,
    "M": 1000**2,
    "MB": 1000**2,
    "G": 1000**3,
    "GB": 1000**3,
    "T": 1000**4,
    "TB": 1000**4,
    "KI": KIB,
    "KIB": KIB,
    "MI": MIB,
    "MIB": MIB,
    "GI": GIB,
    "GIB": GIB,
    "TI": TIB,
    "TIB": TIB,
}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes from "1GiB", "512Mi", "10G" or "4096". Raises ValueError with what is wrong."""
    match = _SIZE.match(text)
    if not match or match[2].upper() not in _SUFFIX:
        raise ValueError(f"{text!r} is no size: write a number and a unit, such as 1GiB, 512Mi or 10G")
    scale = _SUFFIX[match[2].upper()]
    whole, _, fraction = match[1].partition(".")
    size = int(whole) * scale
    if fraction:
        size += int(fraction) * scale // 10 ** len(fraction)
    return size


def format_size(size_bytes: int) -> str:
    """A short human form, binary units: 1073741824 -> "1.0 GiB"."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def in_seconds(duration_ns: int) -> str:
    """A short human form: 450000000 -> "0.45 s"."""
    return f"{duration_ns // SECOND}.{duration_ns % SECOND // (10 * MS):02d} s"
