"""Real processes: a primary that moves on purpose, an application's node that dies, a voter that is lost, and the story
that the voters tell of all that."""

from __future__ import annotations

import asyncio
import signal

import pytest

from services.dev.demo.verify import disagreements
from services.replica.brain.decisions import replay
from tests.support.cluster import RunningCluster, completed

pytestmark = [pytest.mark.long, pytest.mark.slow]
VOLUME = "data"
GAP_NS_MAX = 10_000_000_000
"""On a machine that does much else; what it usually is, the failover bench measures."""
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def volume(running: RunningCluster) -> str:
    created = running.stos("volume", "create", VOLUME, "--size", "64MiB")
    assert created.code == 0, created.errors
    return VOLUME


def primary(running: RunningCluster) -> str:
    found = running.json("volume", "show", VOLUME)["primary"]
    assert found is not None
    return str(found)


async def test_the_primary_moves_under_load_and_nothing_fails(running: RunningCluster, volume: str) -> None:
    before = primary(running)
    target = next(node for node in NODES if node != before)
    async with running.writing(volume) as recorder:
        recorder.gap.take()
        moved = await asyncio.to_thread(running.json, "volume", "move-primary", volume, "--to", target)
        await completed(recorder, 500)
        there = await asyncio.to_thread(running.json, "volume", "move-primary", volume)
        await completed(recorder, 500)
        longest_ns = recorder.gap.longest_ns
    assert moved["primary"] == target
    assert there["primary"] != target
    assert recorder.history.errors == 0
    assert longest_ns < GAP_NS_MAX
    shown = running.json("volume", "show", volume)
    assert sorted(shown["in_sync"]) == sorted(NODES), "nobody was let go for it"
    assert disagreements(running.copies(volume)) == []


def test_a_move_that_can_not_be_says_why(running: RunningCluster, volume: str) -> None:
    told = running.stos("volume", "move-primary", volume, "--to", "app")
    assert told.code == 3 and "node app holds no copy of volume data" in told.errors
    told = running.stos("volume", "move-primary", volume, "--to", primary(running))
    assert told.code == 5 and "is already the primary" in told.errors
    assert running.stos("volume", "move-primary", "nothing").code == 3
    assert running.stos("volume", "create", "pair", "--size", "8MiB", "--replicas", "1").code == 0
    voters = running.json("volume", "show", "pair")["voters"]
    (witness,) = [voter["node"] for voter in voters if voter["kind"] == "witness"]
    told = running.stos("volume", "move-primary", "pair", "--to", witness)
    assert told.code == 5 and "is a witness" in told.errors
    assert running.stos("volume", "create", "single", "--size", "8MiB", "--replicas", "0").code == 0
    told = running.stos("volume", "move-primary", "single")
    assert told.code == 5 and "no other copy is in sync" in told.errors


async def test_a_process_that_ends_in_order_hands_over_first(running: RunningCluster, volume: str) -> None:
    before = primary(running)
    async with running.writing(volume) as recorder:
        recorder.gap.take()
        await asyncio.to_thread(running.cluster.kill, before, signal.SIGTERM)
        try:
            await running.wait("the process to end", lambda: before not in running.cluster.running())
            await completed(recorder, 500)
            longest_ns = recorder.gap.longest_ns
        finally:
            await asyncio.to_thread(running.cluster.start, before)
        await running.in_sync(volume, 3)
    assert recorder.history.errors == 0
    assert longest_ns < GAP_NS_MAX
    told = running.json("volume", "why", volume, "--since", "10m")
    moves = [chapter for chapter in told if chapter["kind"] == "move" and chapter["node"] == before]
    assert moves and moves[-1]["inputs"]["reason"] == "its process ends"


async def test_after_a_failover_the_voters_tell_why_and_would_decide_the_same_again(
    running: RunningCluster, volume: str
) -> None:
    before = primary(running)
    async with running.writing(volume) as recorder:
        await asyncio.to_thread(running.cluster.kill, before)
        await completed(recorder, 500)
        await asyncio.to_thread(running.cluster.start, before)
        await running.in_sync(volume, 3)
    now = primary(running)
    told = running.stos("volume", "why", volume, "--since", "10m")
    assert told.code == 0, told.errors
    assert f"{now} stood because {before}, the primary, had been silent for 0." in told.output
    assert f"{now} became the primary with the votes of" in told.output
    assert f"{now} let {before} leave the in-sync set" in told.output
    assert f"{before} was in sync again" in told.output
    chapters = running.json("volume", "why", volume, "--since", "10m")
    assert len(chapters) > 20
    for chapter in chapters:
        if chapter["kind"] in ("resync", "resynced"):
            continue  # what replication tells, in which nobody decided anything
        verdict = replay(chapter["inputs"])
        assert (verdict.kind, verdict.outcome) == (chapter["kind"], chapter["outcome"])
        assert list(verdict.alternatives) == chapter["alternatives"]


def test_bad_questions_about_the_past(running: RunningCluster, volume: str) -> None:
    assert running.stos("volume", "why", "nothing").code == 3
    told = running.stos("volume", "why", volume, "--since", "yesterday")
    assert told.code == 2 and "is no span of time" in told.errors
    assert "nothing was decided within 1s" in running.stos("volume", "why", "single", "--since", "1s").output


async def test_an_applications_node_dies_and_another_attaches_at_once(running: RunningCluster) -> None:
    assert running.stos("volume", "create", "moving", "--size", "8MiB").code == 0
    opened = running.json("volume", "connect", "moving", "--node", "app")
    refused = running.stos("volume", "connect", "moving", "--node", "n1")
    assert refused.code == 5 and "attached to node app, which is alive" in refused.errors
    assert running.stos("volume", "connect", "moving", "--node", "n1", "--force").code == 2, "a reason is needed"
    running.cluster.kill("app")
    await running.wait("app to be dead", lambda: running.stos("volume", "connect", "moving", "--node", "n1").code == 0)
    shown = running.json("volume", "show", "moving")
    assert (shown["attached"], shown["attach_epoch"]) == ("n1", opened["attach_epoch"] + 1)
    await asyncio.to_thread(running.cluster.start, "app")

    def learned() -> bool:
        frontends = running.json("node", "show", "app")["frontends"]
        return not [frontend for frontend in frontends if frontend["name"] == "moving"]

    await running.wait("app to learn that it was fenced", learned)
    told = running.stos("volume", "why", "moving").output
    assert "app is fenced by attach epoch" in told
    forced = running.json("volume", "connect", "moving", "--node", "app", "--force", "--reason", "ticket 4711")
    assert forced["attach_epoch"] == opened["attach_epoch"] + 2
    assert "an operator says: ticket 4711" in running.stos("volume", "why", "moving").output
    assert running.stos("volume", "disconnect", "moving").code == 0


async def test_a_voter_whose_hard_state_is_torn_says_so_and_the_volume_carries_on(
    running: RunningCluster, volume: str
) -> None:
    victim = next(node for node in NODES if node != primary(running))
    identity = running.json("volume", "show", volume)["volume"]
    running.cluster.kill(victim)
    (state,) = running.cluster.layout.data(victim).rglob(f"{identity}/state")
    whole = state.read_bytes()
    state.write_bytes(whole[:1000])
    await asyncio.to_thread(running.cluster.start, victim)
    async with running.writing(volume) as recorder:
        await completed(recorder, 200)
    assert recorder.history.errors == 0
    (row,) = [row for row in running.json("volume", "show", volume)["nodes"] if row["node"] == victim]
    assert "it is torn" in row["error"]["message"]
    assert "it is torn" in running.json("node", "show", victim)["broken"][identity]
    told = running.stos("volume", "why", volume, "--since", "10m").output
    assert f"the voter on {victim} is lost and keeps silent" in told
    running.cluster.kill(victim)
    state.write_bytes(whole)
    await asyncio.to_thread(running.cluster.start, victim)
    await running.in_sync(volume, 3)
