"""How much room there is: what is told is what a request would get."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.placement import plan
from services.placement.policies.capacity import Capacity as CapacityPolicy
from services.placement.policies.spread import Spread
from services.placement.room import room, together
from stoscore.errors import StosError
from stoscore.messages import CapacityRequest
from stoscore.units import GIB, MIB
from tests.support.bids import bid, request

POLICIES = (CapacityPolicy(1.0, 0), Spread("prefer"))


def test_the_largest_volume_is_what_its_smallest_copy_leaves() -> None:
    bids = [bid(f"n{used}", provisioned_bytes=used * GIB) for used in (0, 50, 90)]
    found = room(bids, CapacityRequest(copies=3), POLICIES)
    assert found.largest_bytes == found.available_bytes == 10 * GIB
    assert room(bids, CapacityRequest(copies=1), POLICIES).largest_bytes == 100 * GIB
    assert room(bids, CapacityRequest(copies=1), POLICIES).available_bytes == 160 * GIB


def test_too_few_nodes_have_no_room() -> None:
    found = room([bid("n1"), bid("n2", accepts_copies=False)], CapacityRequest(copies=2, witnesses=1), POLICIES)
    assert (found.largest_bytes, found.available_bytes, found.bids) == (0, 0, 2)
    assert room([], CapacityRequest(copies=1), POLICIES).available_bytes == 0


def test_a_zone_has_the_room_of_its_nodes() -> None:
    bids = [bid("n1", zone="a"), bid("n2", zone="a"), bid("n3", zone="b")]
    assert room(bids, CapacityRequest(copies=2, zones=["a"]), POLICIES).largest_bytes == 100 * GIB
    assert room(bids, CapacityRequest(copies=2, zones=["b"]), POLICIES).largest_bytes == 0
    assert room(bids, CapacityRequest(copies=2, zones=["a"], apart="zone"), POLICIES).largest_bytes == 0
    found = room(bids, CapacityRequest(copies=2, apart="zone"), POLICIES)
    assert (found.largest_bytes, found.available_bytes) == (100 * GIB, 100 * GIB)


@given(
    left=st.lists(st.integers(0, 100), min_size=1, max_size=6),
    copies=st.integers(1, 4),
)
def test_the_largest_is_placed_and_nothing_larger(left: list[int], copies: int) -> None:
    bids = [bid(f"n{number}", provisioned_bytes=(100 - gib) * GIB) for number, gib in enumerate(left)]
    largest = room(bids, CapacityRequest(copies=copies), POLICIES).largest_bytes
    if largest:
        plan.plan(bids, request(copies, size_bytes=largest), POLICIES, instance="p")
    with pytest.raises(StosError):
        plan.plan(bids, request(copies, size_bytes=largest + MIB), POLICIES, instance="p")


@given(rooms=st.lists(st.integers(0, 6), min_size=1, max_size=4), copies=st.integers(1, 3))
def test_together_is_what_unit_volumes_could_fill(rooms: list[int], copies: int) -> None:
    """Against the greedy filling, which is optimal for volumes of one unit: always the emptiest rooms."""
    left, made = list(rooms), 0
    while len(fit := sorted((room for room in left if room), reverse=True)) >= copies:
        for number in sorted(range(len(left)), key=lambda at: -left[at])[:copies]:
            left[number] -= 1
        made += 1
        assert len(fit) <= len(rooms)
    assert together(rooms, copies) == made


def test_every_choice_of_rooms_binds() -> None:
    rooms, copies = [9, 4, 3, 2], 3
    bounds = [
        (sum(rooms) - sum(taken)) // (copies - count) for count in range(copies) for taken in combinations(rooms, count)
    ]
    assert together(rooms, copies) == min(bounds)
