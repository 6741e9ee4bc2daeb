"""Members that are made for a volume that exists: where they come from, and what becomes of those that nobody names."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from services.replica.brain import Record, Timing, Voter
from services.replica.brain import events as ev
from services.replica.clock import boot_time_ns
from services.replica.driver import DropHome, FindHome, Node
from services.replica.homes import Homes
from services.replica.peers import PeerNetwork
from services.replica.replicas import Replicas
from services.replica.settings import ReplicaSettings
from services.replica.shell import Shell
from services.replica.store import BlockStore, FileStoreFactory
from services.replica.unfounded import Unfounded
from stoscore.errors import Code, StosError
from stoscore.messages import CreateReplica
from stoscore.units import MIB
from stoscore.volumes import Volumes
from tests.support.model_nodes import ModelCatalogue, ModelCluster, Switchboard
from tests.support.replicas import CLEAN

VOLUME = "ab" * 16


# ---- asking for a home -------------------------------------------------------------------------------------


@dataclass
class Voting:
    """A brain, as far as a search for a home looks at it."""

    record: Record | None = None


@dataclass
class Hosted:
    brain: Voting = field(default_factory=Voting)


@dataclass
class Told:
    """A node that keeps what its brains are told."""

    volumes: dict[str, object] = field(default_factory=lambda: {VOLUME: Hosted()})
    events: list[ev.Event] = field(default_factory=list)

    def ask(self, volume: str, event: ev.Event, now_ns: int) -> None:
        assert volume == VOLUME
        self.events.append(event)


async def found(cluster: ModelCluster, *, kind: str = "data", told: Told | None = None) -> list[ev.Event]:
    """What the brain hears when it asks for a home beside n1 and n2."""
    told = told or Told()
    settled = asyncio.Event()
    homes = Homes(cast(Node, told), cast(Any, Switchboard(cluster)), settled.set)
    asked = ev.AskHome(cast(Any, kind), "data", 16 * MIB, ("n1", "n2"), ())
    homes.find(FindHome(VOLUME, asked))
    while homes._tasks:
        await asyncio.sleep(0)
    assert settled.is_set() or not told.events
    return told.events


async def test_the_first_node_that_placement_chooses_makes_the_member() -> None:
    cluster = ModelCluster("n1", "n2", "n3", "n4")
    (event,) = await found(cluster)
    made = cluster.nodes["n3"].replicas[VOLUME]
    assert event == ev.HomeFound(Voter("n3", made.incarnation), ("n4: not needed",))
    (witness,) = await found(ModelCluster("n1", "n2", "n3"), kind="witness")
    assert isinstance(witness, ev.HomeFound) and witness.home.kind == "witness"


async def test_a_node_that_refuses_is_passed_over() -> None:
    cluster = ModelCluster("n1", "n2", "n3", "n4")
    cluster.refuse["n3", "create"] = [StosError(Code.RESOURCE_EXHAUSTED, "the disk is full")]
    (event,) = await found(cluster)
    assert isinstance(event, ev.HomeFound)
    assert (event.home.node, event.others) == ("n4", ("n3: the disk is full",))


async def test_without_a_node_the_brain_is_told_so_and_whether_asking_somebody_else_would_help() -> None:
    (full,) = await found(ModelCluster("n1", "n2"))
    assert isinstance(full, ev.HomeRefused) and full.full
    cluster = ModelCluster("n1", "n2", "n3", "n4", "n5", "n6")
    for node in ("n3", "n4", "n5"):
        cluster.nodes[node].up = False
    (away,) = await found(cluster)
    assert isinstance(away, ev.HomeRefused) and not away.full
    assert ("n6", "create") not in cluster.asked, "three nodes are tried; the next ones after a pause"


async def test_what_was_made_for_a_volume_that_is_gone_is_taken_back() -> None:
    cluster = ModelCluster("n1", "n2", "n3")
    assert await found(cluster, told=Told(volumes={})) == []
    assert VOLUME not in cluster.nodes["n3"].replicas


async def test_a_home_that_is_not_needed_is_removed_unless_a_record_names_it() -> None:
    cluster = ModelCluster("n1", "n2", "n3")
    (event,) = await found(cluster)
    assert isinstance(event, ev.HomeFound)
    homes = Homes(cast(Node, Told()), cast(Any, Switchboard(cluster)), lambda: None)
    homes.drop(DropHome(VOLUME, Voter("n3", "ff" * 8)))
    homes.drop(DropHome(VOLUME, event.home))
    while homes._tasks:
        await asyncio.sleep(0)
    assert VOLUME not in cluster.nodes["n3"].replicas
    assert cluster.asked.count(("n3", "remove")) == 2


# ---- the node that makes it --------------------------------------------------------------------------------


class Around:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class Nowhere:
    def send(self, peer: str, *parts: bytes) -> bool:
        return False


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    """The real directories of node n3."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("boot")
    settings = ReplicaSettings(node="n3", data_dir=tmp_path, boot_id_file=boot_id)
    node = Node("n3", Timing(), 1, lambda volume: CLEAN, boot_time_ns())
    shell = Shell(node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), asyncio.get_running_loop())
    with ThreadPoolExecutor(2) as pool:
        kept = Replicas(settings, "c", FileStoreFactory(), node, shell, pool)
        await kept.open_all()
        yield kept
        await kept.close_all()


def request(**changes: Any) -> CreateReplica:
    return CreateReplica(**{"volume": VOLUME, "name": "data", "size_bytes": 16 * MIB, "joins": True} | changes)


def found_it(replicas: Replicas, incarnation: str) -> None:
    me = Voter("n3", incarnation)
    record = Record(VOLUME, "data", 16 * MIB, 0, (me,), (me,))
    replicas._node.ask(VOLUME, ev.Founded(record), boot_time_ns())


async def test_a_member_is_made_once_and_an_earlier_one_does_not_join_again(replicas: Replicas) -> None:
    made = await replicas.create(request())
    assert await replicas.create(request()) == made
    with pytest.raises(StosError, match="is no witness"):
        await replicas.create(request(kind="witness"))
    found_it(replicas, made)
    assert await replicas.create(request(joins=False)) == made, "a create that is repeated"
    with pytest.raises(StosError, match="has member"):
        await replicas.create(request())


async def test_where_an_earlier_member_is_being_removed_none_is_made_before_its_disk_has_answered(
    replicas: Replicas,
) -> None:
    await replicas.create(request())
    hosted, disk, answered = replicas._shell.hosted.pop(VOLUME), threading.Event(), list[str]()
    replicas._node.forget(VOLUME)
    hosted.run(disk.wait, lambda failure: answered.append("mark"))
    removed = asyncio.create_task(replicas.remove(hosted))
    with pytest.raises(StosError, match="is not yet removed here") as refused:
        await replicas.create(request())
    assert refused.value.code is Code.UNAVAILABLE
    disk.set()
    await removed
    assert answered == ["mark"]
    await replicas.create(request())


async def test_p3_no_voters_silence_begins_before_all_are_open(tmp_path: Path, replicas: Replicas) -> None:
    """Links come up only then: who was silent for long enough before would stand though somebody leads."""
    volumes = [f"{number:032x}" for number in range(5)]
    for volume in volumes:
        await replicas.create(request(volume=volume, size_bytes=4 * MIB))
    await replicas.close_all()
    shell = Shell(replicas._node, cast(PeerNetwork, Nowhere()), cast(Any, Around()), asyncio.get_running_loop())
    hosted: list[int] = []

    class Looking(FileStoreFactory):
        def open(self, directory: Path, *, cluster: str, boot_id: str, volume: str | None = None) -> BlockStore:
            hosted.append(len(shell.hosted))
            return super().open(directory, cluster=cluster, boot_id=boot_id, volume=volume)

    again = Replicas(replicas._settings, "c", Looking(), replicas._node, shell, replicas._pool)
    await again.open_all()
    assert hosted == [0] * len(volumes)
    assert list(shell.hosted) == volumes
    await again.close_all()


async def test_i1_no_member_is_made_beside_a_directory_that_can_not_be_read(tmp_path: Path, replicas: Replicas) -> None:
    """The copy in it may be the last one; under another incarnation it would be lost for good."""
    directory = tmp_path / "replicas" / VOLUME
    directory.mkdir()
    (directory / "format.json").write_text("{")
    await replicas._open(directory)
    with pytest.raises(StosError, match="this node's copy is broken") as refused:
        await replicas.create(request())
    assert refused.value.code is Code.DATA_LOSS
    assert [path.name for path in directory.iterdir()] == ["format.json"]


# ---- members that no record names --------------------------------------------------------------------------


class Made:
    """A volume of model nodes, and a member of it on n3 that its record does not name."""

    def __init__(self, replicas: Replicas):
        self.replicas = replicas
        self.cluster = ModelCluster("n1", "n2", "n3")
        self.catalogue = ModelCatalogue("n1", "n2", "n3")
        self.bus = Switchboard(self.cluster)
        self.incarnation = ""

    async def begin(self) -> None:
        volumes = Volumes(cast(Any, self.bus), cast(Any, self.catalogue))
        await volumes.create("data", 16 * MIB, replicas=0)
        self.volume = self.catalogue.entries["data"].volume
        self.incarnation = await self.replicas.create(request(volume=self.volume))

    async def look(self, keep_s: float = 0.0) -> bool:
        """Whether the member is still there afterwards."""
        unfounded = Unfounded(self.replicas._node, self.replicas, cast(Any, self.bus), cast(Any, self.catalogue))
        await unfounded.look(keep_s)
        return self.volume in self.replicas._node.volumes


@pytest.fixture
async def made(replicas: Replicas) -> Made:
    world = Made(replicas)
    await world.begin()
    return world


async def test_it_is_removed_when_the_volumes_primary_names_others(made: Made) -> None:
    assert await made.look(keep_s=3600.0), "its leader may be about to name it"
    assert not await made.look()
    directory = made.replicas._settings.data_dir / "replicas"
    assert list(directory.iterdir()) == []


async def test_it_stays_while_nobody_can_tell(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.replica.unfounded.ASK_S", 0.05)
    made.cluster.nodes["n1"].up = False
    assert await made.look()
    made.catalogue.entries.clear()
    assert await made.look(), "a catalogue that is lost says nothing"


async def test_it_stays_when_the_record_names_it_or_its_create_goes_on(made: Made) -> None:
    record = made.cluster.record(made.volume)
    member = record.voters[0].model_copy(update={"node": "n3", "incarnation": made.incarnation})
    made.cluster._commit(record, joining=[member])
    assert await made.look()
    made.cluster._commit(record, joining=[])
    entry = made.catalogue.entries["data"]
    made.catalogue.entries["data"] = entry.model_copy(update={"state": "creating"})
    assert await made.look()


async def test_a_member_with_a_record_is_not_looked_at(replicas: Replicas) -> None:
    made = await replicas.create(request())
    found_it(replicas, made)
    nobody = cast(Any, None)
    await Unfounded(replicas._node, replicas, nobody, nobody).look(0.0)
    assert VOLUME in replicas._node.volumes
