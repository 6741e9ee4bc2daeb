"""A gRPC server on a Unix socket that only its own user may open."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from services.csi.edge import Edge
from stoscore.errors import Code, StosError, precondition
from stoscore.files import socket_directory
from stoscore.limits import MESSAGE_BYTES_MAX

SOCKET_MODE = 0o600


async def listen(path: Path, register: Callable[[Any], None]) -> Any:
    """A started server with the services that `register` adds. Raises ALREADY_EXISTS when another process
    serves there, FAILED_PRECONDITION when the path can't be used."""
    _clear(path)
    server = grpc.aio.server(
        interceptors=[Edge()],
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", 4 * MESSAGE_BYTES_MAX),
        ],
    )
    register(server)
    # The socket must have its rights from the start: chmod afterwards leaves a moment for anybody.
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise precondition(f"can't listen on {path}: {error}") from error
    finally:
        os.umask(before)
    await server.start()
    return server


def _clear(path: Path) -> None:
    """Remove what a killed process left; refuse to take a living one's place."""
    try:
        socket_directory(path.parent)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise precondition(f"{path} exists and is no socket", "remove it or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(str(path))
        if code not in (errno.ECONNREFUSED, errno.ENOENT):
            raise StosError(
                Code.ALREADY_EXISTS,
                f"another process serves on {path}",
                next_step="stop it, or give this one another socket",
            )
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise precondition(f"can't use {path}: {error.strerror}") from error
