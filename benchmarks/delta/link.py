"""How long that many bytes take over one bare TLS connection: the floor under every resync.

Two processes, TLS 1.3 with a node's own certificate, over the same loopback as the peer links; the receiver throws away
what it gets and says when it has all. The median of a few turns, because the machine is busy with other things as well.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from pathlib import Path
from statistics import median

from stoscore.identity import Identity
from stoscore.units import KIB

_PIECE = os.urandom(256 * KIB)
TURNS = 5


def link_seconds(identity_dir: Path, size: int, turns: int = TURNS) -> float:
    """Raises OSError."""
    context = Identity.load(identity_dir).client_context()
    times = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        fork = multiprocessing.get_context("spawn")
        receiver = fork.Process(target=_receive, args=(identity_dir, listener, size, turns), daemon=True)
        receiver.start()
        try:
            for _ in range(turns):
                with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as sock:
                    sock.recv(1)  # it is there
                    began = time.perf_counter()
                    left = size
                    while left > 0:
                        sock.sendall(_PIECE[: min(left, len(_PIECE))])
                        left -= len(_PIECE)
                    sock.recv(1)
                    times.append(time.perf_counter() - began)
        finally:
            receiver.kill()
            receiver.join()
    return median(times)


def _receive(identity_dir: Path, listener: socket.socket, size: int, turns: int) -> None:
    context = Identity.load(identity_dir).server_context()
    buffer = bytearray(256 * KIB)
    for _ in range(turns):
        raw, _ = listener.accept()
        with raw, context.wrap_socket(raw, server_side=True) as sock:
            sock.sendall(b"!")
            got = 0
            while got < size:
                count = sock.recv_into(buffer)
                if not count:
                    return
                got += count
            sock.sendall(b"!")
