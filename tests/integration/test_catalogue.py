"""The catalogue over the real NATS service: claims by compare-and-set, many entries, nodes and their watchers."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from services.nats.catalogue import KEYS
from stoscore import jetstream, subjects
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError
from stoscore.limits import PAGE_ENTRIES_MAX
from stoscore.messages import CatalogueEntry, Empty, GroupClaim, NodeEntry, SnapshotClaim
from tests.integration.conftest import BusOf
from tests.support.control_plane import ControlPlane


def entry(name: str, volume: str | None = None) -> CatalogueEntry:
    return CatalogueEntry(
        volume=volume or secrets.token_hex(16), name=name, size_bytes=4096, replicas=1, nodes=["n1", "n2"]
    )


async def test_a_name_is_claimed_once(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    first = await catalogue.create(entry("claimed.once"))
    with pytest.raises(StosError) as caught:
        await catalogue.create(entry("claimed.once"))
    assert caught.value.code is Code.ALREADY_EXISTS
    assert CatalogueEntry.model_validate(caught.value.details["entry"]) == first
    assert await catalogue.by_name("claimed.once") == first
    assert await catalogue.by_id(first.volume) == first


async def test_of_many_at_once_one_wins(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    attempts = [catalogue.create(entry("race")) for _ in range(16)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    winners = [item for item in outcomes if isinstance(item, CatalogueEntry)]
    assert len(winners) == 1
    assert all(item.code is Code.ALREADY_EXISTS for item in outcomes if isinstance(item, StosError))
    assert await catalogue.by_name("race") == winners[0]


async def test_update_and_remove(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    made = await catalogue.create(entry("changing"))
    ready = made.model_copy(update={"state": "ready"})
    await catalogue.update(ready)
    assert await catalogue.by_id(made.volume) == ready
    for _ in range(2):
        await catalogue.remove(ready)
    for lookup in (catalogue.by_name("changing"), catalogue.by_id(made.volume), catalogue.update(ready)):
        with pytest.raises(StosError) as caught:
            await lookup
        assert caught.value.code is Code.NOT_FOUND


async def test_a_reused_name_belongs_to_the_new_volume(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    old = await catalogue.create(entry("reused"))
    await catalogue.remove(old)
    new = await catalogue.create(entry("reused"))
    await catalogue.remove(old)
    assert await catalogue.by_name("reused") == new
    with pytest.raises(StosError):
        await catalogue.update(old)
    with pytest.raises(StosError):
        await catalogue.by_id(old.volume)


async def test_the_name_of_a_snapshot_belongs_to_one_volume(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    one, other = secrets.token_hex(16), secrets.token_hex(16)
    assert await catalogue.snapshot("monday") is None
    claims = [SnapshotClaim(snapshot="monday", volume=volume) for volume in (one, other) for _ in range(8)]
    outcomes = await asyncio.gather(*(catalogue.claim_snapshot(claim) for claim in claims), return_exceptions=True)
    held = await catalogue.snapshot("monday")
    assert held is not None
    for claim, outcome in zip(claims, outcomes, strict=True):
        if claim == held:
            assert outcome is None
        else:
            assert isinstance(outcome, StosError) and outcome.code is Code.ALREADY_EXISTS
            assert SnapshotClaim.model_validate(outcome.details["claim"]) == held
    await catalogue.release_snapshot(held)
    assert await catalogue.snapshot("monday") == held, "what is held is not released"
    dropping = held.model_copy(update={"stage": "dropping", "deletion": "0" * 16})
    for _ in range(2):
        await catalogue.claim_snapshot(dropping)
    with pytest.raises(StosError) as caught:
        await catalogue.claim_snapshot(held)
    assert caught.value.code is Code.ALREADY_EXISTS, "there is no way back but a release"
    for of_another in ({"volume": "f" * 32}, {"deletion": "f" * 16}):
        await catalogue.release_snapshot(dropping.model_copy(update=of_another))
    assert await catalogue.snapshot("monday") == dropping
    for _ in range(2):
        await catalogue.release_snapshot(dropping)
    assert await catalogue.snapshot("monday") is None
    await catalogue.claim_snapshot(SnapshotClaim(snapshot="monday", volume=other))


async def test_a_group_is_complete_by_one_attempt(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    volumes = ("1" * 32, "2" * 32)
    first, second = (GroupClaim(name="pair", attempt=digit * 16, volumes=volumes) for digit in "ab")
    assert await catalogue.group("pair") is None
    assert await catalogue.claim_group(first) is None
    found = await catalogue.claim_group(first.model_copy(update={"volumes": volumes[:1]}))
    assert found == first, "of other volumes"
    assert await catalogue.claim_group(second) is None, "an attempt replaces one that is not complete"
    ready = [claim.model_copy(update={"stage": "ready"}) for claim in (first, second)]
    assert await catalogue.claim_group(ready[0]) == second, "which then never is"
    await catalogue.release_group(first)
    for _ in range(2):
        assert await catalogue.claim_group(ready[1]) is None
    await catalogue.release_group(second)
    assert await catalogue.claim_group(first) == ready[1], "what is complete stays"
    dropping = second.model_copy(update={"stage": "dropping"})
    for _ in range(2):
        assert await catalogue.claim_group(dropping) is None
    assert await catalogue.claim_group(first) == dropping
    assert await catalogue.group("pair") == dropping
    for _ in range(2):
        await catalogue.release_group(dropping)
    assert await catalogue.group("pair") is None
    with pytest.raises(StosError) as caught:
        await catalogue.claim_group(ready[1])
    assert caught.value.code is Code.ABORTED, "a late word brings nothing back"


async def written(bus_of: BusOf, name: str, data: bytes) -> None:
    """Into the bucket directly, as only a NATS service may."""
    await jetstream.store(await bus_of("svc", "nats-2"), f"{KEYS}.name.{name}", data, {})


async def test_an_entry_that_lost_its_id_is_completed(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    half = entry("half-made")
    await written(bus_of, "half-made", half.model_dump_json().encode())
    with pytest.raises(StosError):
        await catalogue.by_id(half.volume)
    with pytest.raises(StosError, match="in use"):
        await catalogue.create(entry("half-made"))
    assert await catalogue.by_id(half.volume) == half


async def test_a_damaged_entry_hides_nothing_else(bus_of: BusOf) -> None:
    catalogue = Catalogue(await bus_of("svc", "csi"))
    await written(bus_of, "damaged", b"rubbish")
    sound = await catalogue.create(entry("sound"))
    assert sound in await catalogue.list()
    # A name whose entry can't be read is free: what it led to is in the voters' records.
    replaced = await catalogue.create(entry("damaged"))
    assert await catalogue.by_name("damaged") == replaced


async def test_more_entries_than_one_page(bus_of: BusOf) -> None:
    names = {f"many-{number:04}" for number in range(PAGE_ENTRIES_MAX + 20)}
    await asyncio.gather(*(written(bus_of, name, entry(name).model_dump_json().encode()) for name in names))
    listed = [item.name for item in await Catalogue(await bus_of("user", "admin")).list()]
    assert names <= set(listed)
    assert listed == sorted(set(listed))


async def test_large_entries_make_short_pages(bus_of: BusOf) -> None:
    """A page is one message: entries with all the labels that are allowed must not make it larger."""
    labels = {f"{number:02}" * 100: "x" * 256 for number in range(64)}
    names = {f"large-{number:02}" for number in range(40)}
    for name in names:
        await written(bus_of, name, entry(name).model_copy(update={"labels": labels}).model_dump_json().encode())
    listed = [item.name for item in await Catalogue(await bus_of("user", "admin")).list()]
    assert names <= set(listed)
    assert listed == sorted(set(listed))


@pytest.mark.parametrize("name", ["a..b", "a.", "x" * 200, "a b", "*", ">", "a\x00", ""])
async def test_a_name_is_one_key_and_no_other(bus_of: BusOf, name: str) -> None:
    admin = await bus_of("user", "admin")
    with pytest.raises(StosError) as caught:
        await Catalogue(admin).by_name(name)
    assert caught.value.code is Code.NOT_FOUND
    raw = entry("x").model_construct(**entry("x").model_dump() | {"name": name})
    with pytest.raises(StosError) as caught:
        await admin.request(subjects.catalogue("create"), raw, Empty)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_nodes_are_told_to_watchers(bus_of: BusOf) -> None:
    writer, reader = await bus_of("node", "n7"), await bus_of("node", "n8")
    seen: asyncio.Queue[NodeEntry] = asyncio.Queue()
    first = NodeEntry(node="n7", zone="a", address="127.0.0.1:1")
    await Catalogue(writer).put_node(first)
    await Catalogue(reader).watch_nodes(lambda entry: seen.put_nowait(entry) if entry.node == "n7" else None)
    moved = NodeEntry(node="n7", zone="a", address="127.0.0.1:2")
    async with asyncio.timeout(5):
        assert await seen.get() == first
        await Catalogue(writer).put_node(moved)
        assert await seen.get() == moved
    assert moved in await Catalogue(reader).nodes()


async def test_a_node_writes_no_other_address(bus_of: BusOf) -> None:
    writer = await bus_of("node", "n7")
    with pytest.raises(StosError) as caught:
        await Catalogue(writer).put_node(NodeEntry(node="n8", zone="a", address="127.0.0.1:1"))
    assert caught.value.code is Code.PERMISSION_DENIED


async def test_without_nats_it_says_so(control_plane: ControlPlane) -> None:
    bus = await Bus.connect(control_plane.identity("svc", "csi"), ["tls://127.0.0.1:1"], name="test")
    with pytest.raises(StosError) as caught:
        await Catalogue(bus).by_name("x")
    assert caught.value.code is Code.UNAVAILABLE
    await bus.close()
