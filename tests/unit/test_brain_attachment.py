"""Who may use a volume: one node, fenced by its attach epoch, until it lets go, is dead, or an operator says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Attachment, Facts, Record
from services.replica.brain import events as ev
from services.replica.brain.changes import Circumstances, outcome_of
from services.replica.replication.messages import Open, Opened, OpenRefused, Refusal
from tests.support.pure_cluster import APP_LINK, PureCluster
from tests.support.voters import LEASE, A, B, C, accept, brain, elect, record, slot, step


def attached(node: str = "n1", epoch: int = 4) -> Record:
    return replace(record(A, B, C), attachment=Attachment(node, epoch), attach_epoch=epoch)


def around(absent_ns: int = 0) -> Circumstances:
    return Circumstances("a", ("b", "c"), (), absent_ns, LEASE)


def test_a_free_volume_is_attached_with_the_next_epoch() -> None:
    free = replace(attached(), attachment=None)
    outcome = outcome_of(ev.AttachAsked(1, "n2"), free, around())
    assert outcome.kind == "attach"
    assert outcome.record is not None and outcome.record.attachment == Attachment("n2", 5)


def test_the_same_node_again_changes_nothing_alive_or_dead() -> None:
    for absent_ns in (0, 10 * LEASE):
        outcome = outcome_of(ev.AttachAsked(1, "n1", force="why not"), attached(), around(absent_ns))
        assert (outcome.record, outcome.kind, outcome.code) == (None, "", "")


@pytest.mark.parametrize("absent_ns", [0, LEASE - 1])
def test_p6_a_node_that_lives_keeps_it(absent_ns: int) -> None:
    outcome = outcome_of(ev.AttachAsked(1, "n2"), attached(), around(absent_ns))
    assert (outcome.record, outcome.kind, outcome.code) == (None, "refuse", "FAILED_PRECONDITION")
    assert "attached to node n1, which is alive" in outcome.error


def test_p6_a_node_that_was_absent_for_a_lease_is_fenced() -> None:
    outcome = outcome_of(ev.AttachAsked(1, "n2"), attached(), around(LEASE))
    assert outcome.kind == "fence"
    assert outcome.record is not None and outcome.record.attachment == Attachment("n2", 5)
    assert outcome.outcome == "n1 is fenced by attach epoch 5 (silent for 0.50 s); attached to n2"


def test_an_operator_may_fence_a_node_that_lives_and_the_reason_is_kept() -> None:
    outcome = outcome_of(ev.AttachAsked(1, "n2", force="n1 hangs, ticket 4711"), attached(), around())
    assert outcome.kind == "fence"
    assert "an operator says: n1 hangs, ticket 4711" in outcome.outcome


def test_a_deleted_volume_is_attached_to_nobody() -> None:
    outcome = outcome_of(ev.AttachAsked(1, "n2"), replace(record(A, B, C), deleted=True), around())
    assert (outcome.record, outcome.code) == (None, "NOT_FOUND")


def test_absence_counts_from_when_it_was_last_heard_since_we_lead_and_were_awake() -> None:
    machine = brain(A, slot(attached(), 1, 5), epoch=1)
    elect(machine, B, now_ns=LEASE)
    accept(machine, B, now_ns=LEASE)
    early = 2 * LEASE - 1

    def ask(number: int, now_ns: int, **facts: int) -> str:
        out = step(machine, ev.AttachAsked(number, "n2"), now_ns, Facts(**facts))
        return next(effect.kind for effect in out if isinstance(effect, ev.Explain))

    assert ask(1, early) == "refuse", "nobody has listened for it for a whole lease yet"
    assert ask(2, 10 * LEASE, attached_heard_ns=9 * LEASE + 1) == "refuse"
    assert ask(3, 10 * LEASE, awake_since_ns=9 * LEASE + 1) == "refuse", "its beats wait in our sockets"
    assert ask(4, 10 * LEASE, attached_heard_ns=9 * LEASE) == "fence"


# ---- with the drivers of real nodes ---------------------------------------------------------------------


def cluster() -> PureCluster:
    made = PureCluster((A, B, C), others=("n1", "n2"))
    made.found()
    made.ask("a", ev.AttachAsked(1, "n1"))
    made.run(20)
    assert made.replies[1] == ("", "")
    return made


def open_session(made: PureCluster, node: str, session: int, epoch: int) -> object:
    made.answers.clear()
    made.nodes[made.primary()].open_session("v", APP_LINK, node, epoch, Open(session), made.now_ns)
    made.run(10)
    return made.answers[-1][1]


def test_a_frontend_on_a_node_without_a_copy_dies_and_another_takes_over_at_once() -> None:
    made = cluster()
    assert open_session(made, "n1", 1, 1) == Opened(1)
    made.ask("a", ev.AttachAsked(2, "n2"))
    made.run(20)
    assert made.replies[2][0] == "FAILED_PRECONDITION"
    made.kill("n1")
    made.run(600)
    made.ask("a", ev.AttachAsked(3, "n2"))
    made.run(20)
    assert made.replies[3] == ("", "")
    assert made.record("a").attachment == Attachment("n2", 2)
    (fence,) = [explain for _, _, explain in made.told if explain.kind == "fence"]
    assert fence.inputs["around"]["absent_ns"] >= LEASE
    assert open_session(made, "n2", 1, 2) == Opened(1)
    assert open_session(made, "n1", 9, 1) == OpenRefused(9, Refusal.FENCED), "it comes back and learns"


def test_a_node_whose_link_is_cut_and_that_is_heard_over_the_bus_is_alive() -> None:
    made = cluster()
    made.cut("a", "n1")
    made.run(2000)
    made.ask("a", ev.AttachAsked(2, "n2"))
    made.run(20)
    assert made.replies[2][0] == "FAILED_PRECONDITION"
    made.bus = False
    made.run(600)
    made.ask("a", ev.AttachAsked(3, "n2"))
    made.run(20)
    assert made.replies[3] == ("", "")


def test_a_new_primary_gives_the_frontend_a_lease_to_be_heard() -> None:
    made = cluster()
    made.kill("a")
    made.until(lambda: made.primary() == "b")
    made.ask("b", ev.AttachAsked(2, "n2"))
    made.run(20)
    assert made.replies[2][0] == "FAILED_PRECONDITION"


def test_a_frontend_on_the_primarys_own_node_is_alive() -> None:
    made = PureCluster((A, B, C), others=("n2",))
    made.found()
    made.ask("a", ev.AttachAsked(1, "a"))
    made.run(2000)
    made.ask("a", ev.AttachAsked(2, "n2"))
    made.run(20)
    assert made.replies[2][0] == "FAILED_PRECONDITION"
