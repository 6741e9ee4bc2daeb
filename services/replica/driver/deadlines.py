"""Which volume is due when. A node has one timer for all of them, and asks after every wake-up when it should ring.

    touched ── at the next question ──>  looked at: when is it due?
    busy    ── with the next beat ────>  touched

A volume's deadline is looked at only when something may have moved it.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.replica.brain import Facts
from services.replica.driver.leases import Leases
from services.replica.driver.volume import Volume

NO_FACTS = Facts()


class Deadlines:
    """One node's volumes'."""

    def __init__(self, volumes: Mapping[str, Volume], leases: Leases):
        self._volumes = volumes
        self._leases = leases
        self._due: dict[str, int] = {}
        self.soonest_ns: int | None = None
        """The first of these, as of the last look."""
        self.touched: set[str] = set()
        self.busy: set[str] = set()
        """Volumes with data since the last beat: their deadlines, none of them shorter than a beat, are looked at
        with the next one, because a busy volume's move all the time."""

    def touch_busy(self) -> None:
        self.touched |= self.busy
        self.busy.clear()

    def look(self) -> None:
        """At those that were touched."""
        for volume_id in self.touched:
            due = self._volume_due(self._volumes[volume_id]) if volume_id in self._volumes else None
            if due is None:
                self._due.pop(volume_id, None)
            else:
                self._due[volume_id] = due
        self.touched.clear()
        self.soonest_ns = min(self._due.values(), default=None)

    def due(self, now_ns: int) -> list[str]:
        """The volumes that were due by now when they were looked at."""
        return sorted(volume_id for volume_id, due in self._due.items() if due <= now_ns)

    def _volume_due(self, volume: Volume) -> int | None:
        facts = NO_FACTS
        if volume.brain.role == "leader":  # of all facts, only what is promised to a leader moves a deadline
            lease = self._leases.of(volume)
            facts = Facts(lease_until_ns=lease.until_ns, unpromised=lease.unpromised)
        ends = [volume.brain.next_deadline_ns(facts)]
        if volume.primary is not None:
            ends.append(volume.primary.next_deadline_ns())
        elif volume.replica is not None:
            ends.append(volume.replica.next_deadline_ns())
        return min([end for end in ends if end is not None], default=None)
