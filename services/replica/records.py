"""The brain's record and the API's: the same content, two shapes."""

from __future__ import annotations

from services.replica.brain import Attachment, Record, Slot, Voter
from stoscore.messages import AttachmentModel, RecordModel, VoterModel


def to_model(slot: Slot) -> RecordModel:
    record, stamp = slot.record, slot.stamp
    attachment = record.attachment
    return RecordModel(
        volume=record.volume,
        name=record.name,
        size_bytes=record.size_bytes,
        replicas=record.replicas,
        generation=stamp.generation,
        epoch=stamp.epoch,
        version=stamp.version,
        voters=[_voter_model(voter) for voter in record.voters],
        in_sync=[_voter_model(voter) for voter in record.in_sync],
        primary=_voter_model(record.primary) if record.primary else None,
        attachment=AttachmentModel(node=attachment.node, attach_epoch=attachment.attach_epoch) if attachment else None,
        attach_epoch=record.attach_epoch,
        labels=dict(record.labels),
        deleted=record.deleted,
        joining=[_voter_model(member) for member in record.joining],
        failure_mode=record.failure_mode,
        on_unavailable=record.on_unavailable,
        zones=list(record.zones),
    )


def from_model(model: RecordModel) -> Record:
    """Raises InvalidRecord."""
    attachment = model.attachment
    record = Record(
        volume=model.volume,
        name=model.name,
        size_bytes=model.size_bytes,
        replicas=model.replicas,
        voters=tuple(_voter(voter) for voter in model.voters),
        in_sync=tuple(_voter(voter) for voter in model.in_sync),
        primary=_voter(model.primary) if model.primary else None,
        attachment=Attachment(attachment.node, attachment.attach_epoch) if attachment else None,
        attach_epoch=model.attach_epoch,
        labels=tuple(sorted(model.labels.items())),
        deleted=model.deleted,
        joining=tuple(_voter(member) for member in model.joining),
        failure_mode=model.failure_mode,
        on_unavailable=model.on_unavailable,
        zones=tuple(model.zones),
    )
    record.validate()
    return record


def _voter_model(voter: Voter) -> VoterModel:
    return VoterModel(node=voter.node, incarnation=voter.incarnation, kind=voter.kind)


def _voter(model: VoterModel) -> Voter:
    return Voter(model.node, model.incarnation, model.kind)
