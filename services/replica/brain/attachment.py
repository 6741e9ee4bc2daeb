"""Attachment as a record change: one node at a time, each new one with a higher fencing epoch (invariant 5)."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain.record import Attachment, Record


class AttachedElsewhere(Exception):
    """The volume is attached to `node`."""

    def __init__(self, node: str):
        super().__init__(node)
        self.node = node


def attach(record: Record, node: str) -> Record | None:
    """The record with `node` attached; None when it is already. Raises AttachedElsewhere."""
    if record.attachment is not None:
        if record.attachment.node == node:
            return None
        raise AttachedElsewhere(record.attachment.node)
    attach_epoch = record.attach_epoch + 1
    return replace(record, attachment=Attachment(node, attach_epoch), attach_epoch=attach_epoch)


def detach(record: Record, node: str | None) -> Record | None:
    """The record without attachment; None when there is none, or it is another node's."""
    if record.attachment is None or (node is not None and record.attachment.node != node):
        return None
    return replace(record, attachment=None)
