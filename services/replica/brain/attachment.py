"""Attachment as a record change: one node at a time, each new one with a higher fencing epoch (invariant 5).

The node that holds it beats with the primary, voter or not. Once it has been absent for a lease it counts as dead (P6)
and another one is attached at once: waiting would protect nobody, for the fencing epoch refuses the old frontend, its
reads too, whether its node is dead or only cut off.
"""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain.record import Attachment, Record


class AttachedElsewhere(Exception):
    """The volume is attached to `node`."""

    def __init__(self, node: str):
        super().__init__(node)
        self.node = node


def is_dead(absent_ns: int, lease_ns: int) -> bool:
    """The node's absence for one lease is its death, as far as the attachment goes (P6)."""
    return absent_ns >= lease_ns


def attach(record: Record, node: str, *, fencing: bool = False) -> Record | None:
    """The record with `node` attached; None when it is already. Raises AttachedElsewhere, unless it is `fencing`."""
    if record.attachment is not None:
        if record.attachment.node == node:
            return None
        if not fencing:
            raise AttachedElsewhere(record.attachment.node)
    attach_epoch = record.attach_epoch + 1
    return replace(record, attachment=Attachment(node, attach_epoch), attach_epoch=attach_epoch)


def detach(record: Record, node: str | None) -> Record | None:
    """The record without attachment; None when there is none, or it is another node's."""
    if record.attachment is None or (node is not None and record.attachment.node != node):
        return None
    return replace(record, attachment=None)
