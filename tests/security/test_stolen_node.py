"""The thief of a node's identity: each row of the table in docs/security.md, tried.

The node itself runs on meanwhile. Its last row revokes it, so the rows are tried in the table's order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.dev.nbd_client import NbdClient
from stoscore import subjects
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError
from stoscore.messages import CatalogueEntry, CreateReplica, Empty, RemoveReplica, ReplicaCreated
from stoscore.units import BLOCK_BYTES
from tests.security.attacks.brains import JUMP
from tests.security.document import stolen_table
from tests.security.scene import HOST, Outcome, Scene
from tests.security.stage import SINGLE, VICTIM, Stage
from tests.support.cluster import AlteredCluster

pytestmark = [pytest.mark.long, pytest.mark.slow]

HERE, DOOMED = "here", "doomed"
"""A volume that is attached to the stolen node, and one that nobody will miss."""
MARK = b"what the victim wrote"
REVOKED_WITHIN_S = 15.0


@dataclass(slots=True)
class Heist:
    """One stolen identity, and the cluster in which it was stolen."""

    stage: Stage
    node: str
    identity: Path
    volumes: tuple[str, ...] = (HERE, DOOMED)

    async def scene(self) -> Scene:
        scene = await self.stage.scene()
        for name in self.volumes:
            scene.records[name] = await self.stage.record_soon(name)
        return scene

    async def attack(self, attack: str, **arguments: Any) -> Outcome:
        return await self.stage.attacker.attack(attack, await self.scene(), self.identity, **arguments)

    async def won(self, attack: str, **arguments: Any) -> bool:
        return (await self.attack(attack, **arguments)).won

    async def asked(self, subject: str, request: dict[str, Any]) -> bool:
        """A request in its own name is answered with a result."""
        who = ["node", "node", self.node]
        return await self.won("nats.request", subjects=[subject], payload=json.dumps({"v": 1} | request), who=who)

    async def published(self, *names: str) -> bool:
        return await self.won("nats.publish", subjects=list(names))

    async def say_where_the_node_is(self) -> None:
        """Give the real node its links back."""
        address = f"{HOST}:{self.stage.cluster.state().ports[self.node]}"
        assert await self.asked(subjects.catalogue("announce"), {"node": self.node, "zone": "z", "address": address})
        await self.stage.victim_works()

    async def other(self) -> str:
        """The node that holds the volume of which this one holds nothing."""
        record = await self.stage.record_soon(SINGLE)
        assert self.node not in [voter["node"] for voter in record["voters"]]
        return str(record["primary"]["node"])

    async def third(self) -> str:
        """A node that neither is the stolen one nor holds the volume of the others."""
        other = await self.other()
        return next(node for node in self.stage.cluster.state().nodes if node not in (self.node, other))

    async def epoch_jumps(self, volume: str, attack: str, **arguments: Any) -> bool:
        """The volume believed a forgery. While it elects nobody can tell, so then the next record counts."""
        before = (await self.scene()).records[volume]["epoch"]
        await self.attack(attack, volume=volume, **arguments)
        for _ in range(15):
            if (await self.stage.record_soon(volume))["epoch"] >= before + JUMP // 2:
                return True
            await asyncio.sleep(0.1)
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def heist(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Heist]:
    directory = tmp_path_factory.mktemp("stolen")
    async with Stage.play(AlteredCluster(directory / "dev"), directory / "arms") as stage:
        records = (await stage.scene()).records
        # A node that holds nothing of the one volume, and follows in the other.
        taken = {voter["node"] for voter in records[SINGLE]["voters"]} | {records[VICTIM]["primary"]["node"]}
        node = next(node for node in stage.cluster.state().nodes if node not in taken)
        running = stage.running
        # Held by somebody else, whoever that is.
        elsewhere = ("--replicas", "0", "--zone", f"zone-{records[SINGLE]['primary']['node']}")
        for name, options in ((HERE, elsewhere), (DOOMED, ("--replicas", "2"))):
            words = ("volume", "create", name, "--size", "8MiB", *options)
            made = await asyncio.to_thread(running.stos, *words)
            assert made.code == 0, made.errors
        opened = await asyncio.to_thread(running.json, "volume", "connect", HERE, "--node", node)
        async with await NbdClient.connect(opened["socket"], HERE) as client:
            await client.write(0, MARK.ljust(BLOCK_BYTES, b"."))
        yield Heist(stage, node, stage.arms.stolen(node))


# ---- the acts ---------------------------------------------------------------------------------------


async def find_out_what_there_is(heist: Heist) -> bool:
    asked = await heist.asked("stos.v1.catalogue.by-name", {"name": VICTIM})
    return asked and await heist.won("nats.subscribe", subjects=["stos.v1.vol.*.brain.*"])


async def read_what_is_attached_here(heist: Heist) -> bool:
    return await heist.won("links.read_by_link", name=heist.node, volume=HERE)


async def read_what_is_held_here(heist: Heist) -> bool:
    marker = "only for the copies"
    stolen = asyncio.create_task(
        heist.attack("thief.receive_a_copys_writes", name=heist.node, volume=VICTIM, marker=marker)
    )
    async with await NbdClient.connect(heist.stage.socket, VICTIM) as client:
        while not stolen.done():
            await client.write(0, marker.encode().ljust(BLOCK_BYTES, b"."))
            await asyncio.sleep(0.05)
    await heist.say_where_the_node_is()
    return (await stolen).won


async def read_what_others_hold(heist: Heist) -> bool:
    by_link = await heist.won("links.read_by_link", name=heist.node, volume=SINGLE)
    other = await heist.other()
    return by_link or await heist.won("links.copy_from", name=heist.node, volume=SINGLE, posing_as=other)


async def read_past_events(heist: Heist) -> bool:
    return await heist.asked(subjects.history("read"), {"kind": "audit"})


async def write_what_is_attached_here(heist: Heist) -> bool:
    return await heist.won("links.write_by_link", name=heist.node, volume=HERE)


async def take_over_what_is_held_here(heist: Heist) -> bool:
    return await heist.epoch_jumps(DOOMED, "brains.forge_brain", name=heist.node, posing_as=heist.node, by="bus")


async def delete_what_is_held_here(heist: Heist) -> bool:
    """The others call it deleted, or have forgotten it."""
    record = (await heist.scene()).records[DOOMED]
    await heist.attack("brains.bury", name=heist.node, volume=DOOMED)
    heist.volumes = (HERE,)
    others = [voter["node"] for voter in record["voters"] if voter["node"] != heist.node]
    for _ in range(100):
        if all([await _is_gone(heist.stage, node, record["volume"]) for node in others]):
            return True
        await asyncio.sleep(0.1)
    return False


async def _is_gone(stage: Stage, node: str, volume: str) -> bool:
    try:
        return (await stage.record_at(node, volume)).deleted
    except StosError as error:
        return error.code is Code.NOT_FOUND


async def write_what_others_hold(heist: Heist) -> bool:
    return await heist.won("links.write_by_link", name=heist.node, volume=SINGLE)


async def delete_what_others_hold(heist: Heist) -> bool:
    volume = (await heist.scene()).volume(SINGLE)
    asked = await heist.asked(subjects.volume(await heist.other(), volume, "delete"), {})
    return asked or await heist.epoch_jumps(SINGLE, "brains.intrude_as_voter", name=heist.node, by="link")


async def order_other_nodes(heist: Heist) -> bool:
    other, volume = await heist.other(), (await heist.scene()).volume(SINGLE)
    return (
        await heist.asked(subjects.volume(other, volume, "attach"), {"node": heist.node})
        or await heist.asked(subjects.volume(other, volume, "move"), {})
        or await heist.asked(subjects.node(other, "close"), {"volume": volume})
        or await heist.asked(subjects.node(other, "status"), {})
    )


def _copy_of(record: dict[str, Any]) -> dict[str, Any]:
    return {"volume": record["volume"], "name": record["name"], "size_bytes": record["size_bytes"], "joins": True}


async def have_a_copy_made_elsewhere(heist: Heist) -> bool:
    return await heist.asked(
        subjects.node(await heist.third(), "create"), _copy_of((await heist.scene()).records[SINGLE])
    )


async def fill_others_with_what_never_was(heist: Heist) -> bool:
    copy = _copy_of((await heist.scene()).records[SINGLE])
    third = await heist.third()
    return (
        await heist.asked(subjects.node(third, "create"), copy | {"volume": "0" * 32})
        or await heist.asked(subjects.node(third, "create"), copy | {"size_bytes": 1 << 30})
        or await heist.asked(subjects.node(third, "create"), copy | {"joins": False})
    )


async def get_hold_of_what_is_being_made(heist: Heist) -> bool:
    """A volume whose creation stopped half-way: its name is claimed, and a member of it is made."""
    third = await heist.third()
    entry = CatalogueEntry(volume="ab" * 16, name="half", size_bytes=1 << 20, replicas=0, nodes=[third])
    bus = heist.stage.bus
    await Catalogue(bus).create(entry)
    copy = {"volume": entry.volume, "name": entry.name, "size_bytes": entry.size_bytes}
    made = await bus.request(subjects.node(third, "create"), CreateReplica(**copy), ReplicaCreated)
    got = await heist.asked(subjects.node(third, "create"), copy | {"joins": True}) or await heist.asked(
        subjects.node(third, "remove"), {"volume": entry.volume, "incarnation": made.incarnation}
    )
    await bus.request(
        subjects.node(third, "remove"), RemoveReplica(volume=entry.volume, incarnation=made.incarnation), Empty
    )
    await Catalogue(bus).remove(entry)
    return got


async def tell_events_as_itself(heist: Heist) -> bool:
    return await heist.published(subjects.event(heist.node, "audit"), subjects.event(heist.node, "decision"))


async def tell_events_as_another(heist: Heist) -> bool:
    other = await heist.other()
    return await heist.published(subjects.event(other, "audit"), subjects.event("svc:certs-1", "audit"))


def _address(node: str) -> dict[str, Any]:
    return {"node": node, "zone": "z", "address": "127.0.0.1:1"}


async def announce_its_own_address(heist: Heist) -> bool:
    announced = await heist.asked(subjects.catalogue("announce"), _address(heist.node))
    await heist.say_where_the_node_is()
    return announced


async def announce_the_address_of_another(heist: Heist) -> bool:
    return await heist.asked(subjects.catalogue("announce"), _address(await heist.other()))


async def bid_falsely(heist: Heist) -> bool:
    """It hears what placement asks, and may answer it."""
    hears = await heist.won("nats.subscribe", subjects=["stos.v1.bid.by.*.*"])
    return hears and await heist.published(f"_INBOX.svc.placement-1.session.token.by.node.{heist.node}")


async def answer_for_another(heist: Heist) -> bool:
    other = await heist.other()
    heard = await heist.won("nats.subscribe", subjects=[f"stos.v1.node.{other}.create.by.*.*", "_INBOX.user.admin.>"])
    return heard or await heist.published(f"_INBOX.user.admin.session.token.by.node.{other}")


async def say_whom_to_trust(heist: Heist) -> bool:
    return await heist.published(subjects.certs("trust"))


async def unseat_what_is_held_here(heist: Heist) -> bool:
    return await heist.epoch_jumps(VICTIM, "brains.force_election", name=heist.node)


async def unseat_what_others_hold(heist: Heist) -> bool:
    return await heist.epoch_jumps(SINGLE, "brains.unseat", name=heist.node, by="bus")


async def cut_off_the_real_node(heist: Heist) -> bool:
    return await heist.won("doors.enter_link", to=await heist.other(), name=heist.node)


async def stop_others_by_flooding(heist: Heist) -> bool:
    """Whether a write waits for as long as an application would take for a failure."""
    flood = asyncio.create_task(
        heist.attack("thief.swamp_a_link", to=await heist.other(), name=heist.node, seconds=3.0)
    )
    try:
        async with await NbdClient.connect(heist.stage.socket, VICTIM) as client:
            while not flood.done():
                async with asyncio.timeout(5.0):
                    await client.write(0, bytes(BLOCK_BYTES))
    except (TimeoutError, OSError):
        return True
    finally:
        await flood
    return False


async def renew_itself(heist: Heist) -> bool:
    return await heist.won("enrolment.renew")


async def let_somebody_in(heist: Heist) -> bool:
    return await heist.asked(subjects.certs("token"), {"kind": "user", "name": "friend", "role": "admin"})


async def outlive_its_revocation(heist: Heist) -> bool:
    other = await heist.other()
    inside = heist.stage.arms.directory / "inside"
    arguments = {"to": other, "name": heist.node, "seconds": REVOKED_WITHIN_S, "inside": str(inside)}
    keeping = asyncio.create_task(heist.attack("thief.outlive", **arguments))
    while not inside.exists():
        assert not keeping.done(), await keeping
        await asyncio.sleep(0.05)
    await heist.stage.arms.revoke("node", heist.node)
    heist.volumes = ()  # the node itself is out as well
    kept = await keeping
    assert not kept.won, kept.told
    return (
        await heist.won("doors.enter_link", to=other, name=heist.node)
        or await heist.won("doors.enter_nats")
        or await heist.won("enrolment.renew")
    )


# ---- the table --------------------------------------------------------------------------------------

TABLE = stolen_table()
ACTS: dict[str, Callable[[Heist], Awaitable[bool]]] = {
    act: globals()[act.replace("-", "_")] for act in TABLE if act.replace("-", "_") in globals()
}


def test_each_row_has_its_test() -> None:
    assert set(ACTS) == set(TABLE)
    assert list(TABLE)[-1] == "outlive-its-revocation", "it ends all others"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("act", "can"), TABLE.items())
async def test_the_thief_can_do_what_the_table_says(heist: Heist, act: str, can: bool) -> None:
    assert await ACTS[act](heist) is can
    await heist.stage.victim_works(copies=2)
