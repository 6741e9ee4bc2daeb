"""A decision's recorded inputs, judged again, give the same decision, by way of JSON, for all that a run decides."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from services.replica.brain import Stamp, decisions
from services.replica.brain import events as ev
from services.replica.brain.ballot import Ballot
from services.replica.brain.decisions import UnknownInputs, inputs_of, replay
from services.replica.brain.election import Election
from tests.support.pure_cluster import PureCluster
from tests.support.voters import A, B, C, W


def replayed(explain: ev.Explain) -> None:
    """As somebody does who reads the event from the stream."""
    verdict = replay(json.loads(json.dumps(explain.inputs)))
    assert (verdict.kind, verdict.outcome, verdict.alternatives) == (
        explain.kind,
        explain.outcome,
        explain.alternatives,
    ), explain.inputs


def test_a_question_survives_its_way_through_json() -> None:
    question = Election(A, 3, (A, B, W), (A, B), (("w", "no"),))
    inputs = json.loads(json.dumps(inputs_of(question)))
    assert inputs["is"] == "Election"
    assert inputs["voters"][2] == {"is": "Voter", "node": "w", "incarnation": "w1", "kind": "witness"}
    assert decisions._read(inputs) == question
    assert replay(inputs) == question.judge()


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"is": "Nothing"},
        {"is": "Voter", "node": "a", "incarnation": "a1", "kind": "data"},
        {"is": "Stamp", "generation": 0},
        {"is": "Election", "me": "a"},
        {"is": "__import__", "name": "os"},
    ],
)
def test_inputs_that_no_question_has_are_refused(inputs: dict[str, object]) -> None:
    with pytest.raises(UnknownInputs):
        replay(inputs)


def test_what_can_not_be_read_back_can_not_be_recorded() -> None:
    ballot = Ballot(
        A, 4, Stamp(0, 3, 7), False, False, 0, B, 3, None, Stamp(0, 3, 7), (A,), (A,), False, 0, 0, "", 0, 0
    )
    assert replay(inputs_of(ballot)).kind == "grant"
    with pytest.raises(AssertionError, match="can't be recorded"):
        decisions._write({1, 2})
    with pytest.raises(AssertionError, match="two recorded classes"):
        decisions.recorded(type("Voter", (), {}))


def eventful() -> PureCluster:
    """Nearly everything that a brain can decide, one after the other."""
    made = PureCluster((A, B, C), others=("n1", "n2"))
    made.found()
    made.ask("a", ev.AttachAsked(1, "n1"))
    made.run(50)
    made.ask("a", ev.AttachAsked(2, "n2"))
    made.ask("a", ev.DeleteAsked(3))
    made.run(50)
    made.cut("a", "b")
    made.run(300)
    made.heal("a", "b")
    made.until(lambda: len(made.in_sync("a")) == 3)
    made.ask("a", ev.MoveAsked(4, "n9"))
    made.ask("a", ev.MoveAsked(5, "b"))
    made.until(lambda: made.primary() == "b")
    made.kill("n1")
    made.run(600)
    made.ask("b", ev.AttachAsked(6, "n2"))
    made.run(50)
    made.kill("b")
    made.until(lambda: made.primary() in ("a", "c"))
    leader = made.primary()
    made.until(lambda: "b" not in made.in_sync(leader))
    made.nodes[leader].disk.store_changed("v", made.now_ns, unclean=True, failure="no space left on device")
    other = "c" if leader == "a" else "a"
    made.until(lambda: made.primary() == other)
    made.ask(other, ev.DetachAsked(7, None))
    made.run(50)
    made.ask(other, ev.DeleteAsked(8))
    made.run(50)
    return made


def test_everything_that_a_cluster_decides_is_decided_again() -> None:
    made = eventful()
    for _, _, explain in made.told:
        replayed(explain)
    kinds = Counter(made.kinds())
    for kind in (
        "found", "stand", "grant", "refuse", "lead", "attach", "shrink", "admit", "move", "step-down", "fence", "fail",
        "detach", "delete",
    ):  # fmt: skip
        assert kinds[kind], kind


def test_what_nobody_asked_for_is_no_part_of_what_was_asked_before() -> None:
    """A failover was shown inside the trace that had made the volume."""
    made = PureCluster((A, B, C), others=("n1",))
    made.found(cause="made")
    made.ask(made.primary(), ev.AttachAsked(1, "n1", "attached"))
    made.run(50)
    asked = [(explain.kind, explain.cause) for _, _, explain in made.told]
    assert {cause for kind, cause in asked if kind in ("found", "stand", "grant", "lead")} == {"made"}
    assert {cause for kind, cause in asked if kind == "attach"} == {"attached"}
    made.told.clear()
    killed = made.primary()
    made.kill(killed)
    made.until(lambda: made.primary() not in ("", killed) and killed not in made.in_sync(made.primary()))
    assert {"stand", "grant", "lead", "shrink"} <= {explain.kind for _, _, explain in made.told}
    assert {explain.cause for _, _, explain in made.told} == {""}


def test_the_same_run_decides_the_same() -> None:
    assert eventful().told == eventful().told
