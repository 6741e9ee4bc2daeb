"""What crossed the nodes' peer links since their processes were started, as the kernel counted it.

The kernel's counters hold all of it: TLS and its handshakes, hashes, beats, the frontend's links. A connection between
two processes of ours is seen at both ends and counted once; one that was dialled again counts with the most that was
ever seen of each.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.dev.demo.wire import Connection, connections, socket_inodes


class Traffic:
    def __init__(self, pids: Iterable[int], peer_ports: frozenset[int]):
        self._pids = tuple(pids)
        self._ports = peer_ports
        self._seen: dict[tuple[int, int], int] = {}
        self._before = 0
        self._before = self.sample()

    def sample(self) -> int:
        """Bytes so far, both ways."""
        own = {inode for pid in self._pids for inode in socket_inodes(pid)}
        for one in connections():
            if one.inode in own and self._is_peer_link(one):
                ends = (min(one.local_port, one.remote_port), max(one.local_port, one.remote_port))
                self._seen[ends] = max(self._seen.get(ends, 0), one.bytes_sent + one.bytes_received)
        return sum(self._seen.values()) - self._before

    def _is_peer_link(self, one: Connection) -> bool:
        return bool(one.remote_port) and (one.local_port in self._ports or one.remote_port in self._ports)
