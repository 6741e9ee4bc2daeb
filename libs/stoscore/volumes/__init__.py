"""Volumes as their users see them: create, find, attach and delete, over the bus.

| module | what it knows |
|---|---|
| `naming` | which names, sizes and copy counts are possible |
| `deadline` | how long a whole call may take, and how to retry within it |
| `nodes` | how to ask one node |
| `survey` | what the nodes said of a volume, and whom to believe |
| `primary` | who serves a volume, and how to ask it |
| `finding` | a volume's entry, by name or id |
| `snapshots` | which snapshots a volume has, and how to have one taken or dropped |
| `stepping` | how the snapshots of several volumes come to be of one moment |
| `stillness` | whose file system stands still meanwhile |
| `groups` | which snapshots are one of several volumes, complete or not there |
| `origin` | what a volume begins as, if not empty |
| `creation` | how a volume comes into being, and goes on where a broken create stopped |
| `deletion` | how it ends, founded or half made |
| `override` | what stands against an operator's override, and how everybody learns of it |
| `client` | `Volumes`, which puts them together |

Nothing here decides for a volume: the voters do. Every call may be repeated.
"""

from stoscore.volumes.client import Volumes
from stoscore.volumes.naming import SourceSpec, VolumeSpec, check_spec
from stoscore.volumes.snapshots import Snapshots
from stoscore.volumes.survey import Survey

__all__ = ["Snapshots", "SourceSpec", "Survey", "VolumeSpec", "Volumes", "check_spec"]
