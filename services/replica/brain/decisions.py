"""Decisions that can be made again: what one rested on is written down, and the judgement is a function of it.

    facts --> question (frozen, complete) --judge()--> verdict --> what the machine does
                        |                                 |
                        +--------- one event -------------+         replay(event's inputs) == verdict

A *question* holds everything that a decision rests on; `judge` looks at nothing else. The machine acts on the verdict,
and the event carries the question as JSON. Whoever doubts a decision reads the inputs back and judges again; a
judgement that looked at a clock, or at state that its question does not hold, gives another verdict there and is found
by a test. Durations in a question count from the moment of the decision, so that it means the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, TypeVar

from services.replica.brain import events as ev
from services.replica.brain.record import Attachment, Record, Slot, Snapshot, Stamp, Voter

C = TypeVar("C", bound=type)
IS = "is"
"""The JSON key that names the class of an object."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kind` "": there was nothing to decide, and nothing is told."""

    kind: str
    outcome: str
    alternatives: tuple[str, ...] = ()
    """What was turned down, each with its reason."""


class Question(Protocol):
    """Everything that one decision rests on: a frozen dataclass marked with `recorded`."""

    def judge(self) -> Verdict: ...


class UnknownInputs(ValueError):
    """Inputs that no question of this version has."""


_KNOWN: dict[str, type] = {
    known.__name__: known
    for known in (
        Attachment,
        Record,
        Slot,
        Snapshot,
        Stamp,
        Voter,
        ev.MemberFailed,
        ev.MemberCaughtUp,
        ev.AttachAsked,
        ev.DetachAsked,
        ev.DeleteAsked,
        ev.PolicyAsked,
        ev.ExpandAsked,
        ev.TakeAsked,
        ev.DropAsked,
        ev.SnapshotSealed,
        ev.SnapshotGiven,
        ev.SealFailed,
    )
}


def recorded(cls: C) -> C:
    """A question, or a part of one: it can be written as JSON and read back."""
    assert _KNOWN.setdefault(cls.__name__, cls) is cls, f"two recorded classes are called {cls.__name__}"
    return cls


def inputs_of(question: Question) -> dict[str, Any]:
    """The question as JSON: objects, lists, strings, integers, booleans, null."""
    written = _write(question)
    assert isinstance(written, dict)
    return written


def replay(inputs: Mapping[str, Any]) -> Verdict:
    """Judge recorded inputs again. Raises UnknownInputs."""
    question = _read(inputs)
    judge: Callable[[], Verdict] | None = getattr(question, "judge", None)
    if judge is None:
        raise UnknownInputs(f"{inputs.get(IS)!r} is no question")
    return judge()


def _write(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, tuple):
        return [_write(item) for item in value]
    assert is_dataclass(value), f"{type(value).__name__} can't be recorded"
    assert _KNOWN.get(type(value).__name__) is type(value), f"{type(value).__name__} is not marked as recorded"
    return {IS: type(value).__name__} | {part.name: _write(getattr(value, part.name)) for part in fields(value)}


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    known = _KNOWN.get(str(value.get(IS)))
    if known is None:
        raise UnknownInputs(f"{value.get(IS)!r} is not known to this version")
    try:
        return known(**{name: _read(part) for name, part in value.items() if name != IS})
    except TypeError as error:
        raise UnknownInputs(f"{known.__name__} has other fields: {error}") from error
