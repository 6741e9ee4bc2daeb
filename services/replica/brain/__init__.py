"""Who leads, who is in sync, who may attach: the decision logic of one volume at one voter. Pure.

The machine composes one module per concern: election, agreement, membership, attachment; promises and detector
are the same for all volumes that two nodes share.
"""

from services.replica.brain import events, messages
from services.replica.brain.detector import Detector
from services.replica.brain.election import Facts, Timing
from services.replica.brain.machine import Brain
from services.replica.brain.promises import Beat, BeatAnswer, Claims, Confirm, PairMessage, Promises
from services.replica.brain.record import Attachment, HardState, InvalidRecord, Record, Slot, Snapshot, Stamp, Voter
from services.replica.brain.told import lost_voter

__all__ = [
    "Attachment",
    "Beat",
    "BeatAnswer",
    "Brain",
    "Claims",
    "Confirm",
    "Detector",
    "Facts",
    "HardState",
    "InvalidRecord",
    "PairMessage",
    "Promises",
    "Record",
    "Slot",
    "Snapshot",
    "Stamp",
    "Timing",
    "Voter",
    "events",
    "lost_voter",
    "messages",
]
