"""A frame as it comes out at the other end."""

from __future__ import annotations

from services.replica import codec
from services.replica.peers import Frame, FrameReader


def over_the_wire(parts: codec.Parts) -> Frame:
    raw = b"".join(bytes(part) for part in parts)
    reader = FrameReader()
    room = reader.get_buffer()
    room[: len(raw)] = raw
    (frame,) = reader.received(len(raw))
    return frame
