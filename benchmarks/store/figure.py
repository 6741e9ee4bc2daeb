"""One figure with its limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: float
    unit: str
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "" if self.holds else "   NOT REACHED"
        return f"{self.name:52}{self.value:10.2f} {self.unit:4} at most {self.limit:8.2f}{verdict}"
