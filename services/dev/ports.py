"""TCP ports on the loopback address, chosen when a cluster is first made and kept after that.

They come from below the kernel's range for outgoing connections: a port from inside that range may be
taken by somebody's connection while its owner is down, and the owner could not come back.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST = 10_000
_OUTGOING_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on. All are held until the last is found, so none is
    given twice. Another program may still take one before its owner listens; the owner then says so."""
    candidates = _candidates(count * 50)
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in candidates:
            held = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                held.bind((HOST, port))
                found.append(port)
            if len(found) == count:
                break
    if len(found) == count:
        return found
    raise OSError(f"no {count} free TCP ports among {len(candidates)} tried")


def _candidates(count: int) -> list[int]:
    try:
        first_outgoing = int(_OUTGOING_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_outgoing = 32_768
    if first_outgoing - _LOWEST < count:
        first_outgoing = 65_536
    return random.sample(range(_LOWEST, first_outgoing), count)


def in_use(port: int) -> bool:
    """Somebody listens on the port."""
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT after a restart is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
