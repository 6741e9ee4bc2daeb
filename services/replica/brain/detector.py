"""Is the other node there? One answer per pair of nodes, from the beats' answers and the link's own end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Detector:
    """A peer is up from its first answer until its link ends or it stays silent for `suspect_ns`."""

    suspect_ns: int
    heard_ns: dict[str, int] = field(default_factory=dict)
    expected_ns: dict[str, int] = field(default_factory=dict)
    """Peer that has not answered on its new link yet -> since when it could."""

    def expect(self, peer: str, now_ns: int) -> None:
        """Its link is new. *A machine loses power between the handshake and its first answer: it was never up, so it
        never fell silent, and whatever was for it went into a dead link for as long as the kernel let it.*"""
        self.expected_ns[peer] = now_ns

    def heard(self, peer: str, now_ns: int) -> bool:
        """An answer came. True when the peer was down before."""
        self.expected_ns.pop(peer, None)
        was_down = peer not in self.heard_ns
        self.heard_ns[peer] = now_ns
        return was_down

    def link_lost(self, peer: str) -> bool:
        """True when the peer was up before."""
        self.expected_ns.pop(peer, None)
        return self.heard_ns.pop(peer, None) is not None

    def excuse(self, now_ns: int) -> None:
        """We were paused ourselves: what the others said meanwhile still waits in our sockets, so their silence
        begins now."""
        for moments in (self.heard_ns, self.expected_ns):
            moments.update(dict.fromkeys(moments, now_ns))

    def silent(self, now_ns: int) -> list[str]:
        """The peers that have just become silent, sorted."""
        return self._take_late(self.heard_ns, now_ns)

    def unheard(self, now_ns: int) -> list[str]:
        """The peers that had time to answer on their new link and did not, sorted."""
        return self._take_late(self.expected_ns, now_ns)

    def _take_late(self, moments: dict[str, int], now_ns: int) -> list[str]:
        late = sorted(peer for peer, moment in moments.items() if now_ns - moment > self.suspect_ns)
        for peer in late:
            del moments[peer]
        return late

    def up(self, peer: str) -> bool:
        return peer in self.heard_ns
