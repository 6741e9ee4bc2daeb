"""An operator's override as clients see it (I4): what is refused before a voter is asked, and who is believed after."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.nats import catalogue as nats_catalogue
from services.nats.catalogue import CatalogueStore
from stoscore import subjects
from stoscore.envelope import encode_request
from stoscore.errors import Code, StosError, not_found, unavailable
from stoscore.messages import (
    Attached,
    AttachmentModel,
    CatalogueEntry,
    DescribeReplicas,
    Message,
    NodeEntry,
    Overridden,
    OverrideVolume,
    RecordModel,
    ReplicaStatus,
    ReplicaStatuses,
    VoterModel,
)
from stoscore.units import MIB
from stoscore.volumes import Survey, Volumes
from stoscore.volumes.deadline import Deadline
from stoscore.volumes.deletion import is_gone
from stoscore.volumes.override import note_generation
from tests.support.model_nodes import ModelCatalogue

VOLUME = "5" * 32
NODES = ("n1", "n2", "n3", "n4")


def record(
    *, generation: int = 0, epoch: int = 3, version: int = 7, voters: str = "n1 n2 n3", joining: str = ""
) -> RecordModel:
    def models(nodes: str) -> list[VoterModel]:
        return [VoterModel(node=node, incarnation=node[1:].zfill(16)) for node in nodes.split()]

    return RecordModel(
        volume=VOLUME,
        name="data",
        size_bytes=MIB,
        replicas=2,
        generation=generation,
        epoch=epoch,
        version=version,
        voters=models(voters),
        in_sync=models(voters),
        joining=models(joining),
    )


class Wire:
    """A bus whose nodes say just what they are told to, on every question; whoever is not told of does not answer."""

    def __init__(self) -> None:
        self.held: dict[str, ReplicaStatus] = {}
        self.empty: set[str] = {"n4"}
        self.overrides: list[tuple[str, OverrideVolume]] = []
        self.attached: list[str] = []
        self.late = 0
        """How many rounds an attach is answered NOT_PRIMARY, with a hint at n2."""

    def hold(self, node: str, held: RecordModel | None, *, serving: bool = False, failure: str = "") -> None:
        role = "primary" if serving else "replica"
        incarnation = node[1:].zfill(16)
        self.held[node] = ReplicaStatus(
            node=node,
            incarnation=incarnation,
            role=role,
            epoch=held.epoch if held else 0,
            serving=serving,
            failure=failure,
            record=held,
        )

    async def request(self, subject: str, message: Message, answer: type, *, timeout_s: float = 5.0) -> Any:
        words = subject.removeprefix(f"{subjects.PREFIX}.node.").split(".")
        node, verb = words[0], words[-1]
        if node not in self.held:
            raise not_found(f"{node} holds nothing") if node in self.empty else unavailable(f"{node} does not answer")
        status = self.held[node]
        if verb == "describe":
            return status
        if verb == "describe-all":
            assert isinstance(message, DescribeReplicas)
            return ReplicaStatuses(statuses=[status] if status.serving or not message.serving else [])
        if verb == "attach":
            if self.late:
                self.late -= 1
                raise StosError(Code.NOT_PRIMARY, "not yet", details={"hint": "n2"})
            self.attached.append(node)
            assert status.record is not None
            attachment = AttachmentModel(node="n4", attach_epoch=1)
            return Attached(record=status.record.model_copy(update={"attachment": attachment}), attach_epoch=1)
        assert verb == "override" and isinstance(message, OverrideVolume), verb
        self.overrides.append((node, message))
        assert status.record is not None
        begun = record(generation=message.above + 1, epoch=5000, voters=node)
        self.hold(node, begun, serving=True)
        return Overridden(record=begun)


class World:
    def __init__(self) -> None:
        self.wire = Wire()
        self.catalogue = ModelCatalogue(*NODES)
        self.know(0)
        self.volumes = Volumes(self.wire, self.catalogue)  # type: ignore[arg-type]
        self.wire.hold("n1", record())

    def know(self, generation: int) -> None:
        self.catalogue.entries["data"] = CatalogueEntry(
            volume=VOLUME,
            name="data",
            size_bytes=MIB,
            replicas=2,
            nodes=["n1", "n2", "n3"],
            state="ready",
            generation=generation,
        )

    @property
    def generation(self) -> int:
        return self.catalogue.entries["data"].generation

    async def override(self, *lost: str, on: str = "n1", accept_loss: bool = False) -> ReplicaStatus:
        return await self.volumes.override("data", on, lost, "fire", accept_loss=accept_loss, timeout_s=2)

    async def refused(self, *lost: str, on: str = "n1", code: Code = Code.FAILED_PRECONDITION, **more: bool) -> str:
        with pytest.raises(StosError) as caught:
            await self.override(*lost, on=on, **more)
        assert caught.value.code is code
        assert caught.value.next_step and "volume data" in caught.value.message
        assert self.wire.overrides == [], "nobody was asked"
        return caught.value.message


@pytest.fixture
def world() -> World:
    return World()


# ---- what the entry says ------------------------------------------------------------------------------


def test_an_entry_without_an_override_is_read_by_a_version_from_before_generations(world: World) -> None:
    entry = world.catalogue.entries["data"]
    assert b"generation" not in encode_request(entry)
    risen = entry.model_copy(update={"generation": 2})
    assert CatalogueEntry.model_validate_json(encode_request(risen), strict=True) == risen


async def test_the_catalogue_never_lowers_a_generation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store itself, on a bucket that is a dictionary and that another writer changes between read and write."""
    old = world.catalogue.entries["data"]
    rival = old.model_copy(update={"generation": 3})
    content, conflicts = [encode_request(old)], [rival]

    async def get(store: CatalogueStore, key: str) -> tuple[bytes, int]:
        return content[-1], len(content)

    async def put(store: CatalogueStore, key: str, data: bytes, expected: int | None) -> bool:
        if conflicts:
            content.append(encode_request(conflicts.pop()))
        if expected != len(content):
            return False
        content.append(data)
        return True

    monkeypatch.setattr(nats_catalogue.CatalogueStore, "_get", get)
    monkeypatch.setattr(nats_catalogue.CatalogueStore, "_put", put)
    store: Any = CatalogueStore(None)  # type: ignore[arg-type]
    await store._update(old.model_copy(update={"state": "deleting", "generation": 1}), None)
    assert CatalogueEntry.model_validate_json(content[-1]) == rival.model_copy(update={"state": "deleting"})
    await store._update(old.model_copy(update={"generation": 4}), None)
    assert CatalogueEntry.model_validate_json(content[-1]).generation == 4


async def test_an_override_is_told_to_the_catalogue(world: World) -> None:
    status = await world.override("n2", "n3")
    assert (status.node, status.serving) == ("n1", True)
    assert world.generation == 1
    assert world.wire.overrides == [("n1", OverrideVolume(lost=["n2", "n3"], reason="fire"))]


async def test_a_generation_that_came_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what else changed in the entry since it was read."""
    update, before = world.catalogue.update, iter([StosError(Code.ABORTED, "it keeps changing")])

    async def contended(entry: CatalogueEntry) -> None:
        for error in before:
            world.catalogue.entries["data"] = entry.model_copy(update={"generation": 0, "labels": {"new": "one"}})
            raise error
        await update(entry)

    monkeypatch.setattr(world.catalogue, "update", contended)
    await world.override("n2", "n3")
    assert (world.generation, world.catalogue.entries["data"].labels) == (1, {"new": "one"})


async def test_a_newer_generation_is_not_lowered_by_who_is_late(world: World) -> None:
    old = world.catalogue.entries["data"]
    world.know(3)
    known = await note_generation(world.volumes._catalogue, old, 1, Deadline.after(1))
    assert (known.generation, world.generation) == (3, 3)
    assert world.catalogue.states == [], "nothing was written"


async def test_a_catalogue_that_could_not_be_told_is_told_by_the_same_command(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = world.catalogue.update

    async def older(entry: CatalogueEntry) -> None:
        raise StosError(Code.INVALID_ARGUMENT, "unknown field generation")

    monkeypatch.setattr(world.catalogue, "update", older)
    with pytest.raises(StosError, match="goes on in generation 1, and the catalogue could not be told") as caught:
        await world.override("n2", "n3")
    assert "repeat the command" in caught.value.next_step
    assert len(world.wire.overrides) == 1 and world.generation == 0
    monkeypatch.setattr(world.catalogue, "update", update)
    with pytest.raises(StosError, match="n1 leads the volume: nothing is lost"):
        await world.override("n2", "n3")
    assert len(world.wire.overrides) == 1 and world.generation == 1


# ---- who is believed ----------------------------------------------------------------------------------


async def test_who_serves_in_a_generation_that_is_over_is_not_found(world: World) -> None:
    """n2 and n3 were given up and are back; n1, which goes on, is away for now."""
    world.know(1)
    del world.wire.held["n1"]
    world.wire.hold("n2", record(epoch=9), serving=True)
    world.wire.hold("n3", record(epoch=9))
    with pytest.raises(StosError, match="n2: primary in epoch 9 of generation 0, which is over"):
        await world.volumes.attach("data", "n4", timeout_s=0.2)
    assert world.wire.attached == []
    assert (await world.volumes.get("data", timeout_s=0.1))[1] is None
    ((_, listed),) = await world.volumes.list(timeout_s=0.1)
    assert listed is None
    _, survey = await world.volumes.survey("data")
    assert (survey.serving, survey.newest) == (None, None)
    assert set(survey.statuses) == {"n2", "n3"}, "what they said is told all the same"

    world.wire.hold("n1", record(generation=1, epoch=2, voters="n1"), serving=True)
    attached = await world.volumes.attach("data", "n4", timeout_s=1)
    assert (attached.record.generation, world.wire.attached) == (1, ["n1"])
    ((_, listed),) = await world.volumes.list(timeout_s=0.1)
    assert listed is not None and listed.node == "n1"


async def test_the_copy_that_went_on_elsewhere_is_found_beside_the_old_generation(world: World) -> None:
    """None of the first voters' nodes is one of the new generation's."""
    world.know(1)
    for node in ("n1", "n2", "n3"):
        world.wire.hold(node, record(), serving=node == "n2")
    world.wire.hold("n4", record(generation=1, voters="n4"), serving=True)
    _, status = await world.volumes.get("data", timeout_s=1)
    assert status is not None and status.node == "n4"
    assert (await world.volumes.survey("data"))[1].serving == status
    ((_, listed),) = await world.volumes.list(timeout_s=1)
    assert listed == status


async def test_a_hint_leads_to_no_primary_of_a_generation_that_is_over(world: World) -> None:
    world.know(1)
    world.wire.late = 1
    world.wire.hold("n1", record(generation=1, voters="n1"), serving=True)
    world.wire.hold("n2", record(epoch=9), serving=True)
    await world.volumes.attach("data", "n4", timeout_s=2)
    assert world.wire.attached == ["n1"]


def test_a_tombstone_of_a_generation_that_is_over_does_not_end_the_volume() -> None:
    survey = Survey(generation=1)
    wire = Wire()
    for node in ("n2", "n3"):
        wire.hold(node, record().model_copy(update={"deleted": True}))
        survey.add(node, wire.held[node])
    survey.add("n1", unavailable("n1 does not answer"))
    assert not is_gone(survey, ["n1", "n2", "n3"])
    survey.generation = 0
    assert is_gone(survey, ["n1", "n2", "n3"])


# ---- what is refused before a voter is asked ----------------------------------------------------------


async def test_a_volume_that_is_served_is_not_lost(world: World) -> None:
    """By a node of which neither the catalogue nor the chosen copy knows."""
    world.wire.hold("n4", record(version=9, voters="n4"), serving=True)
    assert "n4 leads the volume: nothing is lost" in await world.refused("n2", "n3", accept_loss=True)


async def test_who_serves_in_an_older_generation_is_no_reason_against_it(world: World) -> None:
    world.know(1)
    world.wire.hold("n1", record(generation=1, voters="n1 n4"))
    world.wire.empty.clear()
    world.wire.hold("n2", record(), serving=True)
    assert "n3" in await world.refused("n4"), "n2's record names n3, which is silent"
    await world.override("n3", "n4")
    assert world.wire.overrides == [("n1", OverrideVolume(lost=["n4"], reason="fire", above=1))], "n3 is none of its"


async def test_another_node_has_a_newer_record(world: World) -> None:
    world.wire.hold("n2", record(version=8))
    assert "the copy on n1 is behind, n2 has a newer record" in await world.refused("n3")
    await world.override("n3", accept_loss=True)
    assert world.generation == 1


async def test_the_chosen_copy_is_of_a_generation_that_is_over(world: World) -> None:
    world.know(4)
    told = await world.refused("n2", "n3")
    assert "of generation 0, and generation 4 has begun" in told
    await world.override("n2", "n3", accept_loss=True)
    assert world.wire.overrides[0][1].above == 4, "it is no rival of the survivor of that one"
    assert world.generation == 5


@pytest.mark.parametrize("held", [record(), record(version=8, voters="n1 n2 n3 n4"), record(joining="n4")])
async def test_every_node_of_a_copy_answers_or_is_named(world: World, held: RecordModel) -> None:
    world.wire.empty.clear()
    world.wire.hold("n1", held)
    others = {member.node for member in (*held.voters, *held.joining)} - {"n1"}
    for node in sorted(others):
        assert f"silent, and not named as lost: {node}" in await world.refused(*(others - {node}))
    await world.override(*others)
    assert world.wire.overrides[0][1].lost == sorted({voter.node for voter in held.voters} - {"n1"})


async def test_a_member_that_only_another_record_names_counts(world: World) -> None:
    """n1 never heard of n4, on which n2's record, which is newer, has a copy."""
    world.wire.empty.clear()
    world.wire.hold("n2", record(version=8, voters="n1 n2 n4"))
    assert "silent, and not named as lost: n4" in await world.refused("n3", accept_loss=True)
    await world.override("n3", "n4", accept_loss=True)
    assert world.wire.overrides[0][1].lost == ["n3", "n4"]


async def test_who_is_named_and_answers_is_not_fenced(world: World) -> None:
    world.wire.hold("n3", record())
    assert "named as lost, and it answers with a copy: n3" in await world.refused("n2", "n3", accept_loss=True)


async def test_a_node_that_lost_its_copy_is_given_up(world: World) -> None:
    """It answers: without the volume, or with a disk that failed."""
    world.wire.empty.add("n2")
    world.wire.hold("n3", record(), failure="EIO")
    await world.override("n2", "n3")
    assert world.wire.overrides[0][1].lost == ["n2", "n3"]


async def test_a_node_without_a_copy_can_not_be_lost(world: World) -> None:
    told = await world.refused("n2", "n3", "n4")
    assert "no other copy of it is known there: n4 (they are on n2, n3)" in told
    assert "known there: n1" in await world.refused("n1", "n2", "n3")


async def test_the_chosen_node_has_to_answer_with_a_copy(world: World) -> None:
    assert "n4 holds no copy" in await world.refused("n2", on="n4", code=Code.NOT_FOUND)
    assert "n2 does not answer, and its copy is to go on" in await world.refused("n3", on="n2")
    world.wire.hold("n2", None)
    assert "n2 holds no copy" in await world.refused("n3", on="n2", code=Code.NOT_FOUND)


async def test_nothing_is_asked_while_the_nodes_are_not_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nodes() -> list[NodeEntry]:
        await asyncio.sleep(0)
        raise unavailable("the catalogue of volume data's nodes is away", "start it")

    monkeypatch.setattr(world.catalogue, "nodes", nodes)
    await world.refused("n2", "n3", code=Code.UNAVAILABLE)
