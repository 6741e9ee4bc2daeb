"""What another node may have made here: members of volumes that exist, each for the node that asked, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from services.replica.brain import Record, Slot, Timing, Voter
from services.replica.brain import events as ev
from services.replica.brain.record import Stamp
from services.replica.clock import boot_time_ns
from services.replica.driver import Node
from services.replica.guests import Guests
from services.replica.peers import PeerNetwork
from services.replica.records import to_model
from services.replica.replicas import Replicas
from services.replica.settings import ReplicaSettings
from services.replica.shell import Shell
from services.replica.store import FileStoreFactory
from stoscore.access import Caller
from stoscore.errors import Code, StosError
from stoscore.messages import CatalogueEntry, CreateReplica, RemoveReplica, ReplicaStatus
from stoscore.units import MIB
from stoscore.volumes.survey import Survey
from tests.support.model_nodes import ModelCatalogue
from tests.support.replicas import CLEAN

VOLUME = "ab" * 16
LEADER, OTHER = Caller("node", "n1"), Caller("node", "n2")
CSI = Caller("csi", "csi-controller")


class Around:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class Voters:
    """What the volume's own voters say of it: after it has grown, another size than the catalogue's."""

    size_bytes = 16 * MIB

    async def survey(self, entry: CatalogueEntry) -> Survey:
        me = Voter("n1", "1" * 16)
        record = to_model(Slot(Stamp(0, 1, 1), Record(entry.volume, "data", self.size_bytes, 0, (me,), (me,))))
        status = ReplicaStatus(
            node="n1", incarnation=me.incarnation, role="primary", epoch=1, serving=True, record=record
        )
        return Survey({"n1": status})


class House:
    """Node n3 with real directories, and a catalogue with one volume."""

    def __init__(self, directory: Path, pool: ThreadPoolExecutor):
        boot_id = directory / "boot_id"
        boot_id.write_text("boot")
        settings = ReplicaSettings(node="n3", data_dir=directory, boot_id_file=boot_id)
        self.node = Node("n3", Timing(), 1, lambda volume: CLEAN, boot_time_ns())
        shell = Shell(self.node, cast(PeerNetwork, Around()), cast(Any, Around()), asyncio.get_running_loop())
        self.replicas = Replicas(settings, "c", FileStoreFactory(), self.node, shell, pool)
        self.catalogue = ModelCatalogue("n1", "n2", "n3")
        entry = CatalogueEntry(
            volume=VOLUME, name="data", size_bytes=16 * MIB, replicas=1, nodes=["n1", "n2"], state="ready"
        )
        self.catalogue.entries["data"] = entry
        self.voters = Voters()
        self.guests = Guests(self.node, self.replicas, cast(Any, self.catalogue), cast(Any, self.voters))

    def say(self, **changes: Any) -> None:
        """What the catalogue says of the volume."""
        self.catalogue.entries["data"] = self.catalogue.entries["data"].model_copy(update=changes)

    async def make(self, caller: Caller, **changes: Any) -> str:
        fields = {"volume": VOLUME, "name": "data", "size_bytes": 16 * MIB, "joins": True} | changes
        return await self.guests.create(CreateReplica(**fields), caller)

    async def refused(self, caller: Caller, **changes: Any) -> Code:
        with pytest.raises(StosError) as caught:
            await self.make(caller, **changes)
        return caught.value.code

    async def remove(self, caller: Caller, incarnation: str) -> None:
        await self.guests.remove(RemoveReplica(volume=VOLUME, incarnation=incarnation), caller)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with ThreadPoolExecutor(2) as pool:
        house = House(tmp_path, pool)
        await house.replicas.open_all()
        yield house
        await house.replicas.close_all()


async def test_a_leader_has_a_member_made_and_asks_again_for_the_same(house: House) -> None:
    made = await house.make(LEADER)
    assert await house.make(LEADER) == made
    await house.remove(LEADER, made)
    assert house.node.volumes == {}


async def test_a_witness_needs_no_size(house: House) -> None:
    assert await house.make(LEADER, kind="witness", size_bytes=0)


async def test_nobody_fills_a_node_with_volumes_that_never_were(house: House) -> None:
    assert await house.refused(LEADER, volume="cd" * 16) is Code.NOT_FOUND
    assert await house.refused(LEADER, size_bytes=8 * MIB) is Code.FAILED_PRECONDITION, "volumes grow, and never shrink"
    assert await house.refused(LEADER, size_bytes=1024 * MIB) is Code.FAILED_PRECONDITION
    assert house.node.volumes == {}


async def test_a_volume_that_has_grown_is_rebuilt_in_its_new_size(house: House) -> None:
    """The catalogue goes on to name the size with which it was made."""
    house.voters.size_bytes = 32 * MIB
    assert await house.refused(LEADER, size_bytes=64 * MIB) is Code.FAILED_PRECONDITION
    assert await house.make(LEADER, size_bytes=32 * MIB)


@pytest.mark.parametrize("state", ["creating", "deleting"])
async def test_a_volume_that_is_being_made_is_none_of_a_nodes_business(house: House, state: str) -> None:
    """Its member is the creator's, and whoever knows its incarnation may give it its first record."""
    house.say(state=state)
    made = await house.make(CSI, joins=False)
    assert await house.refused(OTHER) is Code.FAILED_PRECONDITION
    assert await house.refused(OTHER, joins=False) is Code.PERMISSION_DENIED
    assert house.node.volumes[VOLUME].brain.me.incarnation == made


async def test_another_node_gets_another_member(house: House) -> None:
    first = await house.make(LEADER)
    second = await house.make(OTHER)
    assert second != first
    with pytest.raises(StosError, match="not made for"):
        await house.remove(LEADER, second)
    assert house.node.volumes[VOLUME].brain.me.incarnation == second


async def test_what_a_record_names_is_nobodys_to_remake_or_remove(house: House) -> None:
    made = await house.make(LEADER)
    me = Voter("n3", made)
    house.node.ask(VOLUME, ev.Founded(Record(VOLUME, "data", 16 * MIB, 0, (me,), (me,))), boot_time_ns())
    assert await house.refused(OTHER) is Code.FAILED_PRECONDITION
    with pytest.raises(StosError, match="was founded"):
        await house.remove(LEADER, made)


async def test_an_operator_may_do_both(house: House) -> None:
    made = await house.make(LEADER)
    assert await house.make(CSI, joins=False) == made
    await house.remove(CSI, made)
    assert house.node.volumes == {}
