"""Many volumes lose their primary at once, and the nodes that are left have more to do than they can do at once."""

from __future__ import annotations

from collections import Counter

from stoscore.units import MS
from tests.support.busy_cluster import BusyCluster
from tests.support.voters import A, B, C

VOLUMES = 60


def herd(volumes: int) -> tuple[BusyCluster, Counter[str]]:
    """Its primaries' node dies while each message takes the others a millisecond, and each hard state eight: more than
    a second of work a node for every round of votes. Gives the elections of each volume since."""
    names = [f"{number:032x}" for number in range(volumes)]
    cluster = BusyCluster((A, B, C), volumes=names)
    cluster.found()
    cluster.until(lambda: all(cluster.primary(name) == "a" for name in names))
    before = cluster.nodes["b"].volumes[names[0]].brain.epoch
    cluster.load(event_ns=MS, save_ns=8 * MS)
    cluster.kill("a")
    left = [cluster.nodes[name] for name in ("b", "c")]
    cluster.until(
        lambda: all(cluster.primary(name) and "a" not in cluster.in_sync("b", name) for name in names), 20_000
    )
    return cluster, Counter({name: max(node.volumes[name].brain.epoch for node in left) - before for name in names})


def test_an_answer_that_is_late_is_no_vote_lost() -> None:
    """Each candidate stood again in the next epoch after 150 ms without an answer, which gave everybody twice the work
    and made what was answered worthless: no volume was ever led again."""
    _, elections = herd(VOLUMES)
    assert elections.total() <= 1.5 * VOLUMES, elections
