"""The plan: who is chosen, who is refused and why, and which of the three errors a shortage is."""

from __future__ import annotations

import pytest

from services.placement.plan import explain, plan
from services.placement.policies import Policy
from services.placement.policies.capacity import Capacity
from services.placement.policies.spread import Spread
from stoscore.errors import Code, StosError
from stoscore.messages import Ranking
from stoscore.units import GIB, MIB
from tests.support.bids import bid, request

POLICIES: tuple[Policy, ...] = (Capacity(1.0, 64 * MIB), Spread("prefer"))


def chosen(ranking: Ranking) -> list[str]:
    return [choice.node for choice in ranking.chosen]


def refused(ranking: Ranking) -> dict[str, str]:
    return {refusal.node: refusal.reason for refusal in ranking.refused}


def test_three_copies_go_to_three_nodes_each_with_its_reasons() -> None:
    ranking = plan([bid("n1"), bid("n2"), bid("n3")], request(3), POLICIES, instance="p1")
    assert sorted(chosen(ranking)) == ["n1", "n2", "n3"]
    assert ranking.instance == "p1"
    assert ranking.bids == 3
    for choice in ranking.chosen:
        assert choice.kind == "data"
        assert [reason.partition(":")[0] for reason in choice.reasons] == ["capacity", "spread"]


def test_the_emptier_node_comes_first() -> None:
    bids = [bid("full", provisioned_bytes=80 * GIB), bid("half", provisioned_bytes=50 * GIB), bid("empty")]
    assert chosen(plan(bids, request(3), POLICIES, instance="p")) == ["empty", "half", "full"]


def test_a_node_that_is_not_needed_is_told_its_rank() -> None:
    ranking = plan([bid("a"), bid("b", provisioned_bytes=GIB)], request(1), POLICIES, instance="p")
    assert chosen(ranking) == ["a"]
    assert refused(ranking)["b"].startswith("not needed: rank 2, score 0.98")


def test_zones_without_a_copy_come_before_emptier_nodes() -> None:
    bids = [
        bid("a1", zone="a"),
        bid("a2", zone="a"),
        bid("b1", zone="b", provisioned_bytes=90 * GIB),
    ]
    ranking = plan(bids, request(2), POLICIES, instance="p")
    assert {choice.zone for choice in ranking.chosen} == {"a", "b"}


def test_a_shared_zone_is_taken_when_there_is_no_other() -> None:
    bids = [bid("a1", zone="a"), bid("a2", zone="a")]
    ranking = plan(bids, request(2), POLICIES, instance="p")
    assert sorted(chosen(ranking)) == ["a1", "a2"]
    assert any("shares zone a with" in reason for reason in ranking.chosen[1].reasons)


def test_required_spread_refuses_a_shared_zone() -> None:
    bids = [bid("a1", zone="a"), bid("a2", zone="a"), bid("x1", zone=""), bid("x2", zone="")]
    policies = (Capacity(1.0, 0), Spread("require"))
    assert len(plan(bids, request(3), policies, instance="p").chosen) == 3
    with pytest.raises(StosError, match="zone a already has a") as caught:
        plan(bids, request(4), policies, instance="p")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_spread_off_ignores_zones() -> None:
    bids = [bid("a1", zone="a"), bid("a2", zone="a"), bid("b1", zone="b", provisioned_bytes=50 * GIB)]
    ranking = plan(bids, request(2), (Capacity(1.0, 0), Spread("off")), instance="p")
    assert sorted(chosen(ranking)) == ["a1", "a2"]


def test_a_witness_goes_to_a_node_without_a_copy_and_needs_no_space() -> None:
    bids = [bid("n1"), bid("n2"), bid("tiny", capacity_bytes=MIB)]
    ranking = plan(bids, request(2, witnesses=1), POLICIES, instance="p")
    assert [(choice.node, choice.kind) for choice in ranking.chosen][-1] == ("tiny", "witness")
    assert {choice.node for choice in ranking.chosen if choice.kind == "data"} == {"n1", "n2"}


@pytest.mark.parametrize(
    ("changes", "asked", "reason"),
    [
        ({"accepts_copies": False}, {}, "takes no copies"),
        ({}, {"exclude": ["bad"]}, "excluded by the request"),
        ({}, {"among": ["n1", "n2"]}, "does not hold what the copy is to begin as"),
        ({"zone": "z"}, {"zones": ["zone-n1", "zone-n2"]}, "zone z is not among zone-n1, zone-n2"),
        ({"capacity_bytes": MIB}, {}, "capacity: 1.0 GiB is above its whole capacity of 1.0 MiB"),
        ({"provisioned_bytes": 100 * GIB}, {}, "capacity: 100.0 GiB of 100.0 GiB promised, no room for 1.0 GiB"),
        ({"free_disk_bytes": MIB}, {}, "capacity: disk nearly full: 1.0 MiB free, 64.0 MiB are kept free"),
    ],
)
def test_each_refusal_has_its_reason(changes: dict[str, object], asked: dict[str, object], reason: str) -> None:
    bids = [bid("n1"), bid("n2"), bid("bad", **changes)]
    assert refused(plan(bids, request(2, **asked), POLICIES, instance="p"))["bad"] == reason
    with pytest.raises(StosError) as caught:
        plan(bids, request(3, **asked), POLICIES, instance="p")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.details["refused"] == {"bad": reason}
    assert f"bad: {reason}" in caught.value.message
    assert caught.value.next_step


def test_a_refused_copy_keeps_its_reason_when_the_witness_could_go_there() -> None:
    bids = [bid("n1"), bid("n2"), bid("n3"), bid("tiny", capacity_bytes=MIB)]
    told = refused(plan(bids, request(2, witnesses=1), POLICIES, instance="p"))
    if "tiny" in told:
        assert "above its whole capacity" in told["tiny"]


def test_overcommit_promises_more_than_there_is_but_no_volume_above_a_whole_node() -> None:
    policies = (Capacity(2.0, 0), Spread("prefer"))
    assert plan([bid("n1", provisioned_bytes=150 * GIB)], request(1), policies, instance="p").chosen
    with pytest.raises(StosError) as caught:
        plan([bid("n1")], request(1, size_bytes=150 * GIB), policies, instance="p")
    assert caught.value.code is Code.OUT_OF_RANGE


def test_a_size_above_every_whole_node_is_out_of_range() -> None:
    bids = [bid("n1", capacity_bytes=2 * GIB), bid("n2", capacity_bytes=GIB), bid("n3", accepts_copies=False)]
    with pytest.raises(StosError) as caught:
        plan(bids, request(1, size_bytes=3 * GIB), POLICIES, instance="p")
    assert caught.value.code is Code.OUT_OF_RANGE
    assert caught.value.details == {"largest_bytes": 2 * GIB, "node": "n1"}
    assert "the largest node, n1, has 2.0 GiB" in caught.value.message


def test_no_bids_is_no_verdict_on_the_size() -> None:
    with pytest.raises(StosError) as caught:
        plan([], request(1), POLICIES, instance="p")
    assert caught.value.code is Code.UNAVAILABLE


def test_a_doubled_bid_counts_once() -> None:
    with pytest.raises(StosError) as caught:
        plan([bid("n1"), bid("n1"), bid("n1")], request(2), POLICIES, instance="p")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_explain_tells_a_shortage_without_an_error() -> None:
    ranking = explain([bid("n1"), bid("n2", accepts_copies=False)], request(3), POLICIES, instance="p")
    assert chosen(ranking) == ["n1"]
    assert refused(ranking) == {"n2": "takes no copies"}
    assert explain([], request(3), POLICIES, instance="p").chosen == []


def test_equal_nodes_share_the_first_places_of_many_volumes() -> None:
    bids = [bid("n1", zone=""), bid("n2", zone=""), bid("n3", zone="")]
    firsts = [
        chosen(plan(bids, request(1, volume=f"{number:032x}"), POLICIES, instance="p"))[0] for number in range(60)
    ]
    assert all(firsts.count(node) >= 10 for node in ("n1", "n2", "n3"))


def test_a_request_that_says_what_its_copies_may_not_share_is_obeyed() -> None:
    bids = [bid("n1", zone="a"), bid("n2", zone="a", provisioned_bytes=GIB), bid("n3", zone="b")]
    with pytest.raises(StosError) as caught:
        plan(bids, request(3, apart="zone"), POLICIES, instance="p")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert "zone a already has n1" in caught.value.message
    required = (Capacity(1.0, 0), Spread("require"))
    assert len(chosen(plan(bids, request(3, apart="node"), required, instance="p"))) == 3


def test_the_first_copy_goes_near_who_asks_and_the_others_where_they_are_best() -> None:
    bids = [bid("n1"), bid("n2", provisioned_bytes=90 * GIB), bid("n3"), bid("n4", provisioned_bytes=95 * GIB)]
    ranking = plan(bids, request(3, near="n2"), POLICIES, instance="p")
    assert chosen(ranking)[0] == "n2"
    assert set(chosen(ranking)) == {"n1", "n2", "n3"}
    assert "near" in ranking.chosen[0].reasons[-1]


def test_near_is_a_wish() -> None:
    bids = [bid("n1"), bid("n2", accepts_copies=False)]
    assert chosen(plan(bids, request(1, near="n2"), POLICIES, instance="p")) == ["n1"]
    assert chosen(plan(bids, request(1, near="n9"), POLICIES, instance="p")) == ["n1"]
