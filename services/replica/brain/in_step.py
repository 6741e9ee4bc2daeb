"""Snapshots that are taken in step at the leader: with those of other volumes, one moment for a group (K4), or with a
file system that is frozen for it.

    prepared    every copy has its next layer; writes go on
    held        new writes wait, from here on for so long at most
    sealed      all of the group were held when this was asked for: what came before is sealed, and writes go on
    ready       by a committed record, like any other snapshot

Whoever takes the group asks each of its volumes for one step after the other, and for the next one when all have taken
it. He names the reign and the snapshot that he means, so that an answer of one primary is never completed by another:
*the first held the writes and died, its successor took some, was asked to hold as well by a message that came twice,
and sealed them; another volume of the group had gone on by then without what came before them.* For the same reason
what is pending for a group is not left to the next leader: what it would seal is a moment of its own. It drops it.
"""

from __future__ import annotations

from services.replica.brain import events as ev
from services.replica.brain.local import Local
from services.replica.brain.record import Record

_Key = tuple[str, str]
"""(snapshot, step)"""


class InStep:
    """What one voter, while it leads, was asked for, and how far it is."""

    def __init__(self, local: Local):
        self._local = local
        self._mine: set[str] = set()
        """Names that were asked for in this reign."""
        self._reached: dict[int, set[str]] = {}
        """The version that a snapshot was asked of -> its steps."""
        self._waiting: dict[_Key, list[int]] = {}

    def begin(self) -> None:
        self._mine, self._reached = set(), {}

    def drop(self) -> list[int]:
        """We stopped leading: who waits."""
        requests = [request for waiting in self._waiting.values() for request in waiting]
        self._waiting = {}
        return requests

    def has(self, name: str) -> bool:
        return name in self._mine

    def taken(self, asked: ev.TakeAsked) -> None:
        """It is in the record that comes next."""
        self._mine.add(asked.name)
        self._waiting.setdefault((asked.name, "prepared"), []).append(asked.request)

    def orphans(self, record: Record) -> list[ev.SealFailed]:
        """Of the committed record: what an earlier leader was asked for."""
        return [
            ev.SealFailed(known.name, known.asked, "the volume's primary changed meanwhile", lapsed=True)
            for known in record.snapshots
            if known.state == "pending" and known.group and known.name not in self._mine
        ]

    def asked(self, step: ev.StepAsked, record: Record | None) -> None:
        """By the committed record; None: there is none of ours yet."""
        known = record.snapshot(step.name) if record is not None else None
        if known is None or known.asked != step.asked or step.epoch != self._local.epoch:
            why = f"snapshot {step.name} is not being taken in this reign"
            self._local.at_once(ev.Reply(step.request, "ABORTED", why))
            return
        self._waiting.setdefault((step.name, step.step), []).append(step.request)
        if step.step == "held":
            self._local.at_once(ev.HoldWrites(step.asked, self._local.now_ns + step.hold_ns))
        elif step.step == "sealed":
            self._local.at_once(ev.SealHeld(step.asked))

    def reached(self, report: ev.StepReached) -> None:
        self._reached.setdefault(report.asked, set()).add(report.step)

    def answered(self, record: Record) -> list[tuple[str, int]]:
        """(snapshot, request) of who waits no more: the step is taken, or by the committed record there is no such
        snapshot."""
        done: list[tuple[str, int]] = []
        for name, step in list(self._waiting):
            known = record.snapshot(name)
            if known is None or known.state == "ready" or step in self._reached.get(known.asked, ()):
                done += [(name, request) for request in self._waiting.pop((name, step))]
        versions = {known.asked for known in record.snapshots}
        self._reached = {asked: steps for asked, steps in self._reached.items() if asked in versions}
        return done
