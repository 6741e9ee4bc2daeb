"""Messages of a volume's brain: in another voter's name, as a stranger, from the past, out of order.

A believed `Propose` changes the record of the volume, so the judge looks at the victim's record afterwards: a jump
of its epoch, or a version that went back.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from services.replica.brain import Attachment, Record, Slot, Stamp, Voter
from services.replica.brain import messages as ms
from services.replica.brain.messages import BrainMessage
from services.replica.peers import Type, pack
from services.replica.records import from_model
from stoscore.messages import RecordModel
from tests.security.scene import Outcome, Scene
from tests.security.wires import GONE, RawLink, RawNats

JUMP = 1000
"""By so much the epoch of a believed forgery is higher."""
STRANGE = "f" * 16
"""The incarnation of a voter that never was."""


def _slot(told: dict[str, Any]) -> Slot:
    """The record with its stamp, as the victim told it."""
    model = RecordModel.model_validate(told)
    return Slot(Stamp(model.generation, model.epoch, model.version), from_model(model))


def _proposal(
    slot: Slot, sender: Voter, target: Voter, *, record: Record | None = None, epoch: int = 0, version: int = 0
) -> ms.Propose:
    """A leader's proposal; without an epoch or version, the slot's."""
    stamp = Stamp(slot.stamp.generation, epoch or slot.stamp.epoch, version or slot.stamp.version)
    proposed = Slot(stamp, replace(record or slot.record, primary=sender))
    return ms.Propose(slot.record.volume, sender, target, stamp.epoch, proposed, stamp)


def _send(scene: Scene, identity: Path | None, by: str, name: str, messages: list[BrainMessage]) -> Outcome:
    """Each to its target, under that name, by link or by bus."""
    told = []
    try:
        if by == "bus":
            with RawNats(scene, identity) as nats:
                for message in messages:
                    nats.publish(f"stos.v1.vol.{message.volume}.brain.{name}", ms.encode(message))
                nats.flush()
                return Outcome(not nats.errors, f"sent; errors: {nats.errors}")
        for message in messages:
            with RawLink(scene, message.target.node, identity, name) as link:
                body = ms.encode(message)
                link.send(pack(Type.BRAIN, volume=bytes.fromhex(message.volume), length=len(body)) + body)
                told.append(f"sent, link {'stays' if link.is_open() else 'closed'}")
    except GONE as error:
        return Outcome(False, f"{told} {error!r}")
    return Outcome(True, f"{told}")


def _voter(slot: Slot, node: str) -> Voter:
    return next(voter for voter in slot.record.voters if voter.node == node)


def _others(slot: Slot, node: str) -> list[Voter]:
    return [voter for voter in slot.record.voters if voter.node != node]


def forge_brain(scene: Scene, identity: Path | None, name: str, volume: str, posing_as: str, by: str) -> Outcome:
    """A voter's proposal, sent by us, to all other voters."""
    slot = _slot(scene.records[volume])
    sender = _voter(slot, posing_as)
    epoch = slot.stamp.epoch + JUMP
    messages = [_proposal(slot, sender, target, epoch=epoch, version=1) for target in _others(slot, posing_as)]
    return _send(scene, identity, by, name, [*messages])


def intrude_as_voter(scene: Scene, identity: Path | None, name: str, volume: str, by: str) -> Outcome:
    """A proposal in our own name that makes us a voter, the primary, the only member in sync and the attached one,
    and deletes the volume on the way."""
    slot = _slot(scene.records[volume])
    me = Voter(name, STRANGE)
    attach_epoch = slot.record.attach_epoch + 1
    ours = replace(
        slot.record,
        in_sync=(me,),
        attachment=Attachment(name, attach_epoch),
        attach_epoch=attach_epoch,
        deleted=True,
        joining=(),
    )
    messages = [
        _proposal(slot, me, voter, record=replace(ours, voters=(me, voter)), epoch=slot.stamp.epoch + JUMP, version=1)
        for voter in slot.record.voters
    ]
    return _send(scene, identity, by, name, [*messages])


def unseat(scene: Scene, identity: Path | None, name: str, volume: str, by: str) -> Outcome:
    """Votes and refusals of a stranger in a far higher epoch: the leader would step down for them. And a record that
    names us, for whoever asks whether we are a voter at all."""
    slot = _slot(scene.records[volume])
    me = Voter(name, STRANGE)
    return _send(scene, identity, by, name, [*_unseating(slot, me), *_teaching(slot, me)])


def force_election(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """The same, of somebody who is a voter."""
    slot = _slot(scene.records[volume])
    return _send(scene, identity, "bus", name, [*_unseating(slot, _voter(slot, name))])


def _unseating(slot: Slot, me: Voter) -> list[BrainMessage]:
    volume, epoch = slot.record.volume, slot.stamp.epoch + JUMP
    stamp = Stamp(slot.stamp.generation, epoch, 1)
    messages: list[BrainMessage] = []
    for voter in _others(slot, me.node):
        messages += [ms.Refused(volume, me, voter, epoch), ms.Vote(volume, me, voter, epoch, stamp)]
    return messages


def _teaching(slot: Slot, me: Voter) -> list[BrainMessage]:
    """To each voter a newer record of it and us alone."""
    stamp = Stamp(slot.stamp.generation, slot.stamp.epoch + JUMP, 1)
    messages: list[BrainMessage] = []
    for voter in _others(slot, me.node):
        newer = Slot(stamp, replace(slot.record, voters=(voter, me), in_sync=(voter,), primary=None, joining=()))
        messages.append(ms.Refused(slot.record.volume, me, voter, stamp.epoch, newer))
    return messages


def bury(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """A voter of the volume proposes, and calls committed, the record that deletes it."""
    slot = _slot(scene.records[volume])
    me = _voter(slot, name)
    tombstone = replace(slot.record, deleted=True, attachment=None)
    epoch = slot.stamp.epoch + JUMP
    messages = [_proposal(slot, me, target, record=tombstone, epoch=epoch, version=1) for target in _others(slot, name)]
    return _send(scene, identity, "bus", name, [*messages])


def replay_brain(scene: Scene, identity: Path | None, volume: str, then: dict[str, Any]) -> Outcome:
    """The leader's own proposals from before (`then`: the record as it was), out of order, with the leader's own
    stolen identity: nothing but their age speaks against them."""
    now, past = _slot(scene.records[volume]), _slot(then)
    leader = past.record.primary
    assert leader is not None
    messages: list[BrainMessage] = []
    for target in _others(now, leader.node):
        messages += [
            _proposal(now, leader, target),
            _proposal(past, leader, target),
            _proposal(past, leader, target, version=max(1, past.stamp.version - 1)),
        ]
    return _send(scene, identity, "bus", leader.node, messages)
