"""One moment on every copy: prepared beside the writes, sealed when none is under way, and nobody holds it up (K4)."""

from __future__ import annotations

import pytest

from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Copied,
    Copy,
    Failed,
    Flush,
    Io,
    Join,
    Prepare,
    Prepared,
    Request,
    RequestMany,
    Rooted,
    Seal,
    Sealed,
    Write,
    first_seq,
)
from services.replica.replication.patience import PATIENCE_NS
from services.replica.replication.primary import Primary
from services.replica.replication.replica import Replica, Share
from services.replica.replication.sealing import BESIDE_PATIENCE_NS, Stage
from tests.support.replicas import BASE, EPOCH, LINK, join, make_primary, of, serving, write

SIZE = 2048
ROOT = 77


def prepared(primary: Primary, *nodes: str, number: int = 1) -> list[fx.Effect]:
    out = primary.seal_prepared(number, "", 0)
    for node in nodes:
        out += primary.receive(node, Prepared(number, True), 0)
    return out


def sealed(primary: Primary, seq: int, *nodes: str) -> list[fx.Effect]:
    out = primary.sealed(seq, 0)
    for node in nodes:
        out += primary.receive(node, Sealed(seq), 0)
    return out


def rooted(primary: Primary, seq: int, **roots: int | None) -> list[fx.Effect]:
    out = primary.hashed(seq, ROOT, 0)
    for node, root in roots.items():
        out += primary.receive(node, Rooted(seq, root), 0)
    return out


def told(effects: list[fx.Effect], kind: type) -> list[tuple[str, ...]]:
    return [effect.peers for effect in effects if isinstance(effect, fx.Tell) and isinstance(effect.message, kind)]


def sealing(**named) -> Primary:  # type: ignore[no-untyped-def]
    """Everybody has been told to seal; nobody has."""
    primary = serving(**named)
    primary.seal("s", 5, primary.peers, 0)
    prepared(primary, *primary.peers)
    assert primary.sealing_stage is Stage.SEALING
    return primary


def test_every_copy_prepares_seals_and_says_its_root_hash() -> None:
    primary = serving()
    assert primary.seal("s", 5, ["b", "c"], 0) == [fx.Tell(("b", "c"), Prepare(1)), fx.PrepareSeal(1)]
    out = prepared(primary, "b", "c")
    assert out == [fx.Tell(("b", "c"), Seal(BASE + 1, BASE, SIZE, "s")), fx.SealStore(BASE + 1, SIZE, "s")]
    out = sealed(primary, BASE + 1, "b", "c")
    assert fx.HashSeal(BASE + 1, SIZE, "s") in out
    assert of(fx.WritesHeld, out)
    out = rooted(primary, BASE + 1, b=ROOT, c=ROOT)
    assert out == [fx.ReportSealed("s", 5, BASE + 1, SIZE, ROOT, ("a", "b", "c"))]
    assert primary.sealing_stage is Stage.IDLE


def test_writes_go_on_while_copies_prepare() -> None:
    primary = serving()
    primary.seal("s", 5, ["b", "c"], 0)
    assert of(fx.StoreWrite, write(primary, 1))


def test_the_seal_waits_for_the_window_and_new_writes_wait_for_the_seal() -> None:
    primary = serving()
    write(primary, 1)
    primary.seal("s", 5, ["b", "c"], 0)
    assert prepared(primary, "b", "c") == []
    assert primary.sealing_stage is Stage.HOLDING
    assert write(primary, 2, block=8) == [], "held"
    primary.receive("b", Ack((BASE + 1,)), 0)
    out = primary.receive("c", Ack((BASE + 1,)), 0)
    assert told(out, Seal) == [("b", "c")]
    (seal,) = of(fx.SealStore, out)
    assert isinstance(seal, fx.SealStore) and seal.seq == BASE + 2, "a step of the order of writes"
    assert sealed(primary, BASE + 2, "b") != []
    assert primary.unanswered == 1
    out = primary.receive("c", Sealed(BASE + 2), 0)
    (stored,) = of(fx.StoreWrite, out)
    assert isinstance(stored, fx.StoreWrite) and stored.seq == BASE + 3


def test_small_writes_that_came_together_are_held_together() -> None:
    primary = sealing()
    many = RequestMany(1, Io.WRITE, ((7, 0, 1), (8, 4, 2)), 9)
    assert primary.request_many(LINK, many, 0) == []
    assert primary.unanswered == 2
    out = sealed(primary, BASE + 1, "b", "c")
    (stored,) = of(fx.StoreWriteMany, out)
    assert isinstance(stored, fx.StoreWriteMany) and stored.ranges == ((0, 1), (4, 2))


def test_reads_and_flushes_are_not_held() -> None:
    primary = sealing()
    assert of(fx.AnswerRead, primary.request(LINK, Request(1, 4, Io.READ, 0, 1), 0))
    assert of(fx.SyncStore, primary.request(LINK, Request(1, 5, Io.FLUSH, 0, 0), 0))
    assert primary.request(LINK, Request(1, 6, Io.ZERO, 0, 1), 0) == [], "a trim is a write"


def test_a_copy_that_is_lost_holds_nobody_up() -> None:
    primary = sealing()
    write(primary, 1)
    sealed(primary, BASE + 1, "b")
    out = primary.peer_down("c", "its link ended")
    assert of(fx.StoreWrite, out), "what was held goes on at once"
    assert rooted(primary, BASE + 1, b=ROOT) == [fx.ReportSealed("s", 5, BASE + 1, SIZE, ROOT, ("a", "b"))]


@pytest.mark.parametrize("stage", ["preparing", "holding", "sealing", "hashing"])
def test_a_copy_may_be_lost_at_any_stage(stage: str) -> None:
    primary = serving()
    if stage == "holding":
        write(primary, 1)
    primary.seal("s", 5, ["b", "c"], 0)
    if stage != "preparing":
        prepared(primary, "b", "c")
    if stage == "hashing":
        sealed(primary, BASE + 1, "b", "c")
    out = primary.peer_down("c", "its link ended")
    if stage == "preparing":
        out += prepared(primary, "b")
    if stage == "holding":
        primary.receive("b", Ack((BASE + 1,)), 0)
        out += primary.require(["a", "b"])
    if stage != "hashing":
        (seal,) = of(fx.SealStore, out) if stage != "sealing" else [fx.SealStore(BASE + 1, SIZE, "s")]
        assert isinstance(seal, fx.SealStore)
        sealed(primary, seal.seq, "b")
        assert of(fx.ReportSealed, rooted(primary, seal.seq, b=ROOT))
    else:
        assert of(fx.ReportSealed, rooted(primary, BASE + 1, b=ROOT))


def test_a_silent_copy_is_waited_for_as_long_as_for_a_write() -> None:
    primary = sealing()
    primary.sealed(BASE + 1, 0)
    primary.receive("b", Sealed(BASE + 1), 0)
    due = primary.next_deadline_ns()
    assert due is not None and due <= PATIENCE_NS
    out = primary.time_passed(PATIENCE_NS)
    assert fx.ReportFailed("c", "it gives no answer") in out
    assert primary.sealing_stage is Stage.HASHING


def test_one_that_prepares_for_ever_is_no_holder_and_stays_in_sync() -> None:
    primary = serving()
    primary.seal("s", 5, ["b", "c"], 0)
    prepared(primary, "b")
    out = primary.time_passed(BESIDE_PATIENCE_NS)
    assert told(out, Seal) == [("b",)]
    assert not of(fx.ReportFailed, out)


def test_one_that_can_not_prepare_is_no_holder_and_stays_in_sync() -> None:
    primary = serving()
    primary.seal("s", 5, ["b", "c"], 0)
    prepared(primary, "b")
    out = primary.receive("c", Prepared(1, False), 0)
    assert told(out, Seal) == [("b",)]


def test_a_primary_that_can_not_prepare_takes_no_snapshot() -> None:
    primary = serving()
    primary.seal("s", 5, ["b", "c"], 0)
    assert primary.seal_prepared(1, "no space", 0) == [fx.ReportNotSealed("s", 5, "no space")]
    assert of(fx.StoreWrite, write(primary, 1))


def test_another_root_hash_is_another_content_and_leaves_the_set() -> None:
    primary = sealing()
    sealed(primary, BASE + 1, "b", "c")
    out = rooted(primary, BASE + 1, b=ROOT, c=ROOT + 1)
    assert fx.ReportFailed("c", "the layer of snapshot s differs from a's") in out
    assert fx.ReportSealed("s", 5, BASE + 1, SIZE, ROOT, ("a", "b")) in out
    assert primary.peers["c"].missed_all, "nobody knows where it differs"


def test_two_copies_that_agree_against_the_primary_are_not_let_go_on_its_word() -> None:
    primary = sealing()
    write(primary, 1)
    out = sealed(primary, BASE + 1, "b", "c")
    assert of(fx.StoreWrite, out)
    out = rooted(primary, BASE + 1, b=ROOT + 1, c=ROOT + 1)
    assert out == [fx.ReportNotSealed("s", 5, "a's copy differs from those of b and c, which agree")]
    assert primary.sealing_stage is Stage.IDLE
    assert not primary.peers["c"].missed_all


def test_copies_that_agree_with_nobody_leave_the_set() -> None:
    primary = sealing()
    sealed(primary, BASE + 1, "b", "c")
    out = rooted(primary, BASE + 1, b=ROOT + 1, c=ROOT + 2)
    assert len(of(fx.ReportFailed, out)) == 2
    assert fx.ReportSealed("s", 5, BASE + 1, SIZE, ROOT, ("a",)) in out


@pytest.mark.parametrize("early", [False, True])
def test_a_copy_whose_checksums_are_not_proved_is_no_holder_and_stays_in_sync(early: bool) -> None:
    primary = sealing()
    primary.receive("c", Sealed(BASE + 1), 0)
    if early:
        assert primary.receive("c", Rooted(BASE + 1, None), 0) == []
    sealed(primary, BASE + 1, "b")
    out = rooted(primary, BASE + 1, b=ROOT) if early else rooted(primary, BASE + 1, b=ROOT, c=None)
    assert out == [fx.ReportSealed("s", 5, BASE + 1, SIZE, ROOT, ("a", "b"))]


def test_a_primary_whose_checksums_are_not_proved_judges_nobody() -> None:
    primary = sealing()
    sealed(primary, BASE + 1, "b", "c")
    primary.receive("b", Rooted(BASE + 1, ROOT), 0)
    out = primary.hashed(BASE + 1, None, 0)
    assert out == [fx.ReportNotSealed("s", 5, "a's copy is damaged: some of its checksums are not proved")]
    assert primary.receive("c", Rooted(BASE + 1, ROOT), 0) == []
    assert told(primary.seal("t", 6, ["b", "c"], 0), Prepare) == [("b", "c")]


def test_a_primary_that_can_not_prove_its_own_before_all_have_sealed_lets_writes_wait_for_them() -> None:
    primary = sealing()
    write(primary, 1)
    primary.sealed(BASE + 1, 0)
    assert of(fx.ReportNotSealed, primary.hashed(BASE + 1, None, 0))
    assert not of(fx.StoreWrite, primary.receive("b", Sealed(BASE + 1), 0))
    assert of(fx.StoreWrite, primary.receive("c", Sealed(BASE + 1), 0))


def test_only_who_is_asked_and_follows_in_sync_takes_part() -> None:
    primary = make_primary(("b", "c", "d"), in_sync=("a", "b", "c"))
    primary.start(["b", "c", "d"], 0)
    join(primary, "b")
    join(primary, "c")
    assert told(primary.seal("s", 5, ["b", "d"], 0), Prepare) == [("b",)]


def test_it_begins_with_the_service() -> None:
    primary = make_primary()
    primary.start(["b", "c"], 0)
    assert primary.seal("s", 5, ["b", "c"], 0) == []
    join(primary, "b")
    assert told(join(primary, "c"), Prepare) == [("b", "c")]


def test_one_that_is_not_wanted_any_more_lets_the_writes_go_on() -> None:
    primary = serving()
    write(primary, 1)
    primary.seal("s", 5, ["b", "c"], 0)
    prepared(primary, "b", "c")
    write(primary, 2, block=8)
    assert of(fx.StoreWrite, primary.snapshots([], [], 0))
    assert primary.sealing_stage is Stage.IDLE


@pytest.mark.parametrize("hashing", [False, True])
def test_one_that_is_dropped_while_the_disks_are_at_it_is_not_waited_for(hashing: bool) -> None:
    """Its layers go, so nobody will ever say their root hash; another snapshot would wait for it for a minute."""
    primary = sealing()
    write(primary, 1)
    out = sealed(primary, BASE + 1, "b", "c") if hashing else []
    out += primary.snapshots([], [], 0)
    assert bool(of(fx.StoreWrite, out)) == hashing, "and nothing is written before they are done"
    out += [] if hashing else sealed(primary, BASE + 1, "b", "c")
    assert of(fx.StoreWrite, out)
    assert not of(fx.ReportSealed, out + rooted(primary, BASE + 1, b=ROOT, c=ROOT))
    assert told(primary.seal("t", 6, ["b", "c"], 0), Prepare) == [("b", "c")]


def test_a_second_one_waits_for_the_first() -> None:
    primary = sealing()
    assert primary.seal("t", 6, ["b"], 0) == []
    sealed(primary, BASE + 1, "b", "c")
    out = rooted(primary, BASE + 1, b=ROOT, c=ROOT)
    assert told(out + primary.snapshots([("t", 6)], [], 0), Prepare) == [("b",)]


def test_nothing_is_held_while_the_volume_moves_and_it_goes_on_if_it_stays() -> None:
    primary = serving()
    write(primary, 1)
    primary.seal("s", 5, ["b", "c"], 0)
    prepared(primary, "b", "c")
    write(primary, 2, block=8)
    assert fx.Release(102) in primary.settle(), "its frontend sends it again"
    primary.receive("b", Ack((BASE + 1,)), 0)
    assert fx.ReportSettled() in primary.receive("c", Ack((BASE + 1,)), 0)
    assert told(primary.go_on(), Seal) == [("b", "c")]


def test_what_is_held_when_the_reign_ends_is_let_go() -> None:
    primary = sealing()
    write(primary, 1)
    assert fx.Release(101) in primary.stop()


def test_a_held_write_of_a_session_that_ended_is_not_stored() -> None:
    """W2: its frontend sends it again in the next one."""
    primary = sealing()
    write(primary, 1)
    primary.open(LINK, "n", 2, 1)
    out = sealed(primary, BASE + 1, "b", "c")
    assert not of(fx.StoreWrite, out) and fx.Release(101) in out


# ---- the follower ---------------------------------------------------------------------------------------


def follower(marked: tuple[int, ...] = (0, 1)) -> Replica:
    replica = Replica(marked)
    replica.join(LINK, Join(1), EPOCH, Share((), 0, 0, unclean=False))
    replica.receive(LINK, CommitPoint(BASE), EPOCH, 0)
    return replica


def test_a_follower_prepares_seals_and_hashes() -> None:
    replica = follower()
    assert replica.receive(LINK, Prepare(1), EPOCH, 0) == [fx.PrepareSeal(1)]
    assert replica.seal_prepared(1, ready=True) == [fx.Answer(LINK, Prepared(1, True))]
    assert replica.receive(LINK, Seal(BASE + 1, BASE, SIZE, "s"), EPOCH, 0) == [fx.SealStore(BASE + 1, SIZE, "s")]
    assert replica.sealed(BASE + 1) == [fx.Answer(LINK, Sealed(BASE + 1)), fx.HashSeal(BASE + 1, SIZE, "s")]
    assert replica.hashed(BASE + 1, ROOT) == [fx.Answer(LINK, Rooted(BASE + 1, ROOT))]


def test_a_follower_says_that_its_checksums_are_not_proved() -> None:
    replica = follower()
    replica.receive(LINK, Seal(BASE + 1, BASE, SIZE, "s"), EPOCH, 0)
    replica.sealed(BASE + 1)
    assert replica.hashed(BASE + 1, None) == [fx.Answer(LINK, Rooted(BASE + 1, None))]


def test_nothing_is_stored_while_it_is_sealed() -> None:
    replica = follower()
    replica.receive(LINK, Seal(BASE + 1, BASE, SIZE, "s"), EPOCH, 0)
    assert replica.receive(LINK, Write(BASE + 2, BASE, 4, 1, 9), EPOCH, 0) == []
    assert replica.receive(LINK, Copy(1, BASE, ((8, 1),), 10), EPOCH, 0) == []
    out = replica.sealed(BASE + 1)
    assert fx.StoreWrite(BASE + 2, 4, 1, 9) in out
    assert fx.Answer(LINK, Copied(1)) in out


def test_what_came_before_the_seal_is_in_it() -> None:
    replica = follower(marked=())
    assert replica.receive(LINK, Write(BASE + 1, BASE, 4, 1, 9), EPOCH, 0) == [fx.MarkRegions((0,))]
    assert replica.receive(LINK, Seal(BASE + 2, BASE, SIZE, "s"), EPOCH, 0) == []
    out = replica.marked((0,), 0)
    assert out.index(fx.StoreWrite(BASE + 1, 4, 1, 9)) < out.index(fx.SealStore(BASE + 2, SIZE, "s"))


def test_a_flush_after_a_seal_covers_what_waits_for_it() -> None:
    replica = follower()
    replica.receive(LINK, Seal(BASE + 1, BASE, SIZE, "s"), EPOCH, 0)
    replica.receive(LINK, Write(BASE + 2, BASE, 4, 1, 9), EPOCH, 0)
    assert replica.receive(LINK, Flush(1, BASE), EPOCH, 0) == []
    assert of(fx.SyncStore, replica.sealed(BASE + 1))


def test_t1_the_next_primarys_writes_wait_for_the_seal_of_the_one_before() -> None:
    """The disk is at it, whoever leads: written meanwhile, the layer would be no moment of the volume."""
    replica = follower()
    replica.receive(LINK, Seal(BASE + 1, BASE, SIZE, "s"), EPOCH, 0)
    replica.raise_epoch(EPOCH + 1)
    replica.join(LINK + 1, Join(1), EPOCH + 1, Share((), 0, 0, unclean=False))
    later = first_seq(EPOCH + 1) + 1
    assert replica.receive(LINK + 1, Write(later, 0, 4, 1, 9), EPOCH + 1, 0) == []
    out = replica.sealed(BASE + 1)
    assert out[0] == fx.StoreWrite(later, 4, 1, 9)
    assert not [e for e in out if isinstance(e, fx.Answer) and isinstance(e.message, Sealed)], "nobody asked for it"
    assert replica.hashed(BASE + 1, ROOT) == []


def test_a_follower_that_leads_next_stores_nothing_either() -> None:
    primary = make_primary(())
    primary.gate.close()
    primary.start([], 0)
    primary.open(LINK, "n", 1, 1)
    assert not of(fx.StoreWrite, write(primary, 1))
    assert of(fx.StoreWrite, primary.sealed(first_seq(1) + 1, 0))


def test_a_store_that_fails_meanwhile_says_so_and_no_more() -> None:
    replica = follower()
    replica.receive(LINK, Prepare(1), EPOCH, 0)
    assert replica.failed("no space") == [fx.Answer(LINK, Failed("no space"))]
    assert replica.seal_prepared(1, ready=True) == []
