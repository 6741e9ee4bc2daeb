"""A flood beside a volume in use and beside somebody who asks what is flooded: how both fare, and what each flood is
held back by."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.dev.demo.recorder import Recorder
from services.dev.nbd_client import NbdClient
from stoscore import subjects
from stoscore.errors import StosError
from stoscore.messages import Message, NodePage, NodeStatus, NodeStatusRequest, PageRequest
from tests.security.stage import VICTIM, Stage
from tests.security.weakenings import STRANGER

SECONDS = 4.0
PAUSE_S_MAX = 10.0
ANSWER_S_MAX = 15.0
"""So generous because the flood itself keeps this machine busy: what one without bounds reaches, it counts itself."""


@dataclass(slots=True)
class Endured:
    """What the victims saw while it lasted."""

    flood: str = ""
    won: bool = False
    """The flood reached a goal of its own."""
    pause_s: float = 0.0
    errors: int = 0
    answer_s: float = 0.0
    unanswered: list[str] = field(default_factory=list)

    @property
    def harmed(self) -> bool:
        return self.won or self.pause_s > PAUSE_S_MAX or self.errors > 0 or bool(self.unanswered)

    def __str__(self) -> str:
        writes = f"writes paused {self.pause_s:.2f} s, {self.errors} failed"
        told = f"{self.flood}: {writes}; slowest answer {self.answer_s:.2f} s"
        return f"{told}; {self.unanswered[:2]}" if self.unanswered else told


@dataclass(frozen=True, slots=True)
class Question:
    """What an innocent bystander asks meanwhile."""

    subject: str
    request: Message
    answer: type[Message]
    within_s: float = ANSWER_S_MAX

    @classmethod
    def of_status(cls, node: str, within_s: float = ANSWER_S_MAX) -> Question:
        return cls(subjects.node(node, "status"), NodeStatusRequest(), NodeStatus, within_s)


async def endure(
    stage: Stage, attack: str, arm: Path | None, asked: Question | None = None, **arguments: Any
) -> Endured:
    """The attack runs for some seconds."""
    scene = await stage.scene()
    asked = asked or Question.of_status(await primary_of(stage))
    endured = Endured()
    async with await NbdClient.connect(stage.socket, VICTIM) as client:
        recorder = Recorder(client, client.size)
        recorder.resume()
        asking = asyncio.create_task(_ask(stage, asked, endured))
        outcome = await stage.attacker.attack(attack, scene, arm, seconds=SECONDS, **arguments)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        endured.flood, endured.won, endured.pause_s = outcome.told, outcome.won, recorder.gap.longest_ns / 1e9
        try:
            async with asyncio.timeout(PAUSE_S_MAX):
                await recorder.pause()
        except TimeoutError:
            endured.pause_s = max(endured.pause_s, 2 * PAUSE_S_MAX)
            await recorder.abandon()
        endured.errors = recorder.history.errors
    return endured


async def _ask(stage: Stage, asked: Question, endured: Endured) -> None:
    """An administrator wants to know something, again and again."""
    while True:
        begun = time.monotonic()
        try:
            await stage.bus.request(asked.subject, asked.request, asked.answer, timeout_s=asked.within_s)
        except StosError as error:
            endured.unanswered.append(str(error))
        finally:
            endured.answer_s = max(endured.answer_s, time.monotonic() - begun)
        await asyncio.sleep(0.1)


async def primary_of(stage: Stage) -> str:
    return str((await stage.scene()).records[VICTIM]["primary"]["node"])


# ---- the floods -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flood:
    name: str
    run: Callable[[Stage], Awaitable[Endured]]
    weakened: Mapping[str, str]
    """As of a case: who is started without which defence, for it to do harm."""
    audit: Mapping[str, str]

    def __str__(self) -> str:
        return self.name


async def requests_to_one_node(stage: Stage) -> Endured:
    """By a service that may ask it."""
    arm = await stage.arms.enrolled("svc", "csi-eve")
    subject = subjects.node(await primary_of(stage), "status")
    who = ["csi", "svc", "csi-eve"]
    return await endure(stage, "thief.swamp_the_bus", arm, subject=subject, payloads=['{"v":1}'], who=who)


async def addresses_that_change(stage: Stage) -> Endured:
    """A node announces another address all the time; somebody looks for the nodes meanwhile."""
    arm = await stage.arms.enrolled("node", STRANGER)
    entry = {"v": 1, "node": STRANGER, "zone": "z"}
    payloads = [json.dumps(entry | {"address": f"127.0.0.1:{port}"}) for port in range(1, 50)]
    subject, who = subjects.catalogue("announce"), ["node", "node", STRANGER]
    asked = Question(subjects.catalogue("nodes"), PageRequest(), NodePage)
    return await endure(stage, "thief.swamp_the_bus", arm, asked, subject=subject, payloads=payloads, who=who)


async def frames_on_a_link(stage: Stage) -> Endured:
    """They keep a node that does not take turns busy for seconds, and cost one that does next to nothing."""
    arm, primary = await stage.arms.enrolled("node", STRANGER), await primary_of(stage)
    asked = Question.of_status(primary, within_s=3.0)
    return await endure(stage, "thief.swamp_a_link", arm, asked, to=primary, name=STRANGER)


async def joins_on_a_link(stage: Stage) -> Endured:
    arm = await stage.arms.enrolled("node", STRANGER)
    return await endure(stage, "thief.ask_behind_a_flood", arm, to=await primary_of(stage), name=STRANGER)


async def messages_of_a_brain(stage: Stage) -> Endured:
    arm = await stage.arms.enrolled("node", STRANGER)
    primary = await primary_of(stage)
    return await endure(stage, "thief.tell_as_a_brain", arm, to=primary, name=STRANGER, volume=VICTIM)


async def strangers_who_knock(stage: Stage) -> Endured:
    return await endure(stage, "thief.knock", None, doors=["n1", "n2", "n3", "app", "nbd"])


BY_STRANGER = {"who": f"^node/{STRANGER}$", "outcome": "refused"}
BY_NOBODY = {"who": r"^127\.0\.0\.1$", "action": r"^link\.open$", "outcome": "refused"}
FLOODS = (
    Flood(
        "requests-to-one-node", requests_to_one_node,
        {"nodes": "serve-who-shouts"}, {"who": "^csi/csi-eve$", "outcome": "refused", "reason": "faster"},
    ),
    Flood(
        "addresses-that-change", addresses_that_change,
        {"nats": "serve-who-shouts"}, BY_STRANGER | {"reason": "faster"},
    ),
    Flood("frames-on-a-link", frames_on_a_link, {"nodes": "let-links-take-their-time"}, BY_STRANGER),
    Flood("joins-on-a-link", joins_on_a_link, {"nodes": "let-links-take-their-time"}, BY_STRANGER),
    Flood(
        "messages-of-a-brain", messages_of_a_brain,
        {"nodes": "hear-who-shouts"}, BY_STRANGER | {"action": "brain$", "reason": "more messages"},
    ),
    Flood("strangers-who-knock", strangers_who_knock, {"nodes": "let-all-strangers-wait"}, BY_NOBODY),
)  # fmt: skip
