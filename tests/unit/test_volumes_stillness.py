"""Whose file system stands still while snapshots are taken, and when it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from stoscore.errors import Code, StosError
from stoscore.messages import (
    FS_LABEL,
    AttachmentModel,
    CatalogueEntry,
    Frozen,
    Message,
    RecordModel,
    ReplicaStatus,
    Thawed,
)
from stoscore.units import GIB
from stoscore.volumes.deadline import Deadline
from stoscore.volumes.stillness import Stillness

ONE, TWO, THREE = (letter * 32 for letter in "abc")
PATIENCE_S = 60.0


def entry(volume: str, *, mounted: bool = True) -> CatalogueEntry:
    labels = {FS_LABEL: "ext4"} if mounted else {}
    return CatalogueEntry(
        volume=volume, name=f"v-{volume[:4]}", size_bytes=GIB, replicas=0, nodes=["n1"], labels=labels
    )


def status(volume: str, used_on: str | None) -> ReplicaStatus:
    attachment = AttachmentModel(node=used_on, attach_epoch=1) if used_on is not None else None
    known = dict.fromkeys(RecordModel.model_fields) | {"volume": volume, "attachment": attachment}
    record = RecordModel.model_construct(**known)
    return ReplicaStatus.model_construct(record=record)


class Together:
    """Primaries that answer when everybody has been asked for."""

    def __init__(self, used_on: dict[str, str | None], asked: int):
        self._used_on = used_on
        self._all = asyncio.Barrier(asked)

    async def find(self, entry: CatalogueEntry, deadline: Deadline) -> ReplicaStatus:
        await asyncio.wait_for(self._all.wait(), deadline.left_s)
        return status(entry.volume, self._used_on[entry.volume])


class Nodes:
    """The csi services of nodes; those that are away answer nothing."""

    def __init__(self, *away: str):
        self._away = away
        self.said: list[tuple[str, str]] = []

    async def request(self, subject: str, message: Any, answer: type, *, timeout_s: float) -> Message:
        *_, node, verb = subject.split(".")
        if node in self._away:
            raise StosError(Code.UNAVAILABLE, f"nobody answers {node}")
        self.said.append((verb, node))
        return Frozen(token="t" * 16) if verb == "freeze" else Thawed(lasted=True)


def stillness(nodes: Nodes, replicas: Any = None) -> Stillness:
    return Stillness(nodes, replicas)  # type: ignore[arg-type]


async def test_all_primaries_are_asked_at_once() -> None:
    nodes = Nodes()
    replicas = Together({ONE: "n1", TWO: None, THREE: "n3"}, asked=3)
    entries: Sequence[CatalogueEntry] = [entry(volume) for volume in (ONE, TWO, THREE)]
    quiet = await stillness(nodes, replicas).find(entries, Deadline.after(PATIENCE_S))
    assert quiet is not None
    async with quiet():
        assert nodes.said == [("freeze", "n1"), ("freeze", "n3")], "what is used nowhere is mounted nowhere"
    assert nodes.said[2:] == [("thaw", "n1"), ("thaw", "n3")]


async def test_what_has_no_file_system_is_not_asked_for() -> None:
    replicas = Together({ONE: "n1"}, asked=1)
    entries = [entry(ONE), entry(TWO, mounted=False)]
    assert await stillness(Nodes(), replicas).find(entries, Deadline.after(PATIENCE_S)) is not None
    assert await stillness(Nodes()).find(entries[1:], Deadline.after(PATIENCE_S)) is None


async def test_nothing_stands_still_that_is_used_nowhere() -> None:
    assert stillness(Nodes()).of([status(ONE, None), ReplicaStatus.model_construct(record=None)]) is None


async def test_who_does_not_freeze_is_not_thawed() -> None:
    nodes = Nodes("n2")
    quiet = stillness(nodes).of([status(ONE, "n1"), status(TWO, "n2")])
    assert quiet is not None
    async with quiet():
        pass
    assert nodes.said == [("freeze", "n1"), ("thaw", "n1")]
