"""The links between nodes: frames (pure), payloads (pure), and the mTLS network that carries them.

See docs/peer-protocol.md for what is on the wire.
"""

from services.replica.peers.frames import (
    COMPARED_NODES_MAX,
    FUA,
    HEADER_BYTES,
    JOINED_ANYTHING,
    JOINED_UNCLEAN,
    NO_VOLUME,
    Frame,
    FrameError,
    FrameReader,
    Type,
    pack,
)
from services.replica.peers.link import Link
from services.replica.peers.network import PeerHandler, PeerIdentity, PeerNetwork
from services.replica.peers.payloads import (
    PROTOCOL_VERSION,
    Claim,
    Refused,
    check_range,
    pack_claims,
    pack_copies,
    pack_ranges,
    pack_u64s,
    split_blocks,
    split_copy,
    unpack_claims,
    unpack_copies,
    unpack_json,
    unpack_ranges,
    unpack_refused,
    unpack_u64s,
)

__all__ = [
    "COMPARED_NODES_MAX",
    "FUA",
    "HEADER_BYTES",
    "JOINED_ANYTHING",
    "JOINED_UNCLEAN",
    "NO_VOLUME",
    "PROTOCOL_VERSION",
    "Claim",
    "Frame",
    "FrameError",
    "FrameReader",
    "Link",
    "PeerHandler",
    "PeerIdentity",
    "PeerNetwork",
    "Refused",
    "Type",
    "check_range",
    "pack",
    "pack_claims",
    "pack_copies",
    "pack_ranges",
    "pack_u64s",
    "split_blocks",
    "split_copy",
    "unpack_claims",
    "unpack_copies",
    "unpack_json",
    "unpack_ranges",
    "unpack_refused",
    "unpack_u64s",
]
