"""Somebody with an identity, or none, floods one node while a volume is in use: the I/O goes on, and others are
answered."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.dev.demo.recorder import Recorder
from services.dev.nbd_client import NbdClient
from stoscore import subjects
from stoscore.errors import StosError
from stoscore.messages import NodeStatus, NodeStatusRequest
from tests.security.cases import STRANGER
from tests.security.stage import VICTIM, Stage

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

SECONDS = 4.0
PAUSE_NS_MAX = 1_500_000_000
"""As long as a failover may take, on a machine that is busy with the flood itself."""
ANSWER_S_MAX = 3.0


@dataclass(slots=True)
class Patience:
    """What an administrator sees of the node that is flooded."""

    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    async def ask(self, stage: Stage, node: str) -> None:
        while True:
            begun = time.monotonic()
            try:
                await stage.bus.request(subjects.node(node, "status"), NodeStatusRequest(), NodeStatus)
            except StosError as error:
                self.failures.append(str(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            await asyncio.sleep(0.1)


async def endured(stage: Stage, attack: str, arm: Path | None, **arguments: Any) -> None:
    """The attack runs for some seconds beside a volume in use, and beside somebody who asks the volume's primary."""
    scene = await stage.scene()
    patience = Patience()
    async with await NbdClient.connect(stage.socket, VICTIM) as client:
        recorder = Recorder(client, client.size)
        recorder.resume()
        asking = asyncio.create_task(patience.ask(stage, await primary_of(stage)))
        outcome = await stage.attacker.attack(attack, scene, arm, seconds=SECONDS, **arguments)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        longest_ns = recorder.gap.longest_ns
        await recorder.pause()
    told = f"{outcome.told}: pause {longest_ns / 1e6:.0f} ms, answer {patience.slowest_s:.2f} s, {patience.failures}"
    print(told)
    assert recorder.history.errors == 0, told
    assert longest_ns < PAUSE_NS_MAX, told
    assert patience.failures == [], told
    assert patience.slowest_s < ANSWER_S_MAX, told
    await stage.victim_works()


async def primary_of(stage: Stage) -> str:
    return str((await stage.scene()).records[VICTIM]["primary"]["node"])


async def test_requests_to_one_node(stage: Stage) -> None:
    arm = await stage.arms.enrolled("svc", "csi-eve")
    subject = subjects.node(await primary_of(stage), "status")
    who = ["csi", "svc", "csi-eve"]
    await endured(stage, "thief.swamp_the_bus", arm, subject=subject, payloads=['{"v":1}'], who=who)
    await stage.trail.tells(stage.bus, who="csi/csi-eve", outcome="refused", reason="faster")


async def test_frames_on_a_link(stage: Stage) -> None:
    arm = await stage.arms.enrolled("node", STRANGER)
    await endured(stage, "thief.swamp_a_link", arm, to=await primary_of(stage), name=STRANGER)
    await stage.trail.tells(stage.bus, who=f"node/{STRANGER}", outcome="refused")


async def test_brain_messages_on_the_bus(stage: Stage) -> None:
    arm = await stage.arms.enrolled("node", STRANGER)
    subject = subjects.brain((await stage.scene()).volume(VICTIM), STRANGER)
    await endured(stage, "thief.tell_again_and_again", arm, subject=subject, payload="x" * 200)
    await stage.trail.tells(stage.bus, who=f"node/{STRANGER}", outcome="refused")


async def test_an_address_that_changes_all_the_time(stage: Stage) -> None:
    arm = await stage.arms.enrolled("node", STRANGER)
    entry = {"v": 1, "node": STRANGER, "zone": "z"}
    payloads = [json.dumps(entry | {"address": f"127.0.0.1:{port}"}) for port in range(1, 50)]
    subject, who = subjects.catalogue("announce"), ["node", "node", STRANGER]
    await endured(stage, "thief.swamp_the_bus", arm, subject=subject, payloads=payloads, who=who)


async def test_strangers_who_knock(stage: Stage) -> None:
    doors = ["n1", "n2", "n3", "app", "nats", "certs-1"]
    await endured(stage, "thief.knock", None, doors=doors)
    await stage.trail.tells(stage.bus, who=r"127\.0\.0\.1", action="link.open", outcome="refused")
