"""Packing the data of a copy: zstd, level 1, all blocks of a message together.

What is unpacked comes from another node. The room that it takes is fixed before the first byte of it is looked at: the
checksums beside it say how many blocks there have to be, and a packed form that claims another size is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from services.replica.peers.frames import PACKED_BLOCKS_MAX, FrameError
from stoscore.units import BLOCK_BYTES

LEVEL = 1
"""Higher ones cost a multiple of the time for a tenth of the bytes."""
_packer = ZstdCompressor(level=LEVEL)
_unpacker = ZstdDecompressor(max_window_size=PACKED_BLOCKS_MAX * BLOCK_BYTES)
"""Of the event loop's thread."""


def pack_data(parts: Sequence[bytes | memoryview]) -> bytes:
    return _packer.compress(parts[0] if len(parts) == 1 else b"".join(parts))


def unpack_data(packed: bytes | memoryview, size: int) -> bytes:
    """Exactly `size` bytes, of which the caller knows that he may be made to take so many. Raises FrameError."""
    try:
        claimed = get_frame_parameters(packed).content_size
        if claimed != size:
            raise FrameError(f"packed data claim to be {claimed} bytes where {size} are due")
        data = _unpacker.decompress(packed, allow_extra_data=False)
    except ZstdError as error:
        raise FrameError(f"data can't be unpacked: {error}") from None
    if len(data) != size:
        raise FrameError(f"packed data are {len(data)} bytes where {size} are due")
    return data
