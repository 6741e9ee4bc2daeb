"""Beats, promises and elections with links cut and the bus there, and the other way round."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import HardState, Slot, Stamp
from services.replica.brain import messages as ms
from services.replica.driver import Node
from tests.support.pure_cluster import PureCluster
from tests.support.replicas import CLEAN
from tests.support.voters import TIMING, A, B, C, W

PAIR = ("Beat", "BeatAnswer", "Claims", "Confirm")


def cluster(*voters) -> PureCluster:  # type: ignore[no-untyped-def]
    made = PureCluster(voters)
    made.found()
    assert made.primary() == "a"
    return made


def test_a_pair_whose_link_is_cut_keeps_its_leases_over_the_bus_and_nobody_stands() -> None:
    made = cluster(A, B, C)
    before = made.kinds().count("stand")
    made.cut("a", "b")
    made.run(3000)
    assert made.primary() == "a"
    assert made.in_sync("a") == ["a", "c"], "b takes no data, so it leaves the set"
    assert made.kinds().count("stand") == before, "b hears its leader and disturbs nobody"
    promises = made.nodes["b"].promises
    assert promises.promised_until("v") > made.now_ns and promises.bound("v", 0).to == "a"
    made.heal("a", "b")
    made.until(lambda: made.in_sync("a") == ["a", "c", "b"])


def test_without_the_bus_everything_works_by_links() -> None:
    made = cluster(A, B, C)
    made.bus = False
    made.kill("a")
    took_ms = made.until(lambda: made.primary() == "b")
    assert took_ms < 900
    assert made.in_sync("b") == ["b", "c"]


def test_a_leader_that_has_lost_all_its_links_hands_over_to_a_follower_with_a_majority() -> None:
    """The bus alone would keep its lease alive for ever, and it can neither confirm a write nor let go of a member."""
    made = cluster(A, B, C)
    made.cut("a", "b")
    made.cut("a", "c")
    took_ms = made.until(lambda: made.primary() in ("b", "c"))
    assert took_ms < 1000
    (move,) = [explain for name, _, explain in made.told if explain.kind == "move"]
    assert move.inputs["why"] == "offered"
    leader = made.primary()
    made.until(lambda: sorted(made.in_sync(leader)) == ["b", "c"])
    made.run(2000)
    assert made.primary() == leader, "the one that is cut off does not come back over the bus"
    made.heal("a", "b")
    made.heal("a", "c")
    made.until(lambda: set(made.in_sync(leader)) == {"a", "b", "c"})


def test_a_leader_whose_last_link_is_cut_goes_on_when_nobody_could_do_better() -> None:
    """{a, b, w}: b is dead and w is heard over the bus alone. It is there to vote, so the volume serves."""
    made = cluster(A, B, W)
    made.cut("a", "w")
    made.run(300)
    made.kill("b")
    made.until(lambda: made.in_sync("a") == ["a"])
    assert made.primary() == "a"
    made.run(2000)
    assert made.primary() == "a"
    assert made.kinds("a").count("lead") == 1


def test_a_leader_that_is_cut_off_from_links_shrinks_nobody_who_lives() -> None:
    """Every link is cut and the bus is there: whoever leads must not leave the other copy out, for it may be the one
    that the clients reach."""
    made = cluster(A, B, W)
    for pair in (("a", "w"), ("b", "w"), ("a", "b")):
        made.cut(*pair)
    made.run(5000)
    assert set(made.in_sync("a")) == {"a", "b"}
    assert "shrink" not in made.kinds()


def test_a_witness_behind_the_bus_elects_and_promises() -> None:
    made = cluster(A, B, W)
    made.cut("b", "w")
    made.kill("a")
    made.until(lambda: made.primary() == "b")
    made.until(lambda: made.in_sync("b") == ["b"])
    made.bus = False
    made.until(lambda: made.primary() == "")
    made.run(1500)
    assert made.primary() == "", "without a promise of anybody it serves no more"
    made.bus = True
    made.until(lambda: made.primary() == "b")


def test_a_restarted_promiser_is_another_process_and_keeps_silent() -> None:
    """Over the bus nothing ends with a process: its answers name it, so what the old one confirmed counts no more."""
    made = cluster(A, B, W)
    made.cut("a", "w")
    made.until(lambda: made.nodes["a"].volumes["v"].brain.local.heard == {"w"})
    made.run(300)
    promises = made.nodes["a"].promises
    old = promises._claimed["w"].promiser
    state = HardState.decode(made.nodes["w"].volumes["v"].brain.state.encode())
    again = made.nodes["w"] = Node("w", TIMING, 77, lambda volume: CLEAN, made.now_ns)
    again.open("v", state, made.now_ns, marked=frozenset(), unclean=False, fresh=False)
    again.link_up("b", made.now_ns)
    made.until(lambda: promises._claimed["w"].promiser == 77)
    assert old != 77
    made.until(lambda: promises._claimed["w"].until_ns > made.now_ns)
    assert made.primary() == "a"


def test_an_idle_cluster_costs_the_same_for_one_volume_and_for_fifty() -> None:
    counted = []
    for volumes in (1, 50):
        made = PureCluster((A, B, C), volumes=[f"v{number}" for number in range(volumes)])
        made.found()
        made.run(2000)
        made.sent.clear()
        made.run(3000)
        counted.append(dict(made.sent))
    assert counted[0] == counted[1]
    assert set(counted[0]) == {("Beat", False), ("BeatAnswer", False)}


def test_a_pair_over_the_bus_costs_the_same_for_one_volume_and_for_fifty() -> None:
    counted = []
    for volumes in (1, 50):
        made = PureCluster((A, B, C), volumes=[f"v{number}" for number in range(volumes)])
        made.found()
        made.cut("a", "b")
        made.run(3000)
        made.sent.clear()
        made.run(3000)
        counted.append({kind: count for (kind, by_bus), count in made.sent.items() if by_bus})
    assert counted[0] == counted[1]
    assert set(counted[0]) <= set(PAIR)


def test_a_dead_peer_is_probed_seldom() -> None:
    made = cluster(A, B, C)
    made.kill("c")
    made.run(2000)
    made.sent.clear()
    made.run(5000)
    assert 2 * 9 <= made.sent["Beat", True] <= 2 * 11, "one probe a lease from each of the two"


def test_a_leader_in_whose_name_somebody_proposed_notices_and_stands_again() -> None:
    """By the thief of its identity: its voters follow it in an epoch of which it knows nothing. They hear its beats,
    so they wait for it; its lease is covered by nobody; neither would ever do anything."""
    made = cluster(A, B, C)
    record = replace(made.record("a"), primary=A)
    for voter in (B, C):
        stamp = Stamp(0, 1001, 1)
        forged = ms.Propose("v", A, voter, stamp.epoch, Slot(stamp, record), stamp)
        made.nodes[voter.node].brain_message(forged, made.now_ns)
    made.run(20)
    assert made.primary() == ""
    took_ms = made.until(lambda: made.primary() != "")
    assert took_ms < 1500
    made.until(lambda: set(made.in_sync(made.primary())) == {"a", "b", "c"})
