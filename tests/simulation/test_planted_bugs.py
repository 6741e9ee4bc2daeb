"""The checks and the fault mix are strong enough: a rule taken out of the cores is missed within so many seeds."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.simulation import campaign
from tests.simulation.planted import PLANTED
from tests.simulation.world import Violation, World

FOUND = {
    "counted_from_receipt": (1, 3),
    "vote_before_durable": (1, 2),
    "latest_set_only": (3, 10),
    "latest_proposal_only": (3, 10),
    "copy_replaces_write": (10, 25),
    "old_epoch_stored": (10, 25),
    "share_not_compared": (1, 5),
    "own_share_not_compared": (10, 25),
    "reads_without_lease": (1, 2),
    "vote_after_restart": (5, 15),
    "promises_forgotten": (1, 2),
    "admitted_unsynced": (6, 20),
    "unmarked_early": (1, 5),
    "gate_not_resent": (10, 25),
    "record_not_compared": (18, 40),
    "two_changes_at_once": (7, 20),
    "one_vote_is_enough": (9, 25),
    "own_copy_commits": (1, 2),
    "never_resigns": (7, 20),
    "drift_forgotten": (1, 5),
    "last_member_leaves": (1, 3),
    "opened_unsettled": (5, 15),
    "map_starts_at_sent": (6, 20),
    "not_told_while_syncing": (1, 3),
    "store_comes_back_empty": (9, 25),
    "tombstone_not_kept": (3, 15),
}
"""Planted bug -> (the first seed to try, how many seeds at most). The search begins where the bug was found when it was
planted; the number says how rare it may become as the cores and the fault mix change."""


def violates(seed: int) -> bool:
    try:
        World(seed).run()
    except Violation as violation:
        if isinstance(violation.__cause__, TypeError | AttributeError | NameError):
            raise  # the patch no longer fits the code, which finds nothing
        return True
    return False


def found(plant: str, seeds: range) -> bool:
    """Each process inherits the bug."""
    with PLANTED[plant](), multiprocessing.get_context("fork").Pool(campaign.jobs_default()) as pool:
        return any(pool.imap_unordered(violates, seeds))


@pytest.mark.parametrize("plant", FOUND)
def test_found(plant: str) -> None:
    first, count = FOUND[plant]
    assert found(plant, range(first, first + count))
