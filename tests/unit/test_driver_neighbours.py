"""Whom a node has to do with, counted as its volumes change: the same as looking through all of them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.replica.brain import Record, Voter
from services.replica.brain.record import Attachment
from services.replica.driver.neighbours import Neighbours
from tests.support.voters import record

NODES = ("a", "b", "c", "d", "e")
VOTERS = {node: Voter(node, f"{number:016x}", "data") for number, node in enumerate(NODES)}


@st.composite
def records(draw: st.DrawFn) -> Record:
    voters = [VOTERS[node] for node in draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=3, unique=True))]
    joining = draw(st.sampled_from([(), (VOTERS["e"],)]))
    user = draw(st.none() | st.sampled_from((*NODES, "app")))
    attachment = Attachment(user, 1) if user is not None else None
    return replace(record(*voters), joining=joining, attachment=attachment)


CHANGES = st.tuples(st.sampled_from("vw"), st.none() | records(), st.booleans(), st.booleans())
"""(volume, its record, led here, forgotten)"""


@given(st.lists(CHANGES, max_size=20))
def test_they_are_those_of_all_volumes(changes: list[tuple[str, Record | None, bool, bool]]) -> None:
    neighbours = Neighbours("a")
    volumes: dict[str, tuple[Record | None, bool]] = {}
    for volume, known, led, forgotten in changes:
        if forgotten:
            neighbours.forget(volume)
            volumes.pop(volume, None)
        else:
            neighbours.see(volume, known, led=led)
            volumes[volume] = known, led
        held = [(known, led) for known, led in volumes.values() if known is not None]
        sharing = {member.node for known, _ in held for member in known.members} - {"a"}
        using = {known.attachment.node for known, led in held if led and known.attachment is not None} - {"a"}
        assert neighbours.sharing == sharing
        assert neighbours.all == sharing | using
