"""Limits on everything that somebody else chooses, with their relations asserted."""

from __future__ import annotations

import re

from stoscore.units import BLOCK_BYTES, GIB, KIB, MIB, TIB

VOLUME_BYTES_MIN = 1 * MIB
VOLUME_BYTES_MAX = 64 * TIB
VOLUME_BYTES_DEFAULT = 1 * GIB
REPLICAS_MAX = 5
"""Copies besides the primary one."""
COPIES_MAX = REPLICAS_MAX + 1
VOTERS_MAX = 7
REQUEST_BYTES_MAX = 32 * MIB
"""The largest payload of one NBD request (the NBD specification's recommended maximum)."""
FRAME_BYTES_MAX = REQUEST_BYTES_MAX + 1 * MIB
MESSAGE_BYTES_MAX = 1 * MIB
"""The largest control message (NATS' default max_payload)."""
NAME_BYTES_MAX = 128
LABELS_MAX = 64
SNAPSHOTS_MAX = 64
"""Of one volume. They are part of its record, which each voter keeps in one slot of 64 KiB."""
GROUP_VOLUMES_MAX = 32
"""Whose snapshots are of one moment: the writes of all wait until the last one holds, and each is a request to it."""
HOLD_MS_MAX = 10_000
"""Writes wait no longer for a snapshot whose taker has died."""
FREEZE_MS_MAX = 10_000
"""A file system stands still no longer for a snapshot whose taker has died."""
OWN_SNAPSHOT = "-"
"""What the names of snapshots begin with that the project takes for itself; those of people never do."""
REASON_BYTES_MAX = 256
"""What an operator writes down about an act."""
LABEL_BYTES_MAX = 256
PAGE_ENTRIES_MAX = 256
"""Entries of the catalogue in one answer."""
DESCRIBED_MAX = 128
"""Volumes that one question to a node names. A status without labels is at most 4 KiB."""
TRUST_DENIED_MAX = 1024
"""Identities and certificates that are revoked and have not ended by themselves."""
TRUST_ROOTS_BYTES_MAX = 32 * KIB
TRUST_STATE_BYTES_MAX = 480 * KIB
"""A trust state as text. It is quoted once more in the message that carries it."""

_NAME = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,126}[A-Za-z0-9])?", re.ASCII)
_NODE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SNAPSHOT = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_GROUP = re.compile(r"[a-z0-9-]{1,64}\.[0-9a-f]{16}", re.ASCII)
_VOLUME_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def valid_volume_name(name: str) -> bool:
    """Letters, digits, '-', '_' and '.', 1 to 128 bytes, starting and ending with a letter or digit:
    safe as a NATS KV key, a path segment and an NBD export name."""
    return ".." not in name and _NAME.fullmatch(name) is not None


def valid_node_name(name: str) -> bool:
    """An RFC 1123 label, so that it is one NATS subject token."""
    return _NODE.fullmatch(name) is not None


def valid_snapshot_name(name: str) -> bool:
    return _SNAPSHOT.fullmatch(name) is not None


def valid_group_id(group: str) -> bool:
    """Of a snapshot of several volumes: its name, and the attempt that it was taken in."""
    return _GROUP.fullmatch(group) is not None


def valid_volume_id(volume: str) -> bool:
    return _VOLUME_ID.fullmatch(volume) is not None


assert VOLUME_BYTES_MIN % BLOCK_BYTES == 0
assert VOLUME_BYTES_MAX % BLOCK_BYTES == 0
assert REQUEST_BYTES_MAX % BLOCK_BYTES == 0
assert COPIES_MAX <= VOTERS_MAX
assert DESCRIBED_MAX * 4 * KIB < MESSAGE_BYTES_MAX
assert TRUST_DENIED_MAX * 400 + TRUST_ROOTS_BYTES_MAX < TRUST_STATE_BYTES_MAX
assert 2 * TRUST_STATE_BYTES_MAX + 32 * KIB < MESSAGE_BYTES_MAX
