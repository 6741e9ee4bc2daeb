"""Seeds that once found a bug, each with its story. A seed's history changes when the cores or the fault mix change, so
each story is also told by a test of the core itself, named here, which does not."""

from __future__ import annotations

import pytest

from tests.simulation.world import Violation, World


def run(seed: int) -> None:
    try:
        World(seed).run()
    except Violation as violation:
        pytest.fail("\n".join([*violation.story[-60:], str(violation)]), pytrace=False)


def test_write_at_the_gate_while_a_peer_joins() -> None:
    """A write waits for its region's mark at the primary. The peer that had confirmed it is killed and joins again:
    the comparison runs against a primary's store that does not hold the write yet, so the copy takes it back on the
    peer, and the confirmation of before is counted. The peer is in sync without an acknowledged write.
    Told by test_replication_takeover.py: a write that waits for its mark reaches a peer that joins meanwhile."""
    run(15)


def test_unclean_candidate_with_an_uncommitted_record() -> None:
    """{n3,n2} in sync. n3 stores "in sync {n3}" and loses power before anybody else has it. It comes back unclean,
    believes its own record, in which every member (itself) is unclean, wins with the vote of a third, and leads
    without what n2, clean and in sync, had kept of the unflushed writes.
    Told by test_brain_machine.py: test_s3_an_unclean_candidate_does_not_believe_a_set_that_only_it_has_stored."""
    run(73)


def test_clean_member_adopts_the_uncommitted_record_of_an_unclean_one() -> None:
    """As above, the other way: n2 stands, n3 refuses with its newer record, n2 stores it (A3) and so leaves the set
    and makes the record a majority's.
    Told by test_brain_machine.py: test_s3_a_clean_member_does_not_follow_an_unclean_voter_out_of_the_set."""
    run(67)


def test_only_an_unclean_replica_knows_who_was_admitted() -> None:
    """n3 admits n2 and loses power before anybody else has stored that record: n3 is unclean and may not lead, n2 is
    clean, holds everything and does not know that it may. The volume stood still for ever.
    Told by test_brain_machine.py: test_s3_an_unclean_candidate_hands_the_record_on."""
    run(291)


def test_flush_waits_for_a_candidate_whose_disk_hangs() -> None:
    """A returning peer confirms writes at once, its fdatasync takes seconds: from `settling` on every flush of the
    volume waited for it, and nothing gave up on it.
    Told by test_replication_write.py: test_a_member_whose_sync_hangs_leaves_the_set_though_it_confirms_writes."""
    run(41)


def test_peer_that_answers_late_after_the_link_ended() -> None:
    """A beat's answer that arrived after the end of our own link marked the peer as up without telling anybody; its
    real coming back was then no news, and the replica stayed out for ever.
    Told by test_driver.py: test_a_late_answer_after_the_links_end_is_no_news."""
    run(27)
