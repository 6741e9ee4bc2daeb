"""What the nodes said of one volume, and whom to believe.

A primary that was deposed may think for a moment that it serves; the highest epoch tells. After an operator's override
(I4) that may last: nodes of the old generation that come back while the copy that goes on is away elect among
themselves. Nothing that they say of the volume is true any more, so what is of an older generation than the catalogue
knows of counts as an answer, and for nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stoscore.errors import Code, StosError
from stoscore.messages import ReplicaStatus

Answer = ReplicaStatus | StosError


@dataclass(slots=True)
class Survey:
    """What each asked node said of one volume: its status, or why there is none."""

    statuses: dict[str, ReplicaStatus] = field(default_factory=dict)
    failures: dict[str, StosError] = field(default_factory=dict)
    generation: int = 0
    """The newest that is known to have begun."""

    def add(self, node: str, answer: Answer) -> None:
        if isinstance(answer, StosError):
            self.failures[node] = answer
        else:
            self.statuses[node] = answer

    @property
    def current(self) -> dict[str, ReplicaStatus]:
        """Without those of an older generation."""
        return {node: status for node, status in self.statuses.items() if generation_of(status) >= self.generation}

    @property
    def serving(self) -> ReplicaStatus | None:
        """The primary that serves; the one of the highest epoch should two think so for a moment."""
        serving = [status for status in self.current.values() if status.serving]
        return max(serving, key=_stamp, default=None)

    @property
    def newest(self) -> ReplicaStatus | None:
        """Of those with a record, the one with the newest."""
        return max((s for s in self.current.values() if s.record), key=_stamp, default=None)

    def is_over(self, status: ReplicaStatus) -> bool:
        """It is of a generation that an operator has ended, whatever it says of itself."""
        return status.record is not None and generation_of(status) < self.generation

    @property
    def missing(self) -> set[str]:
        """Nodes that answered that they hold nothing of this volume."""
        return {node for node, error in self.failures.items() if error.code is Code.NOT_FOUND}

    @property
    def silent(self) -> dict[str, StosError]:
        """Nodes of which nothing is known."""
        return {node: error for node, error in self.failures.items() if error.code is not Code.NOT_FOUND}

    def told(self) -> str:
        """One line: what everybody said."""
        parts = {node: self._told(status) for node, status in self.statuses.items()}
        parts.update({node: error.message for node, error in self.failures.items()})
        return "; ".join(f"{node}: {parts[node]}" for node in sorted(parts))

    def _told(self, status: ReplicaStatus) -> str:
        told = f"{status.role} in epoch {status.epoch}"
        return f"{told} of generation {generation_of(status)}, which is over" if self.is_over(status) else told


def generation_of(status: ReplicaStatus) -> int:
    return status.record.generation if status.record is not None else 0


def _stamp(status: ReplicaStatus) -> tuple[int, int, int, str]:
    record = status.record
    if record is None:
        return (0, status.epoch, 0, status.node)
    return (record.generation, status.epoch, record.version, status.node)
