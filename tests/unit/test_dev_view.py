"""What a person sees, on a terminal and without one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.dev.demo.summary import Findings
from services.dev.demo.view import (
    PlainView,
    Scene,
    nodes_table,
    plain_wanted,
    print_outcome,
    resync_lines,
    sparkline,
)
from services.dev.demo.watch import Seen
from stoscore.messages import RecordModel, ReplicaStatus, ResyncStatus, VoterModel

VOLUME = "0" * 32
INCARNATION = "1" * 16


def voter(node: str) -> VoterModel:
    return VoterModel(node=node, incarnation=INCARNATION)


def status(node: str, role: str, *, serving: bool = False) -> ReplicaStatus:
    record = RecordModel(
        volume=VOLUME,
        name="v",
        size_bytes=1 << 30,
        replicas=2,
        generation=0,
        epoch=3,
        version=2,
        voters=[voter("n1"), voter("n2"), voter("n3")],
        in_sync=[voter("n1"), voter("n3")],
    )
    resync = ResyncStatus(
        node="n2",
        phase="copying",
        blocks_left=256,
        bytes_left=1 << 20,
        blocks_sent=1,
        bytes_sent=4096,
    )
    return ReplicaStatus(
        node=node,
        incarnation=INCARNATION,
        role=role,
        epoch=3,
        serving=serving,
        record=record,
        resyncs=[resync] if serving else [],
    )


SEEN = Seen("v", {"n1": status("n1", "primary", serving=True), "n2": status("n2", "catching-up")})


def drawn(scene: Scene) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(nodes_table(scene), *resync_lines(scene))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("environment", "terminal", "plain"),
    [
        ({}, True, False),
        ({}, False, True),
        ({"STOS_DEMO_PLAIN": "1"}, True, True),
        ({"STOS_DEMO_PLAIN": "0"}, True, False),
    ],
)
def test_plain_without_a_terminal_or_when_asked(environment: dict[str, str], terminal: bool, plain: bool) -> None:
    assert plain_wanted(environment, terminal) is plain


def test_nodes_with_role_epoch_and_what_is_behind() -> None:
    scene = Scene(nodes=("n1", "n2", "n3"), down={"n3"}, seen={"v": SEEN})
    text = drawn(scene)
    assert "primary e3" in text
    assert "catching-up e3 (behind)" in text
    assert "down" in text
    assert "n2 copying, 1.0 MiB left" in text


def test_the_primary_of_the_higher_epoch_counts() -> None:
    old = status("n3", "primary", serving=True).model_copy(update={"epoch": 2})
    seen = Seen("v", {"n3": old} | SEEN.statuses)
    assert seen.primary is not None
    assert seen.primary.node == "n1"
    assert seen.in_sync == {"n1", "n3"}
    assert Seen("v").primary is None
    assert Seen("v").in_sync == set()


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    view.step("a step")
    view.say("something")
    view.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("s ", 1)[1] for line in lines] == ["== a step", "   something"]


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "  "
    assert sparkline([0.0, 50.0, 100.0]) == " ▄█"


def test_the_outcome_names_what_failed() -> None:
    findings = Findings()
    findings.check("no I/O error", True, "0")
    findings.check("all copies are the same", False, "n1 and n2 differ")
    console = Console(file=io.StringIO(), width=100)
    print_outcome(findings, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "FAILED" in text
    assert "n1 and n2 differ" in text
    assert "NOT everything held" in text
