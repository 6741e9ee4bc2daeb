"""Who may say what about a volume: judgements over a voter's own record and the sender's proven node. Pure.

A link, or the bus, proves which node speaks. What that node may say follows from this voter's record and from
nothing that the message claims:

    a member of the record, by its incarnation     brain messages, data between copies
    the node that leads the stored epoch           JOIN, and claims for promises
    the attached node, or who names our own        sessions; the question whether it still belongs (I3)
    incarnation, which only the record tells
    anybody else                                   hears what it would hear were the volume not here

A reason is a short phrase from a small set: refusals are counted by it. "" is yes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from services.replica.brain.messages import BrainMessage, Enquire, PreVoteAnswer, Propose, generation_of
from services.replica.brain.record import (
    ATTACH_EPOCH_MAX,
    EPOCH_MAX,
    GENERATION_MAX,
    VERSION_MAX,
    HardState,
    Record,
    Slot,
    Stamp,
    Voter,
)
from services.replica.replication.messages import SEQ_BITS
from stoscore.limits import LABELS_MAX, VOLUME_BYTES_MAX, valid_node_name, valid_volume_name

assert EPOCH_MAX == (1 << 64 - SEQ_BITS) - 1, "sequence numbers carry the epoch above their counter"
_TEXT_CHARS_MAX = 1000
_INCARNATION = re.compile(r"[0-9a-f]{16}", re.ASCII)
PROMISE_NS_MAX = 60_000_000_000
"""No lease that can be configured is as long."""

STRANGER = "it is no member of the volume"
INCARNATION = "another incarnation than the record names"
GENERATION = "another generation than the record's"
WITNESS = "a witness sends no data"
NOT_LEADER = "it does not lead the epoch"
IMPOSSIBLE = "impossible numbers or names"


def data(slot: Slot | None, *, mine: int, node: str, sender: int, target: int, generation: int) -> str:
    """Why a frame between two copies is not believed (rules I1, I4). `mine`: our incarnation."""
    voter = slot.record.member_on(node) if slot is not None else None
    if slot is None or voter is None:
        return STRANGER
    if target != mine or sender != int(voter.incarnation, 16):
        return INCARNATION
    if generation != slot.stamp.generation:
        return GENERATION
    return WITNESS if voter.kind != "data" else ""


def lead(state: HardState, leader: Voter | None, node: str) -> str:
    """Why `node` can't be the leader of the epoch that this voter has stored, by all that it knows: it follows it, it
    voted for it, or the record of that epoch names it."""
    slot = state.slot
    named = slot.record.primary if slot is not None and slot.stamp.epoch == state.epoch else None
    known = (leader, state.voted_for, named)
    return "" if any(voter is not None and voter.node == node for voter in known) else NOT_LEADER


def brain(state: HardState | None, message: BrainMessage, heard: Record | None = None) -> str:
    """Why a brain's message is not heard. Before the first record there is none to look into: then only a proposal
    counts that names both ends as members, and its sender had to know our incarnation. Who was a member once knows it
    too, and may ask whether it still is one, answer when it is asked (S3), or learn that its generation is over.
    `heard`: a newer record than ours, of which a member told."""
    if not _possible(message):
        return IMPOSSIBLE
    if state is None or state.slot is None:
        return "" if not isinstance(message, Propose) or message.sender in message.slot.record.members else STRANGER
    record = state.slot.record
    told = isinstance(message, Enquire | PreVoteAnswer) or generation_of(message) < state.slot.stamp.generation
    if message.sender in record.members or (told and message.target == state.me):
        return ""
    if heard is not None and message.sender in heard.members:
        return ""
    return STRANGER if record.member_on(message.sender.node) is None else INCARNATION


def member(record: Record | None, node: str) -> bool:
    """It holds a copy or a vote of the volume, or is about to."""
    return record is not None and record.member_on(node) is not None


def knows(record: Record | None, *, mine: int, node: str, target: int) -> bool:
    """May `node` learn that the volume is here? It is attached, it is a voter's node, or it names our incarnation:
    an attached node was told it together with the record, and it stays told when it is attached no more."""
    if target == mine:
        return True
    if record is None:
        return False
    attached = record.attachment is not None and record.attachment.node == node
    return attached or member(record, node)


# ---- numbers that somebody else chose ----------------------------------------------------------------


def _possible(message: BrainMessage) -> bool:
    """A voter may be broken or stolen. What it sends must not make arithmetic or packing fail here, in the middle of
    what other volumes have to do."""
    successor = getattr(message, "successor", message.sender)
    voters = [message.sender, message.target, successor, *getattr(message, "in_sync", ())]
    epochs = [message.epoch, getattr(message, "asked", 0), getattr(message, "released", 0)]
    texts = [getattr(message, "reason", ""), getattr(message, "what", "")]
    stamps: list[Stamp | None] = [getattr(message, "stamp", None), getattr(message, "committed", None)]
    slot: Slot | None = getattr(message, "slot", None)
    if slot is not None:
        record = slot.record
        stamps.append(slot.stamp)
        voters += record.members
        if not 0 <= record.attach_epoch <= ATTACH_EPOCH_MAX or record.size_bytes > VOLUME_BYTES_MAX:
            return False
        if max(len(record.labels), len(record.zones)) > LABELS_MAX or not valid_volume_name(record.name):
            return False
        if record.attachment is not None and not valid_node_name(record.attachment.node):
            return False
        texts += record.zones
    short = all(len(text) <= _TEXT_CHARS_MAX for text in texts)
    return short and all(0 <= epoch <= EPOCH_MAX for epoch in epochs) and _are_stamps(stamps) and _are_voters(voters)


def _are_stamps(stamps: Iterable[Stamp | None]) -> bool:
    return all(
        0 <= stamp.generation <= GENERATION_MAX and 0 <= stamp.epoch <= EPOCH_MAX and 0 <= stamp.version <= VERSION_MAX
        for stamp in stamps
        if stamp is not None
    )


def _are_voters(voters: Iterable[Voter]) -> bool:
    return all(_is_voter(voter.node, voter.incarnation) for voter in voters)


@lru_cache(maxsize=4096)
def _is_voter(node: str, incarnation: str) -> bool:
    """Judged once: the same few are named in nearly every message."""
    return valid_node_name(node) and _INCARNATION.fullmatch(incarnation) is not None
