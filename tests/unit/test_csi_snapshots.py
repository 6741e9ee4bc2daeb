"""CSI's snapshots, and volumes that begin as one: what is answered, refused, and found again."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from services.csi import snapshot_names
from services.csi.controller import CAPABILITIES, Controller
from services.csi.pending import Pending
from stoscore.errors import Code, StosError
from stoscore.limits import valid_snapshot_name
from stoscore.messages import SnapshotClaim, SnapshotView, StampModel
from stoscore.proto import csi_pb2 as pb
from stoscore.units import GIB, MIB
from tests.support.csi import Context, MemoryVolumes, block, create_request, mounted

NOWHERE = "0" * 32


class Scene:
    def __init__(self) -> None:
        self.volumes = MemoryVolumes()
        self.controller = Controller(self.volumes, Pending(), request_timeout_s=5.0, volumes_max=0)

    async def volume(self, name: str = "source", size: int = GIB, **more: Any) -> str:
        answer = await self.controller.CreateVolume(create_request(name, size, **more), Context())
        return str(answer.volume.volume_id)

    async def snapshot(self, volume: str, name: str = "snap", **parameters: str) -> pb.Snapshot:
        request = pb.CreateSnapshotRequest(source_volume_id=volume, name=name, parameters=parameters)
        return (await self.controller.CreateSnapshot(request, Context())).snapshot

    async def delete(self, snapshot_id: str) -> None:
        await self.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=snapshot_id), Context())

    async def list(self, **filters: Any) -> tuple[list[str], str]:
        answer = await self.controller.ListSnapshots(pb.ListSnapshotsRequest(**filters), Context())
        return [entry.snapshot.snapshot_id for entry in answer.entries], answer.next_token

    async def get(self, snapshot_id: str) -> pb.Snapshot:
        return (await self.controller.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=snapshot_id), Context())).snapshot

    async def begin(
        self, name: str = "new", required: int = 0, limit: int = 0, snapshot: str = "", volume: str = "", **more: Any
    ) -> pb.Volume:
        request = create_request(name, required, limit, **more)
        if not required and not limit:
            request.ClearField("capacity_range")
        if snapshot:
            request.volume_content_source.snapshot.snapshot_id = snapshot
        if volume:
            request.volume_content_source.volume.volume_id = volume
        return (await self.controller.CreateVolume(request, Context())).volume

    async def code(self, call: Any) -> Code:
        with pytest.raises(StosError) as caught:
            await call
        return caught.value.code


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_is_offered() -> None:
    rpc = pb.ControllerServiceCapability.RPC
    assert {rpc.CREATE_DELETE_SNAPSHOT, rpc.LIST_SNAPSHOTS, rpc.GET_SNAPSHOT, rpc.CLONE_VOLUME} <= set(CAPABILITIES)


async def test_the_life_of_a_snapshot(scene: Scene) -> None:
    volume = await scene.volume()
    snapshot = await scene.snapshot(volume)
    assert snapshot.snapshot_id == f"{volume}.snap"
    assert (snapshot.source_volume_id, snapshot.size_bytes, snapshot.ready_to_use) == (volume, GIB, True)
    assert snapshot.creation_time.seconds > 1_000_000_000
    assert await scene.snapshot(volume) == snapshot, "again"
    assert await scene.get(snapshot.snapshot_id) == snapshot
    assert await scene.list() == ([snapshot.snapshot_id], "")
    await scene.delete(snapshot.snapshot_id)
    await scene.delete(snapshot.snapshot_id)
    assert await scene.list() == ([], "")
    assert scene.volumes.snapshots.claims == {}
    assert await scene.code(scene.get(snapshot.snapshot_id)) is Code.NOT_FOUND
    assert (await scene.snapshot(volume)).creation_time != snapshot.creation_time, "another one"


async def test_a_name_belongs_to_one_volume(scene: Scene) -> None:
    one, other = await scene.volume("one"), await scene.volume("other")
    await scene.snapshot(one)
    assert await scene.code(scene.snapshot(other)) is Code.ALREADY_EXISTS
    assert await scene.list(source_volume_id=other) == ([], "")
    await scene.delete(f"{other}.snap")
    assert await scene.list() == ([f"{one}.snap"], ""), "another volume's of that name stays"
    assert await scene.code(scene.snapshot(other)) is Code.ALREADY_EXISTS
    await scene.delete(f"{one}.snap")
    assert (await scene.snapshot(other)).source_volume_id == other


async def test_a_name_of_a_volume_that_is_gone_is_free(scene: Scene) -> None:
    one, other = await scene.volume("one"), await scene.volume("other")
    await scene.volumes.snapshots.claim(SnapshotClaim(snapshot="snap", volume=one))  # and nothing was taken
    await scene.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=one), Context())
    assert (await scene.snapshot(other)).source_volume_id == other
    gone = await scene.volume("gone")
    await scene.volumes.snapshots.claim(SnapshotClaim(snapshot="left", volume=gone))
    await scene.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=gone), Context())
    await scene.delete(f"{gone}.left")
    assert set(scene.volumes.snapshots.claims) == {"snap"}


async def test_while_it_is_deleted_it_is_not_made(scene: Scene) -> None:
    volume = await scene.volume()
    await scene.snapshot(volume)
    await scene.volumes.snapshots.claim(SnapshotClaim(snapshot="snap", volume=volume, stage="dropping"))
    assert await scene.code(scene.snapshot(volume)) is Code.ABORTED
    await scene.delete(f"{volume}.snap")
    await scene.snapshot(volume)


async def test_what_a_dead_instance_asked_for_comes_late(scene: Scene) -> None:
    """It had claimed the name, and died with its take on the way."""
    one, other = await scene.volume("one"), await scene.volume("other")
    snapshots, seen = scene.volumes.snapshots, StampModel(generation=0, epoch=1, version=1)
    await snapshots.claim(SnapshotClaim(snapshot="snap", volume=one))
    await scene.delete(f"{one}.snap")
    await scene.snapshot(other)
    with pytest.raises(StosError) as caught:
        await snapshots.take(one, "snap", since=seen)
    assert caught.value.code is Code.ABORTED
    assert await scene.list() == ([f"{other}.snap"], "")
    await scene.delete(f"{other}.snap")
    assert (await scene.snapshot(one)).source_volume_id == one, "who asks now has seen the fence"


async def test_what_is_taken_while_its_deletion_looks_goes_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, snapshots = await scene.volume(), scene.volumes.snapshots
    look, seen = snapshots.of, StampModel(generation=0, epoch=1, version=1)

    async def looked(of: str, **more: Any) -> tuple[SnapshotView, ...]:
        found = await look(of, **more)
        if not found:
            with contextlib.suppress(StosError):
                await snapshots.take(volume, "snap", since=seen)
        return found

    await snapshots.claim(SnapshotClaim(snapshot="snap", volume=volume))
    monkeypatch.setattr(snapshots, "of", looked)
    await scene.delete(f"{volume}.snap")
    assert not snapshots.views
    assert not snapshots.claims


async def test_a_release_that_comes_late_does_not_end_the_next_deletion(scene: Scene) -> None:
    volume, snapshots = await scene.volume(), scene.volumes.snapshots
    first = SnapshotClaim(snapshot="snap", volume=volume, stage="dropping", deletion="1")
    await snapshots.claim(first)
    await scene.delete(f"{volume}.snap")
    assert not snapshots.claims, "whoever comes next goes on with the deletion of a dead one"
    await scene.snapshot(volume)
    second = first.model_copy(update={"deletion": "2"})
    await snapshots.claim(second)
    await snapshots.release(first)
    assert snapshots.claims == {"snap": second}


async def test_a_deletion_that_another_instance_has_ended_leaves_what_was_taken_since(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await scene.volume()
    await scene.snapshot(volume)
    snapshots, here = scene.volumes.snapshots, scene.controller
    listed = snapshots.of

    async def late(volume: str, **waits: float) -> Any:
        monkeypatch.setattr(snapshots, "of", listed)
        scene.controller = Controller(scene.volumes, Pending(), request_timeout_s=5.0, volumes_max=0)
        await scene.delete(f"{volume}.snap")
        await scene.snapshot(volume)
        scene.controller = here
        return await listed(volume, **waits)

    monkeypatch.setattr(snapshots, "of", late)
    await scene.delete(f"{volume}.snap")
    assert await scene.list() == ([f"{volume}.snap"], "")


async def test_what_people_took_is_found_and_deleted(scene: Scene) -> None:
    volume = await scene.volume()
    await scene.volumes.snapshots.take(volume, "monday")
    assert await scene.list() == ([f"{volume}.monday"], "")
    assert (await scene.begin(snapshot=f"{volume}.monday")).capacity_bytes == GIB
    await scene.delete(f"{volume}.monday")
    assert await scene.list() == ([], "")


async def test_requests_that_make_no_sense(scene: Scene) -> None:
    volume = await scene.volume()
    for name in ("", "a" * 129, "a\x07b"):
        assert await scene.code(scene.snapshot(volume, name)) is Code.INVALID_ARGUMENT
    assert await scene.code(scene.snapshot("")) is Code.INVALID_ARGUMENT
    assert await scene.code(scene.snapshot("testId")) is Code.NOT_FOUND
    assert await scene.code(scene.snapshot(NOWHERE)) is Code.NOT_FOUND
    assert scene.volumes.snapshots.claims == {}, "nothing is claimed for a volume that is not there"
    assert await scene.code(scene.snapshot(volume, speed="high")) is Code.INVALID_ARGUMENT
    await scene.snapshot(volume, **{"csi.storage.k8s.io/volumesnapshot/name": "x"})
    assert await scene.code(scene.delete("")) is Code.INVALID_ARGUMENT
    for unknown in ("no", f"{volume}.", f"{volume}.-clone-x", f"{volume}.A", f"x.{volume}", f"{NOWHERE}.x"):
        await scene.delete(unknown)
        assert await scene.list(snapshot_id=unknown) == ([], "")
        assert await scene.code(scene.get(unknown)) is Code.NOT_FOUND
    assert await scene.code(scene.get("")) is Code.INVALID_ARGUMENT
    assert await scene.list(source_volume_id=NOWHERE) == ([], "")
    assert await scene.list(source_volume_id="x") == ([], "")
    assert await scene.code(scene.list(max_entries=-1)) is Code.INVALID_ARGUMENT
    for token in ("x", "after:", "after:a", "after:a/b", "after:a/b/../c", "after://", f"after:{'a' * 200}/a/a"):
        assert await scene.code(scene.list(starting_token=token)) is Code.ABORTED


@pytest.mark.parametrize("entries", [1, 2, 3, 5, 100])
async def test_pages_tell_everything_once(scene: Scene, entries: int) -> None:
    expected = []
    for name, count in (
        ("a", 3),
        ("b", 0),
        ("c", 1),
        ("d", 4),
        *((f"e{number:02d}", number % 2) for number in range(40)),
    ):
        volume = await scene.volume(name)
        for number in range(count):
            expected.append((await scene.snapshot(volume, f"{name}-{number}")).snapshot_id)
    found, token = await scene.list(max_entries=entries)
    pages = [found]
    while token:
        found, token = await scene.list(max_entries=entries, starting_token=token)
        pages.append(found)
    assert [one for page in pages for one in page] == expected
    assert all(len(page) == entries for page in pages[:-1])


async def test_a_page_goes_on_after_what_was_deleted(scene: Scene) -> None:
    a, b = await scene.volume("a"), await scene.volume("b")
    for volume, name in ((a, "a-1"), (a, "a-2"), (b, "b-1")):
        await scene.snapshot(volume, name)
    found, token = await scene.list(max_entries=1)
    assert found == [f"{a}.a-1"]
    for snapshot in (f"{a}.a-1", f"{a}.a-2"):
        await scene.delete(snapshot)
    await scene.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=a), Context())
    assert await scene.list(starting_token=token) == ([f"{b}.b-1"], "")


async def test_filters(scene: Scene) -> None:
    one, other = await scene.volume("one"), await scene.volume("other")
    for name in ("a", "b", "c"):
        await scene.snapshot(one, name)
    await scene.snapshot(other, "d")
    assert await scene.list(snapshot_id=f"{one}.b") == ([f"{one}.b"], "")
    found, token = await scene.list(source_volume_id=one, max_entries=2)
    assert found == [f"{one}.a", f"{one}.b"]
    assert await scene.list(source_volume_id=one, starting_token=token) == ([f"{one}.c"], "")
    assert await scene.list(source_volume_id=other, snapshot_id=f"{one}.b") == ([], "")


@pytest.mark.parametrize(
    "name", ["snapshot-1", "CreateSnapshot-1-2", "x" * 128, "Büro 7", "-a", "a-", "---", "0" * 64, "a.b/c"]
)
def test_a_name_is_one_that_a_volume_can_keep(name: str) -> None:
    made = snapshot_names.of_request(name)
    assert valid_snapshot_name(made)
    assert snapshot_names.of_id(f"{NOWHERE}.{made}") == (NOWHERE, made)
    assert made == snapshot_names.of_request(name)
    assert made != snapshot_names.of_request(name + "x" if len(name) < 128 else "y" * 128)


async def test_a_volume_begins_as_a_snapshot(scene: Scene) -> None:
    source = await scene.volume(size=320 * MIB)
    snapshot = await scene.snapshot(source)
    made = await scene.begin(snapshot=snapshot.snapshot_id)
    assert made.capacity_bytes == 320 * MIB, "without a range it has the size of its source"
    assert made.content_source.snapshot.snapshot_id == snapshot.snapshot_id
    assert made.volume_context["source"] == snapshot.snapshot_id
    assert await scene.begin(snapshot=snapshot.snapshot_id) == made, "again"
    assert (await scene.begin("larger", required=GIB, snapshot=snapshot.snapshot_id)).capacity_bytes == GIB
    assert (await scene.begin("least", required=MIB * 20, snapshot=snapshot.snapshot_id)).capacity_bytes == 320 * MIB
    assert await scene.code(scene.begin("small", limit=300 * MIB, snapshot=snapshot.snapshot_id)) is Code.OUT_OF_RANGE


async def test_a_volume_begins_as_another_one(scene: Scene) -> None:
    source = await scene.volume(size=320 * MIB)
    made = await scene.begin(volume=source)
    assert (made.capacity_bytes, made.content_source.volume.volume_id) == (320 * MIB, source)
    assert await scene.begin(volume=source) == made


async def test_a_source_that_is_not_there(scene: Scene) -> None:
    source = await scene.volume()
    for unknown in ("non-existing-snapshot-id", f"{source}.no", f"{NOWHERE}.x"):
        assert await scene.code(scene.begin(snapshot=unknown)) is Code.NOT_FOUND
    for unknown in ("no", NOWHERE):
        assert await scene.code(scene.begin(volume=unknown)) is Code.NOT_FOUND
    request = create_request("empty")
    request.volume_content_source.SetInParent()
    assert await scene.code(scene.controller.CreateVolume(request, Context())) is Code.INVALID_ARGUMENT


async def test_a_name_with_another_source_is_taken(scene: Scene) -> None:
    source, other = await scene.volume(), await scene.volume("other")
    snapshot = await scene.snapshot(source)
    await scene.begin(snapshot=snapshot.snapshot_id)
    assert await scene.code(scene.begin(volume=source)) is Code.ALREADY_EXISTS
    assert await scene.code(scene.begin(volume=other)) is Code.ALREADY_EXISTS
    assert await scene.code(scene.begin(required=GIB)) is Code.ALREADY_EXISTS
    assert await scene.code(scene.begin("other", volume=source)) is Code.ALREADY_EXISTS


async def test_what_was_made_is_found_when_its_source_is_gone(scene: Scene) -> None:
    source = await scene.volume()
    snapshot = await scene.snapshot(source)
    made = await scene.begin(required=GIB, snapshot=snapshot.snapshot_id)
    await scene.delete(snapshot.snapshot_id)
    await scene.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=source), Context())
    assert await scene.begin(required=GIB, snapshot=snapshot.snapshot_id) == made


async def test_the_file_system_is_that_of_the_source(scene: Scene) -> None:
    source = await scene.volume(capability=mounted("ext4"))
    assert await scene.code(scene.begin(volume=source, capability=mounted("xfs"))) is Code.INVALID_ARGUMENT
    await scene.begin(volume=source, capability=mounted("ext4"))
    await scene.begin("raw", volume=source, capability=block())


async def test_a_volume_with_snapshots_is_not_deleted(scene: Scene) -> None:
    volume = await scene.volume()
    snapshot = await scene.snapshot(volume)
    delete = pb.DeleteVolumeRequest(volume_id=volume)
    assert await scene.code(scene.controller.DeleteVolume(delete, Context())) is Code.FAILED_PRECONDITION
    await scene.delete(snapshot.snapshot_id)
    await scene.controller.DeleteVolume(delete, Context())
