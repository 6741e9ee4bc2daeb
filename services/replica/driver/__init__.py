"""All volumes of one node, pure: `Node` takes facts and gives orders to the shell."""

from services.replica.driver.node import Node
from services.replica.driver.orders import (
    REPLICA_OWNER,
    Data,
    Decided,
    DropHome,
    Erase,
    FindHome,
    HangUp,
    Order,
    RecordChanged,
    Remove,
    Reply,
    Save,
    TellServing,
    ToBrain,
    ToPeer,
)
from services.replica.driver.volume import Volume

__all__ = [
    "REPLICA_OWNER",
    "Data",
    "Decided",
    "DropHome",
    "Erase",
    "FindHome",
    "HangUp",
    "Node",
    "Order",
    "RecordChanged",
    "Remove",
    "Reply",
    "Save",
    "TellServing",
    "ToBrain",
    "ToPeer",
    "Volume",
]
