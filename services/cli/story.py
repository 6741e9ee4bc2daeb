"""What a volume's voters decided, as a story in plain words, told from the inputs that they recorded.

    epoch 7
      n2 stood because n1, the primary, had been silent for 0.51 s
      n3 voted for n2
      n2 became the primary with the votes of n2, n3

The order is that of causes and not of clocks, which no two nodes share: by epoch; within one, who stood comes before
the votes, the votes before who won, and the changes follow in the order of the record's versions. What one node tells
keeps that node's own order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stoscore.messages import DecisionEvent
from stoscore.units import in_seconds

STANDS, VOTES, WINS, CHANGES, FAILS, MOVES, ENDS = range(7)
_PHASE = {"stand": STANDS, "grant": VOTES, "refuse": VOTES, "lead": WINS, "fail": FAILS, "move": MOVES}
_PHASE |= {"step-down": ENDS}
_LENGTH = re.compile(r"\d+\.\d\d s", re.ASCII)
"""How long something had lasted: what happens again a moment later is told with the last one."""
Place = tuple[int, int, int]
"""(epoch, phase within it, version)"""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One thing that happened; `times`: so often in a row."""

    epoch: int
    text: str
    event: DecisionEvent
    times: int = 1


def tell(events: Iterable[DecisionEvent]) -> list[Chapter]:
    """`events` of one volume, each node's in its own order."""
    chapters: list[Chapter] = []
    for (epoch, _, _), event in in_order(events):
        text = in_words(event)
        last = chapters[-1] if chapters else None
        if last is not None and (last.event.node, _LENGTH.sub("", last.text)) == (event.node, _LENGTH.sub("", text)):
            chapters[-1] = Chapter(last.epoch, text, last.event, last.times + 1)
        else:
            chapters.append(Chapter(epoch, text, event))
    return chapters


def in_order(events: Iterable[DecisionEvent]) -> list[tuple[Place, DecisionEvent]]:
    """By cause. A node's later word never comes before its earlier one, wherever its epoch would put it."""
    latest: dict[str, Place] = {}
    placed = []
    for number, event in enumerate(events):
        place = max(_place(event), latest.get(event.node, (0, 0, 0)))
        latest[event.node] = place
        placed.append((place, number, event))
    return [(place, event) for place, _, event in sorted(placed, key=lambda item: item[:2])]


def _place(event: DecisionEvent) -> Place:
    asked = event.inputs.get("asked_epoch")
    ended = event.inputs.get("epoch") if event.kind == "step-down" else None
    about = next((number for number in (asked, ended) if isinstance(number, int)), event.epoch)
    is_vote = event.inputs.get("is") in ("Ballot", "Standing", "Election")
    phase = _PHASE.get(event.kind, CHANGES) if is_vote or event.kind != "refuse" else CHANGES
    return about, phase, event.version if phase >= CHANGES else 0


# ---- words --------------------------------------------------------------------------------------------


def in_words(event: DecisionEvent) -> str:
    """One sentence; what this version can't put better, in the deciding node's own words."""
    words = _WORDS.get(str(event.inputs.get("is")))
    try:
        told = words(event, event.inputs) if words is not None else ""
    except (KeyError, TypeError, IndexError, AttributeError):
        told = ""  # of a newer version, whose inputs look different
    return told or f"{event.node}: {event.outcome or event.kind}"


def _node(voter: Any) -> str:
    return str(voter["node"])


def _list(voters: Sequence[Any]) -> str:
    return ", ".join(_node(voter) for voter in voters)


def _reason(outcome: str) -> str:
    return outcome.partition(": ")[2]


def _standing(event: DecisionEvent, inputs: Any) -> str:
    leader = inputs["leader"]
    if inputs["named"]:
        because = f"because {_node(leader)}, the primary, had named it"
    elif leader is None:
        because = "because the volume had no primary yet"
    elif _node(leader) == event.node:
        because = "because it had been the primary itself"
    else:
        because = f"because {_node(leader)}, the primary, had been silent for {in_seconds(inputs['absent_ns'])}"
    doubt = "; it may have lost writes that were not flushed" if inputs["unclean"] else ""
    return f"{event.node} stood {because}{doubt}"


def _ballot(event: DecisionEvent, inputs: Any) -> str:
    candidate = _node(inputs["candidate"])
    if event.kind == "refuse":
        return f"{event.node} would not have {candidate}: {_reason(event.outcome)}"
    if candidate == event.node:
        return f"{event.node} voted for itself"
    released = inputs["released"] and inputs["released"] == inputs["epoch"]
    freed = f", since {inputs['promised_to']} had released its promise" if released and inputs["promised_ns"] else ""
    return f"{event.node} voted for {candidate}{freed}"


def _election(event: DecisionEvent, inputs: Any) -> str:
    against = "; ".join(f"{node}: {reason}" for node, reason in inputs["refused"])
    told = f"{event.node} became the primary with the votes of {_list(inputs['granted'])}"
    return told + (f" (against it: {against})" if against else "")


def _reign(event: DecisionEvent, inputs: Any) -> str:
    return f"{event.node} was no longer the primary: {event.outcome}"


def _move(event: DecisionEvent, inputs: Any) -> str:
    if event.kind == "refuse":
        return f"{event.node} stayed the primary: {_reason(event.outcome)}"
    successor = event.outcome.partition(" ")[0]
    return f"{event.node} handed the volume over to {successor}: {_reason(event.outcome)}"


def _adoption(event: DecisionEvent, inputs: Any) -> str:
    stamp = inputs["newer"]["stamp"]
    told = f"version {stamp['version']} of epoch {stamp['epoch']}"
    return f"{event.node} learned from {_node(inputs['tellers'][-1])} of {told}, which it had not"


def _changed(event: DecisionEvent, inputs: Any) -> str:
    change, record = inputs["change"], inputs["record"]
    match event.kind:
        case "shrink":
            left = [voter for voter in record["in_sync"] if voter != change["member"]]
            member = _node(change["member"])
            return f"{event.node} let {member} leave the in-sync set: {change['reason']}; it holds {_list(left)}"
        case "admit":
            member = change["member"]
            return f"{_node(member)} was in sync again: {_list([*record['in_sync'], member])}"
        case "attach":
            return f"the volume was {event.outcome}"
        case "fence" | "refuse":
            return event.outcome
        case "detach":
            return f"the volume was detached from {record['attachment']['node']}"
        case "snapshot" | "unsnapshot":
            return event.outcome
        case "delete":
            return "the volume was deleted: its tombstone was committed"
    return ""


def _own_words(event: DecisionEvent, inputs: Any) -> str:
    return event.outcome


_WORDS: dict[str, Callable[[DecisionEvent, Any], str]] = {
    "Standing": _standing,
    "Ballot": _ballot,
    "Election": _election,
    "Reign": _reign,
    "Move": _move,
    "Adoption": _adoption,
    "Changed": _changed,
    "Failed": _own_words,
    "LastHolder": _own_words,
    "Lost": _own_words,
    "Misunderstood": _own_words,
}


def as_text(name: str, chapters: Sequence[Chapter]) -> str:
    """The story under one heading for each epoch."""
    lines = [f"volume {name}"]
    epoch: int | None = None
    for chapter in chapters:
        if chapter.epoch != epoch:
            epoch = chapter.epoch
            lines += ["", f"epoch {epoch}" if epoch else "before the first election"]
        often = f" ({chapter.times} times)" if chapter.times > 1 else ""
        lines.append(f"  {chapter.text}{often}")
    return "\n".join(lines)
