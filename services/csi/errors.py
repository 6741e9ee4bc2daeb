"""What a gRPC caller is told when something fails: one table from the project's codes to gRPC's.

The message carries the reason and, where there is one, the next step, because `kubectl describe` shows
that text and nothing else.
"""

from __future__ import annotations

import grpc

from stoscore.errors import GRPC_CODE, Code, StosError

MESSAGE_CHARS_MAX = 2048
"""A status travels in HTTP/2 trailers, which peers bound to 8 KiB by default."""

STATUS: dict[Code, grpc.StatusCode] = {code: grpc.StatusCode[GRPC_CODE[code]] for code in Code}


def status(error: StosError) -> tuple[grpc.StatusCode, str]:
    """The gRPC status of an error: its code and a bounded, human-readable message."""
    text = str(error)
    if len(text) > MESSAGE_CHARS_MAX:
        text = text[: MESSAGE_CHARS_MAX - 1] + "…"
    return STATUS[error.code], text
