"""Volumes from create to delete over model nodes: each step failing once, and every call repeated."""

from __future__ import annotations

import asyncio

import pytest

from stoscore.errors import Code, StosError, unavailable
from stoscore.messages import CatalogueEntry
from stoscore.units import GIB, MIB
from stoscore.volumes import Volumes
from tests.support.model_nodes import ModelCatalogue, ModelCluster, Switchboard


class World:
    def __init__(self, *names: str):
        self.cluster = ModelCluster(*names)
        self.bus = Switchboard(self.cluster)
        self.catalogue = ModelCatalogue(*names)
        self.volumes = Volumes(self.bus, self.catalogue)  # type: ignore[arg-type]

    def entry(self, name: str = "data") -> CatalogueEntry:
        return self.catalogue.entries[name]

    def fail(self, node: str, verb: str, *errors: StosError) -> None:
        self.cluster.refuse[node, verb] = list(errors)


@pytest.fixture
def world() -> World:
    return World("n1", "n2", "n3", "n4", "n5", "n6", "n7")


async def test_a_created_volume_serves_with_its_first_record(world: World) -> None:
    status = await world.volumes.create("data", GIB - 5, labels={"app": "db"})
    record = status.record
    assert record is not None
    assert status.serving
    assert (record.generation, record.epoch, record.version) == (0, 0, 1)
    assert [(voter.node, voter.kind) for voter in record.voters] == [
        ("n1", "data"),
        ("n2", "data"),
        ("n3", "data"),
    ]
    assert record.in_sync == record.voters
    assert record.attachment is None
    assert record.attach_epoch == 0
    assert record.primary is None
    assert record.size_bytes == GIB
    assert record.labels == {"app": "db"}
    assert world.entry().state == "ready"
    assert world.entry().volume == record.volume


@pytest.mark.parametrize("replicas", range(6))
async def test_an_even_number_of_copies_gets_a_witness_outside_the_in_sync_set(world: World, replicas: int) -> None:
    record = (await world.volumes.create("data", GIB, replicas=replicas)).record
    assert record is not None
    data = [voter for voter in record.voters if voter.kind == "data"]
    assert len(data) == replicas + 1
    assert record.in_sync == data
    assert len(record.voters) % 2 == 1


async def test_creating_again_gives_the_same_volume(world: World) -> None:
    first = await world.volumes.create("data", GIB)
    made = len([verb for _, verb in world.cluster.asked if verb == "create"])
    again = await world.volumes.create("data", GIB - 1)
    assert again.record == first.record
    assert len([verb for _, verb in world.cluster.asked if verb == "create"]) == made


@pytest.mark.parametrize(("size", "replicas"), [(2 * GIB, 2), (GIB, 1), (GIB + 1, 2)])
async def test_a_name_in_use_with_another_spec_is_refused(world: World, size: int, replicas: int) -> None:
    await world.volumes.create("data", GIB)
    with pytest.raises(StosError, match=r"exists with 1\.0 GiB") as caught:
        await world.volumes.create("data", size, replicas=replicas)
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_another_policy_is_another_volume(world: World) -> None:
    await world.volumes.create("data", GIB, failure_mode="soft")
    with pytest.raises(StosError, match="failure mode soft"):
        await world.volumes.create("data", GIB)


async def test_a_changed_policy_does_not_make_its_create_fail_when_it_is_repeated(world: World) -> None:
    """CSI repeats a CreateVolume whenever it likes."""
    made = await world.volumes.create("data", GIB)
    await world.volumes.set_policy("data", replicas=1, failure_mode="hard")
    again = await world.volumes.create("data", GIB)
    assert made.record is not None and again.record is not None
    assert again.record.volume == made.record.volume
    assert (again.record.replicas, again.record.failure_mode) == (1, "hard")


async def test_a_volume_whose_first_voters_were_all_replaced_is_found(world: World) -> None:
    await world.volumes.create("data", GIB)
    volume = (await world.catalogue.by_name("data")).volume
    nodes = world.cluster.nodes
    spare = [name for name in nodes if volume not in nodes[name].replicas]
    assert spare
    record = world.cluster.record(volume)
    (voter,) = [record.voters[0].model_copy(update={"node": spare[0]})]
    moved = record.model_copy(update={"voters": [voter], "in_sync": [voter], "primary": voter})
    held = nodes[record.voters[0].node].replicas[volume]
    for node in nodes.values():
        node.replicas.pop(volume, None)
    held.record = moved
    nodes[spare[0]].replicas[volume] = held
    _, status = await world.volumes.get("data")
    assert status is not None and status.node == spare[0]
    _, survey = await world.volumes.survey("data")
    assert survey.serving is not None
    await world.volumes.delete("data")
    assert volume not in nodes[spare[0]].replicas, "it is not taken for gone"


async def test_two_creates_at_once_make_one_volume(world: World) -> None:
    one, two = await asyncio.gather(world.volumes.create("data", GIB), world.volumes.create("data", GIB))
    assert one.record == two.record
    assert sum(len(node.replicas) for node in world.cluster.nodes.values()) == 3


async def test_a_refused_ranking_leaves_nothing(world: World) -> None:
    world.bus.rank_errors = [StosError(Code.RESOURCE_EXHAUSTED, "no room")]
    with pytest.raises(StosError, match="no room"):
        await world.volumes.create("data", GIB)
    assert world.catalogue.entries == {}
    assert world.cluster.asked == []


@pytest.mark.parametrize("verb", ["create", "found"])
async def test_a_step_that_fails_for_a_moment_is_repeated(world: World, verb: str) -> None:
    world.fail("n2", verb, unavailable("busy"), unavailable("busy"))
    assert (await world.volumes.create("data", GIB)).serving
    assert world.entry().state == "ready"


async def test_a_dead_node_leaves_an_entry_that_a_later_create_finishes(world: World) -> None:
    world.cluster.nodes["n2"].up = False
    with pytest.raises(StosError, match="node n2") as caught:
        await world.volumes.create("data", GIB, timeout_s=0.2)
    assert caught.value.code is Code.UNAVAILABLE
    assert "stos volume rm data" in caught.value.next_step
    begun = world.entry()
    assert begun.state == "creating"

    world.cluster.nodes["n2"].up = True
    status = await world.volumes.create("data", GIB)
    assert status.record is not None
    assert status.record.volume == begun.volume
    assert [voter.node for voter in status.record.voters] == begun.nodes


async def test_an_error_that_no_retry_changes_comes_at_once(world: World) -> None:
    world.fail("n3", "create", StosError(Code.RESOURCE_EXHAUSTED, "disk full"))
    with pytest.raises(StosError, match="node n3: disk full") as caught:
        await asyncio.wait_for(world.volumes.create("data", GIB, timeout_s=30), 2)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.details["node"] == "n3"


async def test_a_volume_founded_in_part_is_finished_with_its_first_record(world: World) -> None:
    world.fail("n3", "found", *[unavailable("away")] * 100)
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.2)
    first = world.cluster.record(world.entry().volume)
    world.cluster.refuse.clear()
    assert (await world.volumes.create("data", GIB)).record == first


async def test_a_volume_that_elected_without_its_last_voter_is_finished(world: World) -> None:
    """The majority went on to epoch 1 meanwhile; the last voter still gets the first record, of epoch 0."""
    world.fail("n3", "found", *[unavailable("away")] * 100)
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.2)
    volume = world.entry().volume
    elected = world.cluster.record(volume).model_copy(update={"epoch": 1, "version": 2})
    for node in ("n1", "n2"):
        world.cluster.nodes[node].replicas[volume].record = elected
    world.cluster.refuse.clear()
    assert (await world.volumes.create("data", GIB)).record == elected
    last = world.cluster.nodes["n3"].replicas[volume].record
    assert last is not None
    assert (last.epoch, last.version, last.voters) == (0, 1, elected.voters)


async def test_a_voter_lost_in_mid_create_is_not_founded_twice(world: World) -> None:
    world.fail("n3", "found", *[unavailable("away")] * 100)
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.2)
    world.cluster.refuse.clear()
    world.cluster.nodes["n2"].replicas.clear()
    with pytest.raises(StosError, match="lost now") as caught:
        await world.volumes.create("data", GIB)
    assert caught.value.code is Code.FAILED_PRECONDITION
    held = world.cluster.nodes["n3"].replicas[world.entry().volume]
    assert held.record is None


async def test_a_half_made_volume_can_not_be_attached(world: World) -> None:
    world.cluster.nodes["n2"].up = False
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.1)
    with pytest.raises(StosError, match="not complete") as caught:
        await world.volumes.attach("data", "n1")
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_deleting_a_half_made_volume_leaves_nothing(world: World) -> None:
    world.fail("n2", "create", *[unavailable("away")] * 100)
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.1)
    assert await world.volumes.delete("data")
    assert world.catalogue.entries == {}
    assert not any(node.replicas for node in world.cluster.nodes.values())


async def test_deleting_a_half_made_volume_waits_for_a_node_that_may_hold_a_part(world: World) -> None:
    world.fail("n3", "create", *[unavailable("away")] * 100)
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.1)
    world.cluster.nodes["n2"].up = False
    with pytest.raises(StosError, match="n2") as caught:
        await world.volumes.delete("data", timeout_s=0.1)
    assert caught.value.code is Code.UNAVAILABLE
    assert world.entry().state == "deleting"
    with pytest.raises(StosError, match="being deleted") as caught:
        await world.volumes.create("data", GIB)
    assert caught.value.code is Code.ABORTED

    world.cluster.nodes["n2"].up = True
    assert await world.volumes.delete("data")
    assert not any(node.replicas for node in world.cluster.nodes.values())


@pytest.mark.parametrize("founded", [1, 2])
async def test_deleting_a_volume_founded_in_part_leaves_nothing(world: World, founded: int) -> None:
    for node in ("n1", "n2", "n3")[founded:]:
        world.fail(node, "found", *[unavailable("away")] * 100)
    with pytest.raises(StosError):
        await world.volumes.create("data", GIB, timeout_s=0.1)
    world.cluster.refuse.clear()
    assert await world.volumes.delete("data")
    assert world.catalogue.entries == {}
    assert not any(node.replicas for node in world.cluster.nodes.values())


async def test_a_delete_during_a_create_wins_and_nothing_is_left(world: World) -> None:
    held = asyncio.Event()
    original = world.cluster.answer

    async def slow(node: str, verb: str, message: object) -> object:
        if (node, verb) == ("n3", "create"):
            await held.wait()
        return await original(node, verb, message)

    world.cluster.answer = slow  # type: ignore[method-assign,assignment]
    creating = asyncio.create_task(world.volumes.create("data", GIB))
    await asyncio.sleep(0.02)
    assert await world.volumes.delete("data")
    held.set()
    with pytest.raises(StosError, match="being deleted"):
        await creating
    assert world.catalogue.entries == {}
    assert not any(node.replicas for node in world.cluster.nodes.values())


async def test_delete_frees_the_name_and_is_idempotent(world: World) -> None:
    first = await world.volumes.create("data", GIB)
    assert await world.volumes.delete("data")
    assert not await world.volumes.delete("data")
    assert not any(node.replicas for node in world.cluster.nodes.values())
    again = await world.volumes.create("data", 2 * GIB)
    assert first.record is not None
    assert again.record is not None
    assert again.record.volume != first.record.volume


async def test_a_delete_that_stopped_before_the_catalogue_is_finished(world: World) -> None:
    await world.volumes.create("data", GIB)
    for node in world.cluster.nodes.values():
        node.replicas.clear()
    assert await world.volumes.delete("data", timeout_s=1)
    assert world.catalogue.entries == {}


async def test_an_attached_volume_is_not_deleted(world: World) -> None:
    await world.volumes.create("data", GIB)
    await world.volumes.attach("data", "n5")
    with pytest.raises(StosError, match="n5") as caught:
        await world.volumes.delete("data")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert world.entry().state == "ready"
    await world.volumes.detach("data", "n4")
    with pytest.raises(StosError):
        await world.volumes.delete("data")
    await world.volumes.detach("data")
    assert await world.volumes.delete("data")


async def test_a_delete_without_a_majority_is_refused_and_changes_nothing(world: World) -> None:
    await world.volumes.create("data", GIB)
    for node in ("n1", "n2"):
        world.cluster.nodes[node].up = False
    with pytest.raises(StosError) as caught:
        await world.volumes.delete("data", timeout_s=0.1)
    assert caught.value.code is Code.UNAVAILABLE
    assert world.entry().state == "ready"


async def test_attach_open_and_close_by_name_and_by_id(world: World) -> None:
    status = await world.volumes.create("data", GIB)
    assert status.record is not None
    attached = await world.volumes.attach("data", "n5")
    again = await world.volumes.attach(status.record.volume, "n5")
    assert again.attach_epoch == attached.attach_epoch == 1
    opened = await world.volumes.open_frontend("data", "n5", attached=attached)
    assert opened == await world.volumes.open_frontend("data", "n5")
    assert opened.uri.startswith("nbd+unix:///data?socket=")
    with pytest.raises(StosError, match="attached to n5, not to n4") as caught:
        await world.volumes.open_frontend("data", "n4")
    assert caught.value.code is Code.FAILED_PRECONDITION
    await world.volumes.close_frontend("data", "n5")
    await world.volumes.close_frontend("data", "n5")
    assert world.cluster.nodes["n5"].frontends == {}


@pytest.mark.parametrize(
    ("volume", "node", "code"),
    [
        ("none", "n1", Code.NOT_FOUND),
        ("f" * 32, "n1", Code.NOT_FOUND),
        ("data", "n9", Code.NOT_FOUND),
        ("data", "N 1", Code.INVALID_ARGUMENT),
        ("da ta", "n1", Code.INVALID_ARGUMENT),
    ],
)
async def test_attaching_what_does_not_exist(world: World, volume: str, node: str, code: Code) -> None:
    await world.volumes.create("data", GIB)
    with pytest.raises(StosError) as caught:
        await world.volumes.attach(volume, node, timeout_s=1)
    assert caught.value.code is code


async def test_attached_elsewhere_names_the_node(world: World) -> None:
    await world.volumes.create("data", GIB)
    await world.volumes.attach("data", "n5")
    with pytest.raises(StosError, match="n5") as caught:
        await world.volumes.attach("data", "n6")
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_a_primary_that_dies_is_searched_again(world: World) -> None:
    await world.volumes.create("data", GIB)
    world.fail("n1", "attach", StosError(Code.DEADLINE_EXCEEDED, "died"))
    original = world.cluster.answer_volume

    async def dying(node: str, volume: str, verb: str, message: object) -> object:
        if node == "n1":
            world.cluster.nodes["n1"].up = False
        return await original(node, volume, verb, message)

    world.cluster.answer_volume = dying  # type: ignore[method-assign,assignment]
    attached = await world.volumes.attach("data", "n5", timeout_s=5)
    assert attached.attach_epoch == 1
    assert world.cluster.asked[-1] == ("n2", "attach")


async def test_a_hint_leads_to_a_primary_that_the_catalogue_does_not_know(world: World) -> None:
    await world.volumes.create("data", GIB)
    stale = world.entry().model_copy(update={"nodes": ["n3"]})
    world.catalogue.entries["data"] = stale
    _, status = await world.volumes.get("data")
    assert status is not None
    assert status.node == "n1"


async def test_unavailable_volumes_are_listed_too(world: World) -> None:
    await world.volumes.create("b", MIB)
    await world.volumes.create("a", MIB, replicas=0)
    world.cluster.nodes["n1"].up = False
    found = await world.volumes.list(timeout_s=0.1)
    assert [(entry.name, status.node if status else None) for entry, status in found] == [
        ("a", None),
        ("b", "n2"),
    ]
    entry, survey = await world.volumes.survey("b")
    assert entry.name == "b"
    assert set(survey.statuses) == {"n2", "n3"}
    assert set(survey.silent) == {"n1"}


async def test_a_page_costs_one_question_to_each_node(world: World) -> None:
    for name in ("a", "b", "c", "d"):
        await world.volumes.create(name, MIB)
    world.cluster.asked.clear()
    rows, following = await world.volumes.page("", 3)
    assert [entry.name for entry, _ in rows] == ["a", "b", "c"]
    assert all(survey.serving for _, survey in rows)
    assert sorted(world.cluster.asked) == [(node, "describe-all") for node in ("n1", "n2", "n3")]
    rows, following = await world.volumes.page(following, 3)
    assert ([entry.name for entry, _ in rows], following) == (["d"], "")


async def test_a_list_hears_of_each_volume_from_its_primary_alone(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.volumes.create(name, MIB)
    world.cluster.asked.clear()
    found = await world.volumes.list()
    assert [(entry.name, status and status.serving) for entry, status in found] == [
        ("a", True),
        ("b", True),
        ("c", True),
    ]
    assert sorted(world.cluster.asked) == [(node, "describe-all") for node in ("n1", "n2", "n3")]
    assert len(world.cluster.described) == 3


async def test_a_list_waits_once_for_a_node_that_is_silent(world: World) -> None:
    await world.volumes.create("a", MIB, replicas=0)
    await world.volumes.create("b", MIB)
    world.cluster.nodes["n1"].up = False
    world.cluster.asked.clear()
    await world.volumes.list()
    assert world.cluster.asked.count(("n1", "describe-all")) == 1


async def test_a_volume_whose_first_voters_were_all_replaced_is_listed(world: World) -> None:
    """Its first nodes hold nothing of it: who does is asked of everybody."""
    status = await world.volumes.create("data", MIB, replicas=0)
    assert status.record is not None
    nodes, volume = world.cluster.nodes, status.record.volume
    held = nodes["n1"].replicas.pop(volume)
    voter = status.record.voters[0].model_copy(update={"node": "n5"})
    held.record = status.record.model_copy(update={"voters": [voter], "in_sync": [voter], "primary": voter})
    nodes["n5"].replicas[volume] = held
    assert [(entry.name, status and status.node) for entry, status in await world.volumes.list()] == [("data", "n5")]


async def test_attachments_of_a_node_are_counted(world: World) -> None:
    for name in ("a", "b", "c"):
        status = await world.volumes.create(name, MIB)
        assert status.record is not None
        if name != "c":
            await world.volumes.attach(status.record.volume, "n1")
    assert await world.volumes.attached_to("n1") == 2
    assert await world.volumes.attached_to("n2") == 0


async def test_where_copies_are_wanted_reaches_placement(world: World) -> None:
    await world.volumes.create("a", MIB, labels={"stos.dev/apart": "zone"}, near="n2")
    (asked,) = world.bus.ranked
    assert (asked.apart, asked.near) == ("zone", "n2")
    with pytest.raises(StosError):
        await world.volumes.create("b", MIB, labels={"stos.dev/apart": "continent"})


async def test_a_volume_grows_to_whole_mib_and_its_frontend_learns_it(world: World) -> None:
    status = await world.volumes.create("a", MIB)
    assert status.record is not None
    volume = status.record.volume
    for _ in range(2):
        assert (await world.volumes.expand(volume, 3 * MIB - 1)).size_bytes == 3 * MIB
    assert (await world.volumes.expand(volume, MIB)).size_bytes == 3 * MIB
    assert (await world.volumes.create("a", MIB)).record is not None  # what it was made as is remembered
    for impossible in (0, -1, (64 << 40) + 1):
        with pytest.raises(StosError) as caught:
            await world.volumes.expand(volume, impossible)
        assert caught.value.code is Code.OUT_OF_RANGE
    with pytest.raises(StosError) as caught:
        await world.volumes.expand("0" * 32, MIB)
    assert caught.value.code is Code.NOT_FOUND
