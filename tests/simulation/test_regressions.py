"""Seeds that once found a bug. A seed's history changes when the cores or the fault mix change, so each story is told
by a test of the core itself, named here, which does not."""

from __future__ import annotations

import pytest

from tests.simulation.world import Violation, World


def run(seed: int) -> None:
    try:
        World(seed).run()
    except Violation as violation:
        pytest.fail("\n".join([*violation.story(), str(violation)]), pytrace=False)


def test_region_unmarked_above_the_commit_point() -> None:
    """T3. A replica is killed with a write in hand, comes back in the same epoch and is brought up to date; its quiet
    sync unmarks the region as if the write were old. It loses power, the primary dies, and nobody compares the write.
    Told by test_replication_gate.py: test_t3_what_was_marked_before_a_restart_waits_for_all_that_it_may_hold."""
    run(13)


def test_unclean_member_waits_for_one_that_an_old_record_names() -> None:
    """S3. The only in-sync member detaches and loses power before anybody else has stored that. A third holds a record
    of long ago that names a clean replica, and the volume waited for ever for that one to be unclean.
    Told by test_brain_machine.py: test_s3_a_record_that_was_certainly_replaced_names_nobody."""
    run(112)


def test_witness_that_was_away_when_the_tombstone_was_forgotten() -> None:
    """I3. A witness never stands, so nobody ever answered it that there is no such volume any more."""
    run(78)


def test_word_of_an_erased_voter_lost_with_its_link() -> None:
    """I3. The leader's own link stood, so nobody came back, nobody lagged, and nothing was removed.
    Told by test_brain_machine.py: test_i3_the_leader_of_a_tombstone_asks_again_whether_the_data_are_gone."""
    run(348)


def test_two_that_missed_the_last_word_of_a_deletion() -> None:
    """I3. Each knew that three of five had forgotten the volume, neither that the other had nothing left to erase.
    Told by test_brain_machine.py: test_i3_two_that_missed_the_last_word_of_a_deletion_tell_each_other_that_..."""
    run(538)


def test_member_that_had_not_stored_the_record_that_admits_it() -> None:
    """A3. The leader and the witness commit that a copy is in sync again, and the leader dies. The copy may not stand
    by the record that it has, and the witness, which has the newer one, never does.
    Told by test_brain_repair.py: test_a3_a_member_that_asks_is_handed_the_newer_record_and_stands."""
    run(500191)


def test_leader_that_the_frontend_can_not_reach() -> None:
    """Invariant 8. The link between the application's node and the primary is cut one way, and no other: all voters are
    content, the frontend is told by each whom to ask, and nobody serves it.
    Told by test_brain_handover.py: test_a_leader_that_the_frontend_has_no_link_with_hands_over_to_whom_it_asks."""
    run(9025)


def test_power_lost_in_the_middle_of_orders_after_a_store_was_lost() -> None:
    """The operator's case, which the simulator made all the same: the witness that stored "in sync {n2}" lost its
    store, and a fuse let n2 lose power. Whether that set was ever committed nobody there can know."""
    run(2200027)


def test_unclean_leader_beside_the_clean_member_that_it_admitted() -> None:
    """S3. A primary that is alone in sync admits a copy, loses power before anybody else has stored that, hands the
    record on to that copy and wins by the votes of those who hold the record before.
    Told by test_brain_machine.py: test_s3_an_unclean_candidate_does_not_lead_beside_the_clean_member_that_it_admits."""
    run(2400024)


def test_member_whose_directory_was_lost_while_only_the_bus_heard_it() -> None:
    """The link is cut, the node answers over the bus. It is killed, loses its directory and is back before the bus is
    silent: its leader, which knew that it has the record, never asked again, and there was no other node for a copy.
    Told by test_brain_repair.py: test_who_was_heard_over_the_bus_all_the_time_is_asked_again_when_its_link_is_up."""
    run(3000058)


def test_word_of_a_deletion_that_was_lost() -> None:
    """The simulator's own: all directories were gone, the answer as well, and the run ended with no volume at all."""
    run(3100033)
    run(3100067)


def test_unclean_candidate_and_the_unclean_member_that_its_record_removed() -> None:
    """S3. All lost power. One leads again, stores a record without another and is killed before anybody has it: each of
    the two waited for the other's word.
    Told by test_brain_machine.py: test_s3_an_unclean_candidate_asks_whom_its_own_record_removed."""
    run(3100305)


def test_volume_that_is_made_again_while_some_nodes_are_left_behind() -> None:
    """The simulator's own: it was to be used on one of those nodes, and nobody moved its application away."""
    run(5000053)


def test_read_of_a_rotten_block_that_an_operator_restores_meanwhile() -> None:
    """The simulator's own: nobody had the block, the read was about to fail, and by then there was nothing rotten."""
    run(5000205)


def test_voter_that_slept_through_changes_while_all_whom_it_knows_are_away() -> None:
    """The simulator's own: the other voter that is there joined meanwhile, and a stranger gets no vote."""
    run(5000101)


def test_witness_that_lost_its_store_and_is_about_to_be_replaced() -> None:
    """The simulator's own: it took the volume for healthy, and a second later saw the new witness half made."""
    run(3953253512)


def test_copy_that_was_asked_of_a_node_which_can_not_read_its_directory() -> None:
    """The simulator's own: such a node makes no member of that volume (I1), and it made one all the same, on the only
    node that was left, a second after the run had found that there was none.
    Told by test_replica_homes.py: test_i1_no_member_is_made_beside_a_directory_that_can_not_be_read."""
    run(189)


def test_power_lost_after_two_writes_of_frontends_that_had_died() -> None:
    """The simulator's own: nobody had been told of either, a read showed the second, nothing was flushed, and all lost
    power: the first was there again, and it thought that only the content before both could be."""
    run(8200146)


def test_link_of_a_machine_that_lost_power_before_its_first_answer() -> None:
    """It was never up, so it never fell silent: votes and records for the machine's new process went into the dead
    link, not over the bus, until the kernel gave it up. A witness that was well counted as lost.
    Told by test_driver.py: test_a_link_on_which_nobody_ever_answers_is_ended_like_one_that_fell_silent."""
    run(8300203)


def test_last_member_of_a_deleted_volume_that_hears_that_the_others_have_erased() -> None:
    """The simulator's own: it learns of the tombstone when both others have given their data back, and removes its
    directory with its own data in one go. Nobody was left to be protected by its tombstone."""
    run(8300296)


def test_primary_with_a_disk_that_hangs_whom_nobody_asks_to_write() -> None:
    """The simulator's own: too few copies are in sync, writes fail by the policy, and reads were answered all the time
    by a primary whose disk would only have been missed by a write."""
    run(8200370)


def test_witness_that_dies_while_a_copy_that_is_behind_is_being_replaced() -> None:
    """A2. The leader had proposed to go on without the copy that is behind, which needs the witness; the copy was back,
    and the two of them, a majority of the committed record, could agree on nothing.
    Told by test_brain_repair.py: test_a_change_whose_voters_are_gone_is_taken_back_and_those_who_are_there_agree."""
    run(8700147)


def test_witness_whose_node_is_back_after_the_grace_without_it() -> None:
    """Its grace had ended, it seemed to be back, and then its node said that there is no such member: the end of the
    grace was in the past, where the leader did not look, and it asked nobody for another one.
    Told by test_brain_repair.py: test_who_is_back_after_its_grace_and_has_no_such_member_is_replaced_at_once."""
    run(8900214)


def test_tombstone_whose_leader_shrank_the_in_sync_set_and_is_gone() -> None:
    """I3. It let go of a copy though the volume was deleted, forgot it, and its last word was lost: three of five held
    the tombstone, and none of them was in sync.
    Told by test_brain_machine.py: test_i3_whoever_was_in_sync_at_the_deletion_may_lead_it_to_its_end."""
    run(9100052)


def test_unclean_voter_that_took_an_uncommitted_smaller_set_from_an_unclean_one() -> None:
    """S3. The leader stores that a copy has left, alone, and loses power with the third; the third takes that record
    from its refusal, a majority holds it, and the two lead beside the copy that is clean.
    Told by test_brain_machine.py: test_s3_an_unclean_voter_takes_no_smaller_set_from_an_unclean_one."""
    run(7005310)


def test_power_lost_after_a_failed_write_was_undone() -> None:
    """The simulator's own: too few copies, so a write failed that one of them had; the next primary undid it there, a
    read showed the content before, nothing was flushed, and all lost power: that copy had the write again."""
    run(90027)


def test_deposed_leader_asked_for_a_snapshot_that_its_successor_had_dropped() -> None:
    """It had slept, and its record still had a snapshot of that name: it answered at once that it was ready. What is so
    already is said when the record is committed once more. Told by test_brain_snapshots.py:
    test_the_same_name_again_is_the_same_snapshot."""
    run(7200019)


def test_failure_whose_turn_came_after_the_member_had_caught_up_again() -> None:
    """S4. A silent member is back and caught up while its failure still waits behind attaches, each of which is
    committed once more. It was let go then, admitted half a second later by the word of long ago, and the flush in
    between had been answered without it. Told by test_replication_takeover.py:
    test_s4_who_is_let_go_after_it_caught_up_again_is_waited_for_until_it_is_admitted."""
    run(5000393)


def test_member_that_caught_up_and_whose_failure_had_to_wait_once_more() -> None:
    """Invariant 8. Its failure waited behind other changes, came to its turn when it could have been the leader
    that was cut off, and waited apart; the word that it had caught up came next and changed nothing. Let go at last, it
    followed and was never admitted. Told by test_brain_machine.py:
    test_a_member_that_caught_up_before_the_turn_of_its_failure_stays."""
    run(7405299)


def test_member_that_was_excluded_one_version_before_the_tombstone() -> None:
    """The simulator's own: a copy that had joined is taken out again, the volume is deleted, and then it hears of the
    first. It goes by the record that excludes it (I3), and was judged as if it had forgotten a tombstone, which names
    others and waits for their word alone."""
    run(7400353)


def test_clean_member_that_took_its_own_removal_from_the_refusal_of_a_leader_that_was_killed() -> None:
    """S3. The leader stores that the other copy has left, alone, and is killed; the other takes that from its refusal,
    and both lose power. Two of three held the record by then, and the leader, unclean, won beside the clean one.
    Told by test_brain_machine.py: test_s3_who_is_clean_takes_no_smaller_set_without_itself_from_a_refusal."""
    run(9100193)


def test_frontend_on_a_node_that_became_a_copy_while_it_used_the_volume() -> None:
    """The simulator's own: all copies but one were lost, an operator decided, and the frontend's node got a new
    copy, and led. The frontend learned of that copy and was not told that it has a link to it, as it is in a node."""
    run(20100004)


def test_copies_given_up_by_the_policy_while_the_last_had_rotten() -> None:
    """The simulator's own: one copy was asked for instead of five, and blocks of the one that stayed had rotten. Nobody
    else is left to heal them from."""
    run(20100051)


def test_volume_that_goes_on_alone_is_not_given_up() -> None:
    """The simulator's own: every copy was asked for by the failure mode, and after an override there is one until
    homes are found: that was taken for a volume whose stores are lost for good, and its work was left undone."""
    run(20100726)


def test_late_answer_about_a_snapshot_that_is_wanted_again() -> None:
    """The simulator's own: a leader whose disk hung told three seconds later that the snapshot is ready. It was, had
    been dropped since, and was wanted again."""
    run(20100813)


def test_paused_process_that_believed_that_it_serves() -> None:
    """The simulator's own: it was left behind paused, with a disk that hung before."""
    run(30000207)


def test_leader_that_nobody_follows_and_that_refuses_to_be_helped() -> None:
    """The other voters' nodes are up and have lost their directories: no link ended, it did not resign, and it told the
    operator that it leads. What counts is whether it has a lease. Told by test_brain_override.py:
    test_a_leader_that_nobody_follows_goes_on_alone, and by test_driver_unpromised.py."""
    run(40000036)


def test_copy_that_was_equal_to_a_write_which_was_never_confirmed() -> None:
    """T2. A block was zeroed on the primary alone. A copy that is made meanwhile is empty, so equal, and is admitted;
    the primary dies, and who leads next has the content before: no tail named that block, the two in sync differed
    there, and a snapshot found it. Told by test_replication_takeover.py:
    test_t2_what_a_copy_holds_by_comparison_alone_of_unconfirmed_writes_is_copied_all_the_same."""
    run(77000010)


def test_policy_that_came_into_force_after_everything_healed() -> None:
    """The simulator's own: its operator looked once whether writes wait for a copy that is lost for good. A policy that
    somebody had asked for before came into force after that, and the run ended with its work left."""
    run(61000679)


def test_leader_that_lost_power_before_its_claim_arrived_and_was_back_before_it_was_missed() -> None:
    """Invariant 8. Heard over the bus alone, it proposed; its new process had no claim to take back, and nobody told of
    its end: the only clean copy in sync followed it for ever, and the others, unclean, had to leave it to that one.
    Told by test_brain_following.py:
    test_a_leader_whose_process_ends_before_its_claim_arrived_is_not_followed_for_ever."""
    run(41006946)


def test_three_records_of_which_one_was_on_two_before_its_leader_went_on_alone() -> None:
    """S3. The only copy in sync led with the vote of a second, led once more, stored that alone and lost power with the
    second. The third had slept: clean, and in sync by what it held, it took no record of an unclean voter that names it
    no more, and the first waited for it to be unclean. Told by test_brain_unclean.py:
    test_s3_a_clean_voter_follows_itself_out_by_a_record_that_its_leader_must_have_stored_as_well."""
    run(41002537)


def test_voter_alone_that_fences_a_dead_node_for_one_that_is_alive() -> None:
    """The simulator's own: a record of one voter is committed the moment it is durable, just before the decision is
    told. The node that had the volume was dead; the one that got it had been heard all the time, and was judged."""
    run(41008215)


def test_promise_forgotten_by_late_claims_of_the_process_before() -> None:
    """P1. A node was started anew and counted on another's promise, claims of its process before came late over the
    bus, and the other forgot the promise: the next volume that it won had a lease to which nobody was bound.
    Told by test_brain_promises.py: test_p1_late_claims_of_the_process_before_take_back_no_promise_to_the_new_one."""
    run(41005287)


def test_volume_that_is_moved_back_while_it_was_still_asked_to_let_go() -> None:
    """The simulator's own: an attach that it had asked for before it changed its mind twice was answered, and it used
    the volume there, though it had also asked that everybody lets go, which came to its turn then."""
    run(41005949)


def test_candidate_that_took_no_record_from_whom_it_does_not_ask() -> None:
    """A3. The leader let go of the clean copy in a record of its own, and lost power with the one that it had just made
    a voter. That one handed on the record before, by which the clean copy leads; but it was asking for votes, of the
    leader alone, and listened to no other. Told by test_brain_unclean.py:
    test_a3_a_candidate_takes_the_record_that_it_is_handed_by_whom_it_does_not_ask."""
    run(98)


def test_policy_wanted_of_a_volume_whose_deletion_is_agreed_on() -> None:
    """The simulator's own: it asked for that again and again, was told that the volume is being deleted, and so never
    asked for the deletion again, the answer to which had been lost."""
    run(841000377)


def test_read_that_waited_for_a_healed_block_beside_one_that_is_lost() -> None:
    """K3. Two rotten blocks were found together, and a read of one of them waited for both: it was healed, the other
    was rotten on all copies, and the read failed with it. Told by test_replication_healing.py:
    test_a_read_goes_on_when_its_own_blocks_are_healed_whatever_else_was_found_with_them."""
    run(900007999)


def test_operator_told_to_wait_for_two_of_whom_neither_may_lead() -> None:
    """I4, S3. The witness was lost for good; one copy had lost power and held a record that let go of the other, the
    other was clean and named by the record before. Neither could lead, and the override was refused.
    Told by test_brain_override.py: test_two_of_whom_neither_may_lead_elect_nobody."""
    run(920000479)


def test_read_that_waited_longer_than_its_block_stayed_rotten() -> None:
    """The simulator's own: of the last copy, which nobody could heal, its operator restored a block while the read of
    it still waited for a copy that had left."""
    run(920001407)


def test_deleted_volume_whose_last_member_was_never_named() -> None:
    """A leader had a member made, and died before its record named it. The volume was deleted, everybody forgot it, and
    whoever asked whether it is gone waited for that member. Told by test_volumes_deletion.py."""
    run(920002840)


def test_primary_that_slept_while_its_successor_grew_the_volume() -> None:
    """P4. It woke up with the old size, and told who wrote to the new end that there is no such place: an answer that
    needs the lease as that of a read does."""
    run(950006049)


def test_copy_on_a_disk_that_hangs_and_that_is_sent_all_that_may_be_under_way() -> None:
    """Recovery. Its node and its link lived, so what had been sent to it was never confirmed and never given up; the
    other copy that came back waited behind it, and with it all writes. Told by test_recovery_budget.py:
    test_who_confirms_nothing_any_more_keeps_nobody_waiting."""
    run(950009228)


def test_five_voters_of_whom_nobody_can_tell_who_has_what_was_acknowledged() -> None:
    """S3. Two of five had stored the newest record, the first of its reign, and all whom it names had lost power; one
    whom an older record names had not. Nobody leads, rightly: an operator decides."""
    run(970002692)


def test_volume_that_nobody_may_lead_and_whose_application_got_no_further() -> None:
    """The same of three voters, early in the run."""
    run(981000060)


@pytest.mark.parametrize("seed", [1030422900, 1100007168])
def test_member_left_out_by_a_record_that_only_it_and_its_leader_had_stored(seed: int) -> None:
    """Invariant 8. Five voters; the leader went on without a member, which stored that and few others did, and then all
    whom the record names lost power. They waited for that member, clean and in sync by what is committed, and by its
    own record it did not stand. Told by test_brain_regaining.py."""
    run(seed)


def test_voter_that_lost_power_in_the_middle_of_a_create_that_did_not_go_on() -> None:
    """The simulator's own: it stopped to found the volume when a majority had agreed. A volume is ready, and used, when
    every voter has stored the first record: the third was back without one, and could not vote when another was away.
    Told by test_volumes_life.py: test_a_volume_that_elected_without_its_last_voter_is_finished."""
    run(1100004681)


def test_operator_who_named_nobody_that_lives_and_was_refused_for_ever() -> None:
    """The simulator's own: a voter had slept through the changes that made the copy which goes on a member, and all
    whom it knows were lost. It hears no stranger, so it was silent, and it lives, so it was never named. An operator
    who reads that fences its node first."""
    run(324018452)


def test_volume_that_is_deleted_at_once_after_its_override() -> None:
    """The simulator's own: the operator looked a moment later, found no volume, and left fenced what was fenced."""
    run(750003802)


def test_two_that_were_started_again_after_they_had_given_their_data_back() -> None:
    """I3. The leader of the tombstone heard of both and forgot the volume; its last word was lost, and neither of the
    two knew any more that its data were gone, so neither told the other, and nobody else may lead.
    Told by test_brain_machine.py: test_i3_that_the_data_are_gone_is_remembered_by_the_next_process."""
    run(1100004275)


def test_layer_that_a_record_counts_on_which_a_copy_had_not_heard_to_be_committed() -> None:
    """K4. A copy stored the record that lists a snapshot, and the next one, by which it is dropped, before any word
    that the first is committed. By the one before and the latest nobody needed the layer; by the one in force somebody
    may.
    Told by test_driver_snapshots.py: test_what_the_latest_record_that_is_stored_does_without_stays_until_..., and by
    test_brain_machine.py: test_a_follower_learns_of_the_record_that_is_replaced_that_it_was_committed."""
    run(1100004541)


def test_primary_on_a_disk_that_hangs_and_that_is_asked_for_nothing_for_long() -> None:
    """Invariant 8. Ten of the twenty seconds passed before anybody asked it for a sync, eight until that was late, and
    the last one was not enough to elect another primary and to let the hanging copy go. The bound was wrong."""
    run(1400000136)


def test_copy_that_is_lost_for_good_and_no_place_for_another_one() -> None:
    """On the only nodes left lay older members, to whom one member was no stranger: the one whose directory is lost, so
    nobody could tell them that they are none any more (I3). The judge took their nodes for places."""
    run(1400009299)


def test_deletion_whose_word_was_lost_beside_a_member_that_was_excluded_long_ago() -> None:
    """Invariant 8. All voters had forgotten the volume; one that had been away since it was excluded had not, and knows
    nobody any more. Whoever asked again whether it is gone waited for that one, for ever.
    Told by test_volumes_deletion.py."""
    run(1400009725)


def test_leader_of_a_deletion_that_waits_for_a_member_that_forgot_the_volume_on_the_others_word() -> None:
    """Invariant 8. It had heard from the others, and not from its leader, that their data are gone. The leader repeated
    that the tombstone is committed, to a node without the volume, and no node answered that.
    Told by test_driver.py: test_who_is_told_of_a_committed_record_and_has_no_such_volume_says_so."""
    run(1500006598)


def test_last_word_of_a_deletion_that_comes_twice_while_the_hard_state_is_stored() -> None:
    """The directory was removed a second time.
    Told by test_brain_machine.py: test_i3_the_leader_of_a_tombstone_asks_again_whether_the_data_are_gone."""
    run(1500007601)


def test_write_that_rotted_on_the_only_copy_that_had_it() -> None:
    """Invariant 8. Two members in sync held what was there before; a beat that was late when everything healed made
    them leave the set, and then nobody had the block. The judge had let its operator look once."""
    run(1600004284)


def test_member_that_is_made_where_an_earlier_ones_disk_calls_are_under_way() -> None:
    """The simulated disk answered the new member for the old one: marks that it had never made. A directory is removed
    when all calls are done, and a member is only made where none is (test_replica_homes.py)."""
    run(1600007021)


def test_volume_that_grows_while_its_copies_are_compared() -> None:
    """The scrub came to a region beyond the end that the comparison under way had begun with. In a real node that ends
    the primary's copy.
    Told by test_replication_healing.py: test_a_volume_may_grow_while_its_members_are_compared."""
    run(1800000454)


def test_member_that_lost_power_and_is_admitted_before_the_take_over_is_done() -> None:
    """T2. It held what the next primary's tail names, lost its own tail, and was admitted while a third member that
    lacks the write was still waited for. It led next, knew of nothing to compare, and the two differed.
    Told by test_replication_takeover.py: test_t2_who_left_and_catches_up_during_a_take_over_is_told_of_our_tail..."""
    run(1900002267)


def test_read_that_waits_for_a_rotten_block_while_that_is_written() -> None:
    """Invariant 7. The read waited for a silent peer; others read what was written meanwhile, and it failed.
    Told by test_replication_healing.py: test_a_write_heals_what_it_covers_and_a_read_that_waited_reads_that."""
    run(1900000471)


def test_disk_call_that_began_before_everything_healed() -> None:
    """The judge's: a sync that had begun on a slow disk took a second longer than that, and its copy left the set when
    all was well already. It waits for such calls before it judges."""
    run(2100006870)


def test_rotten_block_of_a_member_that_is_compared_all_the_time() -> None:
    """Invariant 8. It was only sent between two comparisons, and there was no such moment.
    Told by test_replication_healing.py: test_rot_that_is_reported_in_the_middle_of_a_comparison_does_not_wait_..."""
    run(2200003463)


def test_candidate_that_was_told_of_a_change_of_the_members_by_its_leader_alone() -> None:
    """The judge's: it stands with the members that this record names, for the leader may have committed it, and these
    were left behind. The judge had looked at what it had stored."""
    run(2200004316)


def test_flush_of_a_follower_that_follows_somebody_else_by_now() -> None:
    """T3. Its sync, of the data alone, ended while the one that unmarks was under way, and was taken for that: regions
    were unmarked with their checksums in the page cache.
    Told by test_replication_replica.py: test_t3_only_the_sync_that_was_asked_for_with_the_checksums_unmarks."""
    run(809172197)
