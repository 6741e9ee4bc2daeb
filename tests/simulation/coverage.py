"""What a run reached: kinds of decisions, faults, and pairs of faults of which one began while the other lasted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase

from stoscore.units import MS

LETTERS = ascii_uppercase + ascii_lowercase
AFTERMATH_NS = 300 * MS
"""How long a fault is counted as lasting after its end: its consequences are still under way."""


@dataclass(slots=True)
class Coverage:
    decisions: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    """Blocks that were rotten and healed, that differed, that were lost: how often told."""
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(earlier, later)"""
    _lasting: list[tuple[int, str]] = field(default_factory=list)
    """(end, fault)"""

    def decided(self, kind: str) -> None:
        self.decisions[kind] += 1

    def damage(self, kind: str) -> None:
        self.damages[kind] += 1

    def fault(self, kind: str, now_ns: int, lasts_ns: int = 0) -> None:
        self._lasting = [(end, earlier) for end, earlier in self._lasting if end >= now_ns]
        self.faults[kind] += 1
        for earlier in {earlier for _, earlier in self._lasting}:
            self.pairs[earlier, kind] += 1
        self._lasting.append((now_ns + lasts_ns + AFTERMATH_NS, kind))

    @property
    def struck(self) -> int:
        """Faults that did something."""
        return self.faults.total()

    def add(self, other: Coverage) -> None:
        self.decisions.update(other.decisions)
        self.faults.update(other.faults)
        self.damages.update(other.damages)
        self.pairs.update(other.pairs)

    def missing(self, decisions: Iterable[str]) -> list[str]:
        """Kinds of decisions that were not reached."""
        return sorted(set(decisions) - set(self.decisions))

    def table(self, decisions: Iterable[str], faults: Iterable[str]) -> str:
        """For people: a row per decision, and a matrix with a cell per pair of faults."""
        kinds = sorted(set(decisions) | set(self.decisions))
        lines = ["decision           reached", *(f"{kind:<18} {self.decisions[kind]:>7}" for kind in kinds), ""]
        lines += [*(f"told as {kind:<10} {self.damages[kind]:>7}" for kind in sorted(self.damages)), ""]
        names = list(faults)
        lines.append("fault              struck   while another lasted: . never, + reached, # ten times and more")
        lines.append(" " * 28 + "".join(LETTERS[index % len(LETTERS)] for index in range(len(names))))
        for index, later in enumerate(names):
            cells = "".join(_cell(self.pairs[earlier, later]) for earlier in names)
            lines.append(f"{LETTERS[index % len(LETTERS)]} {later:<17} {self.faults[later]:>6}  {cells}")
        reached = sum(1 for earlier in names for later in names if self.pairs[earlier, later])
        lines.append(f"{reached} of {len(names) ** 2} pairs of faults reached")
        return "\n".join(lines)


def _cell(count: int) -> str:
    return "." if not count else "+" if count < 10 else "#"
