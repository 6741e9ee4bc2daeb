"""The plan, for any bids and any request: it is deterministic, never breaks a rule, and accounts for everyone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.placement.plan import explain, plan
from services.placement.policies.capacity import Capacity
from services.placement.policies.spread import Spread
from stoscore.errors import Code, StosError
from stoscore.messages import Bid, RankRequest
from stoscore.units import GIB
from tests.support.bids import bid, request

SIZES = st.integers(0, 20 * GIB)
POLICIES = st.tuples(
    st.builds(Capacity, st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0, GIB])),
    st.builds(Spread, st.sampled_from(["off", "prefer", "require"])),
)


@st.composite
def bid_lists(draw: st.DrawFn) -> list[Bid]:
    names = draw(st.lists(st.sampled_from([f"n{number}" for number in range(9)]), unique=True))
    return [
        bid(
            name,
            zone=draw(st.sampled_from(["", "a", "b", "c"])),
            accepts_copies=draw(st.booleans()) or draw(st.booleans()),
            capacity_bytes=draw(SIZES),
            provisioned_bytes=draw(SIZES),
            free_disk_bytes=draw(SIZES),
        )
        for name in names
    ]


REQUESTS = st.builds(
    request,
    copies=st.integers(1, 6),
    witnesses=st.integers(0, 1),
    size_bytes=st.integers(1, 20 * GIB),
    exclude=st.lists(st.sampled_from(["n0", "n1", "n2"])),
    zones=st.lists(st.sampled_from(["a", "b"]), max_size=2),
    volume=st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}"),
)


@given(bid_lists(), REQUESTS, POLICIES, st.randoms())
def test_the_order_of_the_bids_does_not_matter(
    bids: list[Bid], asked: RankRequest, policies: tuple[Capacity, Spread], random: object
) -> None:
    shuffled = list(bids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert explain(bids, asked, policies, instance="p") == explain(shuffled, asked, policies, instance="p")


@given(bid_lists(), REQUESTS, POLICIES)
def test_every_bid_is_either_chosen_or_refused_with_a_reason(
    bids: list[Bid], asked: RankRequest, policies: tuple[Capacity, Spread]
) -> None:
    ranking = explain(bids, asked, policies, instance="p")
    chosen = [choice.node for choice in ranking.chosen]
    refused = [refusal.node for refusal in ranking.refused]
    assert sorted(chosen + refused) == sorted(offer.node for offer in bids)
    assert all(choice.reasons for choice in ranking.chosen)
    assert all(refusal.reason for refusal in ranking.refused)
    assert ranking.bids == len(bids)


@given(bid_lists(), REQUESTS, POLICIES)
def test_a_choice_never_breaks_a_rule(bids: list[Bid], asked: RankRequest, policies: tuple[Capacity, Spread]) -> None:
    capacity, spread = policies
    offers = {offer.node: offer for offer in bids}
    ranking = explain(bids, asked, policies, instance="p")
    for choice in ranking.chosen:
        offer = offers[choice.node]
        assert offer.accepts_copies
        assert offer.node not in asked.exclude
        assert not asked.zones or offer.zone in asked.zones
        if choice.kind == "data":
            assert asked.size_bytes <= offer.capacity_bytes
            promised = offer.provisioned_bytes + asked.size_bytes
            assert promised <= offer.capacity_bytes * capacity.overcommit_ratio
    if spread.mode == "require":
        zones = [choice.zone for choice in ranking.chosen if choice.zone]
        assert len(zones) == len(set(zones))


@given(bid_lists(), REQUESTS, POLICIES)
def test_a_plan_is_whole_or_one_of_three_errors(
    bids: list[Bid], asked: RankRequest, policies: tuple[Capacity, Spread]
) -> None:
    told = explain(bids, asked, policies, instance="p")
    try:
        ranking = plan(bids, asked, policies, instance="p")
    except StosError as error:
        fitting = [offer for offer in bids if offer.accepts_copies]
        if not bids:
            assert error.code is Code.UNAVAILABLE
        elif fitting and all(offer.capacity_bytes < asked.size_bytes for offer in fitting):
            assert error.code is Code.OUT_OF_RANGE
        else:
            assert error.code is Code.RESOURCE_EXHAUSTED
            assert len(told.chosen) < asked.copies + asked.witnesses
        return
    assert ranking == told
    kinds = [choice.kind for choice in ranking.chosen]
    assert kinds == ["data"] * asked.copies + ["witness"] * asked.witnesses
