"""The events of a run as sentences, and of a failed one only those that matter to what failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from services.replica.brain import Record, Slot, Stamp, Voter
from services.replica.brain import messages as ms
from stoscore.units import SECOND
from tests.simulation.register import Block

Event = tuple[int, tuple[Any, ...]]
CLUSTER = ("fault", "heals", "everything", "moves", "left", "VIOLATION", "ERROR")
"""First words of events that concern every volume."""
PROCESS = ("starts", "is killed", "loses power", "stops in order", "is paused", "goes on", "link up to", "link down to")


def line(at_ns: int, words: tuple[Any, ...]) -> str:
    return f"{at_ns / SECOND:10.6f}  " + " ".join(text for text in map(said, words) if text)


def said(word: Any) -> str:
    """One word of an event, as short as it can be told."""
    match word:
        case str():
            return word
        case Voter(node):
            return node
        case Stamp(generation, epoch, version):
            return f"{epoch}/{version}" if not generation else f"{generation}:{epoch}/{version}"
        case Slot(stamp, record):
            return f"{said(stamp)} {said(record)}"
        case Record():
            return _record(word)
        case tuple() if hasattr(word, "_fields"):
            return _message(word)
        case tuple() | list():
            return "[" + " ".join(map(said, word)) + "]"
        case Block():
            return said(tuple(word.versions))
    if is_dataclass(word) and not isinstance(word, type):
        return _message(word)
    return str(word)


def _record(record: Record) -> str:
    in_sync = " ".join(voter.node for voter in record.in_sync)
    attached = f" attached to {record.attachment.node} ({record.attach_epoch})" if record.attachment else ""
    return f"in sync {{{in_sync}}}{attached}{' deleted' if record.deleted else ''}"


def _message(message: Any) -> str:
    name = re.sub("(?<!^)(?=[A-Z])", " ", type(message).__name__).lower()
    kind = getattr(message, "kind", "")
    to = f" to {message.target.node}" if isinstance(getattr(message, "target", None), Voter) else ""
    told = []
    for part in message._fields if isinstance(message, tuple) else [each.name for each in fields(message)]:
        value = getattr(message, part)
        if part in ("volume", "sender", "target", "kind", "token", "cause") or value in (None, "", False, ()):
            continue
        told.append(part.replace("_", " ") if value is True else f"{part.replace('_', ' ')} {said(value)}")
    return f"{kind.replace('-', ' ') if kind else name}{to}" + (f" ({', '.join(told)})" if told else "")


def relevant(events: Iterable[Event], volume: str, block: int | None) -> list[Event]:
    """Without the other volumes, and of the data only what touches the block (all of it when there is none)."""
    return [event for event in events if _matters(event[1], volume, block)]


def _matters(words: tuple[Any, ...], volume: str, block: int | None) -> bool:
    if words[0] in CLUSTER or len(words) < 2 or words[1] in PROCESS:
        return True
    if volume and not any(word == volume or getattr(word, "volume", None) == volume for word in words):
        return False
    if any(isinstance(word, ms.PreVote | ms.PreVoteAnswer | ms.Committed) for word in words):
        return False
    if words[1] in ("stores", "copies"):
        return block is None or _touches(words[4], len(words[5]), block)
    if "client" in words:
        at = words.index("client")
        return block is None or words[at + 2] == "FLUSH" or _touches(words[at + 4], words[at + 5], block)
    if words[1] == "hears of":
        return block is not None and any(_message_touches(word, block) for word in words)
    return True


def _touches(first: int, count: int, block: int) -> bool:
    return first <= block < first + count


def _message_touches(word: Any, block: int) -> bool:
    first, count = getattr(word, "block", None), getattr(word, "count", None)
    return isinstance(first, int) and isinstance(count, int) and _touches(first, count, block)


def of_violation(what: str, events: Iterable[Event], length: int = 60) -> list[str]:
    """The last events that matter to what is said to be wrong."""
    volume = re.search(r"\bv\d+(?:\.\d+)?\b", what)
    block = re.search(r"\bblock (\d+)", what)
    kept = relevant(events, volume.group() if volume else "", int(block.group(1)) if block else None)
    return list(without_repeats(line(*event) for event in kept))[-length:]


def without_repeats(lines: Iterable[str]) -> Iterator[str]:
    """What is said over and over, by one or by two in turn, is told once."""
    last: list[str] = []
    times = 0
    for told in lines:
        what = re.sub(r"\d+", "", told)
        if what in last:
            times += 1
            continue
        if times:
            yield f"            ... and so on, {times} times"
        last, times = [*last[-3:], what], 0
        yield told
    if times:
        yield f"            ... and so on, {times} times"
