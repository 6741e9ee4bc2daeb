"""Real processes: snapshots of two volumes in use at once, of which one never has what the other lacks; and whoever
takes them is killed on the way."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import sys
import time
from typing import Any

import pytest

from services.dev.nbd_client import NbdClient
from stoscore.units import BLOCK_BYTES
from tests.support.cluster import RunningCluster
from tests.support.peers import until

pytestmark = [pytest.mark.long, pytest.mark.slow]
VOLUMES = ("first", "second")
CHAINS = 8
"""Each writes a number to the one volume, and when that is answered to the other, all of them at once."""
WITHIN_S = 120.0
HELD_MAX_S = 10.0


class Chains:
    def __init__(self, clients: list[NbdClient]):
        self._clients = clients
        self.numbers = [0] * CHAINS
        self.longest_s = 0.0
        self._ends = False

    async def run(self) -> None:
        await asyncio.gather(*(self._chain(chain) for chain in range(CHAINS)))

    def end(self) -> None:
        self._ends = True

    async def _chain(self, chain: int) -> None:
        while not self._ends:
            number = self.numbers[chain] + 1
            for client in self._clients:
                since_s = time.monotonic()
                await client.write(chain * BLOCK_BYTES, struct.pack("<Q", number) * (BLOCK_BYTES // 8))
                self.longest_s = max(self.longest_s, time.monotonic() - since_s)
            self.numbers[chain] = number

    async def more(self, count: int) -> None:
        before = sum(self.numbers)
        await until(lambda: sum(self.numbers) >= before + count, within_s=WITHIN_S)


async def held(running: RunningCluster, volume: str, snapshot: str) -> list[int]:
    """The chains' numbers in a snapshot, read from a volume of one copy that begins as it."""
    name = f"{volume}-{snapshot}"[:60]
    made = await asyncio.to_thread(
        running.stos, "volume", "create", name, "--from-snapshot", f"{volume}/{snapshot}", "--replicas", "0"
    )
    assert made.code == 0, made.errors
    opened = await asyncio.to_thread(running.json, "volume", "connect", name, "--node", "app")
    async with await NbdClient.connect(opened["socket"], name) as client:
        content = await client.read(0, CHAINS * BLOCK_BYTES)
    for arguments in (("disconnect", name), ("rm", name)):
        await asyncio.to_thread(running.stos, "volume", *arguments)
    return [struct.unpack_from("<Q", content, chain * BLOCK_BYTES)[0] for chain in range(CHAINS)]


async def check(running: RunningCluster, group: dict[str, Any], ids: dict[str, str]) -> None:
    found = {ids[member["volume"]]: member["name"] for member in group["snapshots"]}
    first, second = [await held(running, volume, found[volume]) for volume in VOLUMES]
    for one, other in zip(first, second, strict=True):
        assert other <= one <= other + 1, f"the first volume has {one} of a chain, the second {other}"


async def test_a_group_is_of_one_moment_whoever_dies(running: RunningCluster) -> None:
    ids = {}
    for volume in VOLUMES:
        ids[running.json("volume", "create", volume, "--size", "16MiB")["volume"]] = volume
    opened = [running.json("volume", "connect", volume, "--node", "app") for volume in VOLUMES]
    clients = [await NbdClient.connect(one["socket"], volume) for one, volume in zip(opened, VOLUMES, strict=True)]
    chains = Chains(clients)
    task = asyncio.create_task(chains.run())
    taken = []
    try:
        await chains.more(4 * CHAINS)
        for name in ("one", "two", "three", "four"):
            taken.append(await take(running, name))
            await chains.more(CHAINS)
        print(f"longest write beside four groups: {chains.longest_s * 1000:.0f} ms")
        for round_number in range(6):
            await kill_in_the_middle(running, f"killed-{round_number}")
            chains.longest_s = 0.0
            await chains.more(4 * CHAINS)
            assert chains.longest_s < HELD_MAX_S, "writes were held for longer than anybody had asked"
        taken.append(await take(running, "killed-0"))
        primary = running.json("volume", "show", VOLUMES[0])["primary"]
        asked = asyncio.create_task(take(running, "failover"))
        await asyncio.sleep(0.5)
        running.cluster.kill(primary)
        taken.append(await asked)
        await chains.more(CHAINS)
        assert (await asyncio.to_thread(running.stos, "dev", "start", primary)).code == 0
    finally:
        chains.end()
        await asyncio.wait_for(task, WITHIN_S)
        for client in clients:
            await client.close()
    for group in taken:
        await check(running, group, ids)
    for group in taken:
        assert running.stos("snapshot", "group", "rm", group["name"]).code == 0
    left = [row for row in running.json("snapshot", "ls") if not row["group"].startswith("killed-")]
    assert left == []


async def take(running: RunningCluster, name: str) -> dict[str, Any]:
    command = ("snapshot", "group", "create", name, *VOLUMES, "--timeout", "60")
    return dict(await asyncio.to_thread(running.json, *command))


async def kill_in_the_middle(running: RunningCluster, name: str) -> None:
    """The command is killed somewhere between its first step and its last, or before, or after."""
    command = (sys.executable, "-m", "services.cli.main", "snapshot", "group", "create", name, *VOLUMES)
    environment = {**os.environ, "STOS_DIR": str(running.directory)}
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=quiet, stderr=quiet)
    await asyncio.sleep(random.uniform(0.5, 1.5))
    process.kill()
    await process.wait()
