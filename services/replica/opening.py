"""What is found on disk becomes a voter again, or is lost: there is nothing in between.

A voter whose hard state is torn, empty, unreadable or another's has forgotten what it promised. Begun anew under its
old incarnation it would vote twice (I1), so it keeps silent and says why; the volume carries on with the others, and
repair gives it another copy. One such directory never keeps the node, and its other volumes, from starting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from services.replica.brain import HardState, Voter
from services.replica.store import BlockStore, FormatError, StoreError, StoreFactory, WitnessStore, read_format


class LostVoter(Exception):
    """The directory can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """A voter's directory, open."""

    store: BlockStore | WitnessStore
    me: Voter
    state: HardState


def open_voter(path: Path, *, cluster: str, node: str, boot_id: str, lease_ns: int, factory: StoreFactory) -> Found:
    """Blocking. `lease_ns`: the longest lease that it is going to promise. Raises LostVoter and leaves nothing open."""
    volume = path.name
    try:
        format = read_format(path, cluster=cluster, volume=volume)
        store: BlockStore | WitnessStore
        if format.kind == "witness":
            store = WitnessStore.open(path, cluster=cluster, volume=volume)
        else:
            store = factory.open(path, cluster=cluster, boot_id=boot_id, volume=volume)
    except (FormatError, StoreError) as error:
        raise LostVoter(str(error)) from error
    me = Voter(node, format.incarnation, format.kind)
    try:
        # None: it was made, and nobody had told it its first record when its process ended.
        state = _read_state(store, volume, me) or HardState(me, 0, None, None, 0)
        if state.lease_max_ns < lease_ns:
            # Before any promise of that length: a restart must keep silent for as long (P3).
            state = replace(state, lease_max_ns=lease_ns)
            store.save_state(state.encode())
        return Found(store, me, state)
    except BaseException as error:
        _close(store)
        if isinstance(error, StoreError):
            raise LostVoter(str(error)) from error
        raise


def _read_state(store: BlockStore | WitnessStore, volume: str, me: Voter) -> HardState | None:
    try:
        raw = store.load_state()
        state = HardState.decode(raw) if raw else None
    except (FormatError, ValueError) as error:
        raise LostVoter(f"its hard state can't be read: {_in_short(error)}") from error
    if state is None:
        return None
    if state.me != me:
        theirs = f"incarnation {state.me.incarnation} on node {state.me.node}"
        raise LostVoter(f"its hard state is that of {theirs}, and this is incarnation {me.incarnation} on {me.node}")
    if state.slot is not None and state.slot.record.volume != volume:
        raise LostVoter(f"its hard state is that of volume {state.slot.record.volume}")
    return state


def _close(store: BlockStore | WitnessStore) -> None:
    if isinstance(store, WitnessStore):
        store.close()
    else:
        store.close(clean=False)


def _in_short(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
