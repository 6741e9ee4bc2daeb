"""The story of a volume in plain words, told from what real brains recorded, in the order of causes."""

from __future__ import annotations

import random

from services.cli import story
from services.replica.brain import events as ev
from stoscore.messages import DecisionEvent
from tests.support.pure_cluster import PureCluster
from tests.support.voters import A, B, C


def events_of(made: PureCluster, first: int = 0) -> list[DecisionEvent]:
    """As the stream keeps them."""
    return [
        DecisionEvent(
            volume="ab" * 16,
            name="data",
            node=node,
            kind=explain.kind,
            epoch=explain.epoch,
            version=explain.version,
            inputs=dict(explain.inputs),
            outcome=explain.outcome,
            alternatives=list(explain.alternatives),
        )
        for node, _, explain in made.told[first:]
    ]


def cluster() -> PureCluster:
    made = PureCluster((A, B, C), others=("n1", "n2"))
    made.found()
    return made


def test_a_failover_and_what_came_of_it() -> None:
    made = cluster()
    made.ask("a", ev.AttachAsked(1, "n1"))
    made.run(50)
    made.kill("a")
    made.until(lambda: made.primary() == "b")
    made.until(lambda: made.in_sync("b") == ["b", "c"])
    assert story.as_text("data", story.tell(events_of(made))) == FAILOVER


FAILOVER = """\
volume data

before the first election
  a: first record of v: a, b, c
  b: first record of v: a, b, c
  c: first record of v: a, b, c

epoch 1
  a stood because the volume had no primary yet
  b voted for a
  c voted for a
  a became the primary with the votes of a, b
  the volume was attached to n1 with attach epoch 1

epoch 2
  b stood because a, the primary, had been silent for 0.50 s
  c voted for b
  b became the primary with the votes of b, c
  b let a leave the in-sync set: its link is down; it holds b, c"""


def test_a_move_a_fence_and_a_full_disk() -> None:
    made = cluster()
    made.ask("a", ev.AttachAsked(1, "n1"))
    made.run(50)
    made.ask("a", ev.MoveAsked(2, "c", "before the upgrade"))
    made.until(lambda: made.primary() == "c")
    made.ask("c", ev.MoveAsked(3, "n2"))
    made.ask("c", ev.AttachAsked(4, "n2"))
    made.run(50)
    made.kill("n1")
    made.run(700)
    made.ask("c", ev.AttachAsked(5, "n2"))
    made.run(50)
    made.nodes["c"].disk.store_changed("v", made.now_ns, unclean=True, failure="no space left on device")
    made.until(lambda: made.primary() == "a")
    made.until(lambda: made.in_sync("a") == ["a", "b"])
    assert story.as_text("data", story.tell(events_of(made))) == MOVE


MOVE = """\
volume data

before the first election
  a: first record of v: a, b, c
  b: first record of v: a, b, c
  c: first record of v: a, b, c

epoch 1
  a stood because the volume had no primary yet
  b voted for a
  c voted for a
  a became the primary with the votes of a, b
  the volume was attached to n1 with attach epoch 1
  a handed the volume over to c: before the upgrade
  a was no longer the primary: it named c its successor

epoch 2
  c stood because a, the primary, had named it
  a voted for c
  b voted for c
  c became the primary with the votes of a, c
  c stayed the primary: node n2 holds no copy of volume v
  not attached to n2: volume v is attached to node n1, which is alive
  n1 is fenced by attach epoch 2 (silent for 0.75 s); attached to n2
  the disk of c failed (no space left on device): its copy counts for nothing
  c handed the volume over to a: the disk of c failed: no space left on device
  c was no longer the primary: it named a its successor

epoch 3
  a stood because c, the primary, had named it
  b voted for a
  c voted for a
  a became the primary with the votes of a, b
  a let c leave the in-sync set: no space left on device; it holds a, b"""


def test_the_order_is_that_of_causes_whatever_order_the_stream_has() -> None:
    """Each node's events come in its own order; how they fall among the others' is chance."""
    made = cluster()
    made.kill("a")
    made.until(lambda: made.primary() == "b")
    told = events_of(made)
    expected = story.as_text("data", story.tell(told))
    for seed in range(20):
        rng, queues = random.Random(seed), [[event for event in told if event.node == node] for node in "abc"]
        shuffled = []
        while any(queues):
            shuffled.append(rng.choice([queue for queue in queues if queue]).pop(0))
        text = story.as_text("data", story.tell(shuffled))
        assert sorted(text.split("\n")) == sorted(expected.split("\n"))
        lines = text.split("\n")
        stood = next(at for at, line in enumerate(lines) if "b stood because a" in line)
        voted = lines.index("  c voted for b")
        won = next(at for at, line in enumerate(lines) if line.startswith("  b became the primary"))
        assert stood < voted < won


def test_what_happens_again_and_again_is_told_once() -> None:
    made = cluster()
    made.kill("b")
    made.kill("c")
    made.run(5000)
    chapters = story.tell(events_of(made))
    stood = [chapter for chapter in chapters if "a stood because it had been the primary itself" in chapter.text]
    assert len(stood) == 1 and stood[0].times < 3, "tried every lease, and told when it is something new"
    assert story.as_text("data", chapters).count("a stood because it had been the primary itself") == 1


def test_what_a_newer_version_decided_is_told_in_its_own_words() -> None:
    base = {"volume": "ab" * 16, "name": "data", "node": "n1", "epoch": 4, "version": 2}
    for inputs in ({"is": "Teleport", "where": [1]}, {"is": "Standing", "leader": 5}, {"is": "Ballot"}, {}):
        event = DecisionEvent(**base, kind="teleport", inputs=inputs, outcome="goes elsewhere")  # type: ignore[arg-type]
        assert story.in_words(event) == "n1: goes elsewhere"


def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is() -> None:
    from services.cli.output import plain

    event = DecisionEvent(volume="ab" * 16, name="x", node="n1", kind="fail", epoch=0, version=0, outcome="\x1b[2Jgone")
    text = story.as_text("x", story.tell([event]))
    assert "\x1b" not in "\n".join(plain(line) for line in text.split("\n"))
