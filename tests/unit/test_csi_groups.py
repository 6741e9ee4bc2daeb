"""CSI's group snapshots: what is answered, refused, listed and deleted."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from services.csi.controller import Controller
from services.csi.group_controller import GroupController
from services.csi.pending import Pending
from stoscore.errors import Code, StosError
from stoscore.limits import GROUP_VOLUMES_MAX
from stoscore.proto import csi_pb2 as pb
from stoscore.units import GIB
from tests.support.csi import Context, MemoryVolumes, create_request

NOWHERE = "0" * 32


class Scene:
    def __init__(self) -> None:
        self.volumes = MemoryVolumes()
        self.controller = Controller(self.volumes, Pending(), request_timeout_s=5.0, volumes_max=0)
        self.another_instance()

    def another_instance(self) -> None:
        self.groups = GroupController(self.volumes, Pending(), request_timeout_s=5.0)

    async def volume(self, name: str) -> str:
        return str((await self.controller.CreateVolume(create_request(name, GIB), Context())).volume.volume_id)

    async def take(self, *volumes: str, name: str = "nightly", **parameters: str) -> pb.VolumeGroupSnapshot:
        request = pb.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=volumes, parameters=parameters)
        return (await self.groups.CreateVolumeGroupSnapshot(request, Context())).group_snapshot

    async def get(self, group: str, *snapshots: str) -> pb.VolumeGroupSnapshot:
        request = pb.GetVolumeGroupSnapshotRequest(group_snapshot_id=group, snapshot_ids=snapshots)
        return (await self.groups.GetVolumeGroupSnapshot(request, Context())).group_snapshot

    async def delete(self, group: str, *snapshots: str) -> None:
        request = pb.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=group, snapshot_ids=snapshots)
        await self.groups.DeleteVolumeGroupSnapshot(request, Context())

    async def listed(self) -> dict[str, str]:
        answer = await self.controller.ListSnapshots(pb.ListSnapshotsRequest(), Context())
        return {entry.snapshot.snapshot_id: entry.snapshot.group_snapshot_id for entry in answer.entries}


async def refused(call: Awaitable[Any], code: Code) -> StosError:
    with pytest.raises(StosError) as caught:
        await call
    assert caught.value.code is code
    return caught.value


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_the_same_call_is_the_same_group_whichever_instance_answers(scene: Scene) -> None:
    one, two = await scene.volume("one"), await scene.volume("two")
    made = await scene.take(one, two)
    assert made.ready_to_use and made.HasField("creation_time")
    assert {snapshot.source_volume_id for snapshot in made.snapshots} == {one, two}
    assert {snapshot.group_snapshot_id for snapshot in made.snapshots} == {made.group_snapshot_id}
    scene.another_instance()
    assert await scene.take(two, one, two) == made
    assert await scene.get(made.group_snapshot_id) == made
    ids = [snapshot.snapshot_id for snapshot in made.snapshots]
    assert await scene.get(made.group_snapshot_id, *ids) == made
    assert await scene.listed() == dict.fromkeys(ids, made.group_snapshot_id)


async def test_another_group_under_the_name_is_refused(scene: Scene) -> None:
    one, two = await scene.volume("one"), await scene.volume("two")
    await scene.take(one, two)
    await refused(scene.take(one), Code.ALREADY_EXISTS)


async def test_deleted_as_a_whole_and_only_so(scene: Scene) -> None:
    one, two = await scene.volume("one"), await scene.volume("two")
    made = await scene.take(one, two)
    part = made.snapshots[0].snapshot_id
    delete = scene.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=part), Context())
    error = await refused(delete, Code.INVALID_ARGUMENT)
    assert "group" in error.message
    await refused(scene.delete(made.group_snapshot_id, part), Code.INVALID_ARGUMENT)
    await refused(scene.get(made.group_snapshot_id, part, f"{NOWHERE}.x"), Code.INVALID_ARGUMENT)
    for _ in range(2):
        await scene.delete(made.group_snapshot_id, *(snapshot.snapshot_id for snapshot in made.snapshots))
    await refused(scene.get(made.group_snapshot_id), Code.NOT_FOUND)
    assert await scene.listed() == {}


async def test_a_late_deletion_leaves_what_was_taken_again(scene: Scene) -> None:
    one = await scene.volume("one")
    first = await scene.take(one)
    await scene.delete(first.group_snapshot_id)
    again = await scene.take(one)
    await scene.delete(first.group_snapshot_id)
    assert await scene.get(again.group_snapshot_id) == again


async def test_what_is_not_complete_is_not_there(scene: Scene) -> None:
    one = await scene.volume("one")
    made = await scene.take(one)
    (claim,) = scene.volumes.groups.claims.values()
    part = made.snapshots[0].snapshot_id
    for there in ({"stage": "taking"}, {"attempt": "f" * 16}):
        scene.volumes.groups.claims["nightly"] = claim.model_copy(update=there)
        assert await scene.listed() == {}
        get = scene.controller.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=part), Context())
        await refused(get, Code.NOT_FOUND)
    await scene.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=part), Context())
    scene.volumes.groups.claims["nightly"] = claim
    assert await scene.listed() == {}, "what no group was made of could be deleted"


@pytest.mark.parametrize("name", ["", "n" * 129, "a\nb"])
async def test_names_that_can_not_be(scene: Scene, name: str) -> None:
    await refused(scene.take(await scene.volume("one"), name=name), Code.INVALID_ARGUMENT)


async def test_any_printable_name_is_possible(scene: Scene) -> None:
    one = await scene.volume("one")
    made = [await scene.take(one, name=name) for name in ("groupsnapshot-6F0c", "a/../b", "Ω" * 60, "a" * 64)]
    assert len({group.group_snapshot_id for group in made}) == 4
    for group in made:
        assert await scene.get(group.group_snapshot_id) == group


async def test_volumes_that_can_not_be(scene: Scene) -> None:
    await refused(scene.take(), Code.INVALID_ARGUMENT)
    await refused(scene.take(""), Code.INVALID_ARGUMENT)
    for unknown in ("nothing like an id", "*", "../x", NOWHERE):
        await refused(scene.take(await scene.volume("one"), unknown), Code.NOT_FOUND)
    many = [f"{number:032x}" for number in range(GROUP_VOLUMES_MAX + 1)]
    await refused(scene.take(*many), Code.INVALID_ARGUMENT)


async def test_a_group_class_has_no_parameters(scene: Scene) -> None:
    one = await scene.volume("one")
    await refused(scene.take(one, colour="blue"), Code.INVALID_ARGUMENT)
    await scene.take(one, **{"csi.storage.k8s.io/volumegroupsnapshot/name": "nightly"})


@pytest.mark.parametrize(
    "group", ["nothing", "a.b", "*.0123456789abcdef", "../x", "x" * 5000, "nightly.0123456789abcdef"]
)
async def test_ids_that_none_has(scene: Scene, group: str) -> None:
    await refused(scene.get(group), Code.NOT_FOUND)
    await scene.delete(group)


async def test_no_id(scene: Scene) -> None:
    await refused(scene.get(""), Code.INVALID_ARGUMENT)
    await refused(scene.delete(""), Code.INVALID_ARGUMENT)
