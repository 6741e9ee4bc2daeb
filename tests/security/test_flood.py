"""Somebody with an identity, or none, floods one node while a volume is in use: the I/O goes on, and others are
answered."""

from __future__ import annotations

import json

import pytest

from stoscore import subjects
from tests.security.cases import STRANGER
from tests.security.flood import Endured, by_requests, endure, primary_of
from tests.security.stage import VICTIM, Stage

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def nobody_was_harmed(stage: Stage, endured: Endured) -> None:
    print(endured)
    assert not endured.harmed, str(endured)
    await stage.victim_works()


async def test_requests_to_one_node(stage: Stage) -> None:
    await nobody_was_harmed(stage, await by_requests(stage))
    await stage.trail.tells(stage.bus, who="csi/csi-eve", outcome="refused", reason="faster")


async def test_frames_on_a_link(stage: Stage) -> None:
    arm = await stage.arms.enrolled("node", STRANGER)
    endured = await endure(stage, "thief.swamp_a_link", arm, to=await primary_of(stage), name=STRANGER)
    await nobody_was_harmed(stage, endured)
    await stage.trail.tells(stage.bus, who=f"node/{STRANGER}", outcome="refused")


async def test_brain_messages_on_the_bus(stage: Stage) -> None:
    arm = await stage.arms.enrolled("node", STRANGER)
    subject = subjects.brain((await stage.scene()).volume(VICTIM), STRANGER)
    endured = await endure(stage, "thief.tell_again_and_again", arm, subject=subject, payload="x" * 200)
    await nobody_was_harmed(stage, endured)
    await stage.trail.tells(stage.bus, who=f"node/{STRANGER}", outcome="refused")


async def test_an_address_that_changes_all_the_time(stage: Stage) -> None:
    arm = await stage.arms.enrolled("node", STRANGER)
    entry = {"v": 1, "node": STRANGER, "zone": "z"}
    payloads = [json.dumps(entry | {"address": f"127.0.0.1:{port}"}) for port in range(1, 50)]
    subject, who = subjects.catalogue("announce"), ["node", "node", STRANGER]
    endured = await endure(stage, "thief.swamp_the_bus", arm, subject=subject, payloads=payloads, who=who)
    await nobody_was_harmed(stage, endured)


async def test_strangers_who_knock(stage: Stage) -> None:
    doors = ["n1", "n2", "n3", "app", "nats", "certs-1", "nbd"]
    await nobody_was_harmed(stage, await endure(stage, "thief.knock", None, doors=doors))
    await stage.trail.tells(stage.bus, who=r"127\.0\.0\.1", action="link.open", outcome="refused")
