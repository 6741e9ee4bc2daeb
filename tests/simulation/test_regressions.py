"""Seeds that once found a bug. A seed's history changes when the cores or the fault mix change, so each story is told by
a test of the core itself, named here, which does not."""

from __future__ import annotations

import pytest

from tests.simulation.world import Violation, World

KEPT = {
    13: "T3: a replica that was killed with a write in hand and brought up to date unmarked the region above the commit "
    "point; after a power loss of it and the primary's death nobody compared the write. test_replication_gate.py: "
    "test_t3_what_was_marked_before_a_restart_waits_for_all_that_it_may_hold",
    112: "S3: the only in-sync member, unclean, waited for a clean one that a long replaced record names. "
    "test_brain_machine.py: test_s3_a_record_that_was_certainly_replaced_names_nobody",
    78: "I3: a witness that was away when the tombstone was forgotten kept its directory for ever. Enquire is answered "
    "with Unknown by a node without the volume (driver/node.py)",
    348: "I3: the word that the data are gone was lost with a link, and nobody asked again. test_brain_machine.py: "
    "test_i3_the_leader_of_a_tombstone_asks_again_whether_the_data_are_gone",
    538: "I3: two of five missed the last word of a deletion and waited for each other. test_brain_machine.py: "
    "test_i3_two_that_missed_the_last_word_of_a_deletion_tell_each_other_that_nothing_is_left",
}
"""Seed -> its story. Those of before the fault mix was drawn as a plan are told by the tests of the cores alone:
test_replication_takeover.py (a write that waits for its mark reaches a peer that joins meanwhile), test_brain_machine.py
(test_s3_...), test_replication_write.py (a member whose sync hangs), test_driver.py (a late answer is no news)."""


@pytest.mark.parametrize("seed", KEPT)
def test_kept_seed(seed: int) -> None:
    try:
        World(seed).run()
    except Violation as violation:
        pytest.fail("\n".join([KEPT[seed], *violation.story(), str(violation)]), pytrace=False)
