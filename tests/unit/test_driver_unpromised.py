"""A leader whose voters' nodes are all there, with their links, and whose voters are not (A5)."""

from __future__ import annotations

from services.replica.brain import Claims
from stoscore.units import MS
from tests.support.pure_cluster import PureCluster
from tests.support.voters import LEASE, A, B, C


def led_by_a() -> PureCluster:
    cluster = PureCluster((A, B, C))
    cluster.found()
    assert cluster.primary() == "a"
    return cluster


def test_a5_a_leader_whose_voters_have_lost_their_directories_resigns() -> None:
    """Their nodes answer its beats, so nobody was absent: it led on for ever, without a lease."""
    cluster = led_by_a()
    cluster.come_back_empty("b")
    cluster.come_back_empty("c")
    brain = cluster.nodes["a"].volumes["v"].brain
    took_ms = cluster.until(lambda: brain.role != "leader", 5 * LEASE // MS)
    assert took_ms * MS <= 3 * LEASE, "one lease that runs out, and one without"
    told = [explain for name, _, explain in cluster.told if name == "a" and explain.kind == "step-down"]
    assert [explain.inputs["unpromised"] for explain in told] == [["b", "c"]]
    cluster.run(20_000)
    assert brain.role == "pre-voting", "it goes on to ask: a directory may be mounted again"


def test_a_lease_that_is_withdrawn_is_counted_from_that_moment() -> None:
    """Nobody looks at an idle leader: what it had last seen of its lease was long over, and it resigned at once."""
    cluster = PureCluster((A, B))
    cluster.found()
    cluster.run(30_000)
    brain = cluster.nodes["a"].volumes["v"].brain
    ((_, withdrawn),) = cluster.nodes["b"].promises.lift("v", "a", brain.epoch)
    cluster.nodes["a"].pair_message("b", withdrawn, cluster.now_ns)
    assert cluster.primary() == ""
    assert cluster.until(lambda: brain.role != "leader", 5 * LEASE // MS) * MS >= LEASE


def test_late_claims_of_the_process_before_do_not_cost_a_leader_its_lease() -> None:
    """They came by the bus when the link of the new process stood. Its voters answered every beat from then on and
    promised nothing, and they elected another one."""
    cluster = led_by_a()
    late = Claims(nonce=5, version=9, entries={})
    for name in ("b", "c"):
        cluster.nodes[name].pair_message("a", late, cluster.now_ns, by_bus=True)
    cluster.run(2 * LEASE // MS)
    assert cluster.primary() == "a"
    assert "step-down" not in cluster.kinds("a")


def test_a_majority_is_enough() -> None:
    cluster = led_by_a()
    cluster.come_back_empty("b")
    cluster.run(10_000)
    assert cluster.primary() == "a"
    assert "step-down" not in cluster.kinds("a")
