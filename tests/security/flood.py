"""A flood beside a volume in use and beside somebody who asks the same node: how both fare."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.dev.demo.recorder import Recorder
from services.dev.nbd_client import NbdClient
from stoscore import subjects
from stoscore.errors import StosError
from stoscore.messages import NodeStatus, NodeStatusRequest
from tests.security.stage import VICTIM, Stage

SECONDS = 4.0
PAUSE_S_MAX = 1.5
"""As long as a failover may take, on a machine that is busy with the flood itself."""
ANSWER_S_MAX = 2.5


@dataclass(slots=True)
class Endured:
    """What the victims saw while it lasted."""

    flood: str
    pause_s: float
    errors: int
    answer_s: float
    unanswered: list[str] = field(default_factory=list)

    @property
    def harmed(self) -> bool:
        late = self.pause_s > PAUSE_S_MAX or self.answer_s > ANSWER_S_MAX
        return late or self.errors > 0 or bool(self.unanswered)

    def __str__(self) -> str:
        writes = f"writes paused {self.pause_s:.2f} s, {self.errors} failed"
        told = f"{self.flood}: {writes}; slowest answer {self.answer_s:.2f} s"
        return f"{told}; {self.unanswered[:2]}" if self.unanswered else told


async def endure(stage: Stage, attack: str, arm: Path | None, **arguments: Any) -> Endured:
    """The attack runs for some seconds."""
    scene = await stage.scene()
    endured = Endured("", 0.0, 0, 0.0)
    async with await NbdClient.connect(stage.socket, VICTIM) as client:
        recorder = Recorder(client, client.size)
        recorder.resume()
        asking = asyncio.create_task(_ask(stage, await primary_of(stage), endured))
        outcome = await stage.attacker.attack(attack, scene, arm, seconds=SECONDS, **arguments)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        endured.flood, endured.pause_s = outcome.told, recorder.gap.longest_ns / 1e9
        await recorder.pause()
        endured.errors = recorder.history.errors
    return endured


async def _ask(stage: Stage, node: str, endured: Endured) -> None:
    """An administrator wants to know how the node is."""
    while True:
        begun = time.monotonic()
        try:
            await stage.bus.request(subjects.node(node, "status"), NodeStatusRequest(), NodeStatus)
        except StosError as error:
            endured.unanswered.append(str(error))
        finally:
            endured.answer_s = max(endured.answer_s, time.monotonic() - begun)
        await asyncio.sleep(0.1)


async def primary_of(stage: Stage) -> str:
    return str((await stage.scene()).records[VICTIM]["primary"]["node"])


# ---- the floods -------------------------------------------------------------------------------------


async def by_requests(stage: Stage) -> Endured:
    """To one node, by a service that may ask it."""
    arm = await stage.arms.enrolled("svc", "csi-eve")
    subject = subjects.node(await primary_of(stage), "status")
    who = ["csi", "svc", "csi-eve"]
    return await endure(stage, "thief.swamp_the_bus", arm, subject=subject, payloads=['{"v":1}'], who=who)
