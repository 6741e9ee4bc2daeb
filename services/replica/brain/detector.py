"""Is the other node there? One answer per pair of nodes, from the beats' answers and the link's own end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Detector:
    """A peer is up from its first answer until its link ends or it stays silent for `suspect_ns`."""

    suspect_ns: int
    heard_ns: dict[str, int] = field(default_factory=dict)

    def heard(self, peer: str, now_ns: int) -> bool:
        """An answer came. True when the peer was down before."""
        was_down = peer not in self.heard_ns
        self.heard_ns[peer] = now_ns
        return was_down

    def link_lost(self, peer: str) -> bool:
        """True when the peer was up before."""
        return self.heard_ns.pop(peer, None) is not None

    def excuse(self, now_ns: int) -> None:
        """We were paused ourselves: what the others said meanwhile still waits in our sockets, so their silence
        begins now."""
        for peer in self.heard_ns:
            self.heard_ns[peer] = now_ns

    def silent(self, now_ns: int) -> list[str]:
        """The peers that have just become silent, sorted."""
        gone = sorted(peer for peer, heard in self.heard_ns.items() if now_ns - heard > self.suspect_ns)
        for peer in gone:
            del self.heard_ns[peer]
        return gone

    def up(self, peer: str) -> bool:
        return peer in self.heard_ns
