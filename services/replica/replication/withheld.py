"""Answers that the volume's policy withholds: fewer copies are in sync than a write is to be kept in.

    OPEN    answered as soon as the required set has it
    HELD    the required set has it, the answer waits until enough copies are in sync again (`on-unavailable: suspend`)
    FAILED  answered with EIO (`on-unavailable: error`)

In all three the write is equal on every in-sync copy before the commit point passes it (W4), and nothing of it is on
its way any more: a newer session may open, and read, while writes are suspended (W2). What the ended session waited
for is sent again by its frontend, so an answer that is withheld dies with its session.
"""

from __future__ import annotations

from enum import IntEnum
from errno import EIO
from typing import NamedTuple

from services.replica.replication.effects import Answer, Effect
from services.replica.replication.messages import Done


class Writes(IntEnum):
    """What becomes of the answer to a write or a flush."""

    OPEN = 0
    HELD = 1
    FAILED = 2


class Withheld(NamedTuple):
    """A write or a flush that everybody required has. `fua`: a write that is to be flushed before its answer."""

    link: int
    session: int
    request: int
    fua: bool = False

    def done(self, errno: int = 0) -> Answer:
        return Answer(self.link, Done(self.session, self.request, errno))


class Answers:
    """To what everybody required has."""

    def __init__(self, writes_are: Writes):
        self.writes_are = writes_are
        self.withheld: list[Withheld] = []

    def give(self, answer: Withheld) -> list[Effect]:
        if self.writes_are is Writes.HELD:
            self.withheld.append(answer)
            return []
        return [answer.done(EIO if self.writes_are is Writes.FAILED else 0)]

    def take(self) -> list[Withheld]:
        """What was withheld and need not be any longer."""
        if self.writes_are is Writes.HELD:
            return []
        taken, self.withheld = self.withheld, []
        return taken

    def drop(self) -> None:
        """The session has ended."""
        self.withheld.clear()
