"""A real embedded cluster for tests: its commands, an NBD writer that records everything, its copies on disk."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from services.dev import leftovers, state
from services.dev.cluster import Cluster
from services.dev.demo.recorder import Recorder
from services.dev.demo.verify import Copy
from services.dev.demo.wire import listening_ports
from services.dev.members import Member, members
from services.dev.nbd_client import NbdClient
from services.dev.readiness import Starting

TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.errors
        return json.loads(self.output)


class AlteredCluster(Cluster):
    """A cluster some of whose members are started otherwise than `stos dev up` would: with settings of their own, or
    by another program. Members are named as in `stos dev kill`: one process, or its group."""

    def __init__(
        self,
        root: Path,
        *,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        programs: Mapping[str, tuple[str, ...]] | None = None,
    ):
        """`programs`: what is put between the interpreter and the member's own arguments."""
        super().__init__(root)
        self._settings = settings or {}
        self._programs = programs or {}

    def up_only(self, groups: Collection[str]) -> None:
        """Starts those groups alone, in a new directory; `stop` ends them."""
        with state.exclusive(self.layout.lock):
            wanted = [member for member in members(self.layout, self._prepare(None)) if member.group in groups]
            for _, stage in groupby(wanted, key=lambda member: member.stage):
                self._start(list(stage), lambda line: None)

    def _spawn(self, member: Member) -> Starting:
        names = (member.process, member.group)
        settings = {key: value for name in names for key, value in self._settings.get(name, {}).items()}
        between = next((self._programs[name] for name in names if name in self._programs), None)
        argv = member.argv
        if between is not None:
            # python -m services.cli.main serve X -> python <between> serve X
            interpreter, _, _, *rest = argv
            argv = (interpreter, *between, *rest)
        return super()._spawn(replace(member, argv=argv, settings=member.settings | settings))


class RunningCluster:
    """`stos` commands for one cluster, each a process of its own."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.directory = cluster.layout.root

    def stos(self, *arguments: str) -> Result:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *arguments],
            env=inherited | {"STOS_DIR": str(self.directory)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str) -> Any:
        return self.stos(*arguments, "-o", "json").json

    async def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Looks again and again; every look may be a command."""
        async with asyncio.timeout(timeout_s):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.1)

    async def in_sync(self, name: str, copies: int) -> None:
        def all_in_sync() -> bool:
            return len(self.json("volume", "show", name)["in_sync"]) == copies

        await self.wait(f"{name} in sync", all_in_sync)

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[Recorder]:
        """A recorder that writes to the volume over NBD on the application's node until the block ends."""
        opened = await asyncio.to_thread(self.json, "volume", "connect", name, "--node", "app")
        client = await NbdClient.connect(opened["socket"], name)
        recorder = Recorder(client, client.size)
        recorder.resume()
        try:
            await completed(recorder, 100)
            yield recorder
        finally:
            await recorder.pause()
            await client.close()

    def copies(self, name: str) -> list[Copy]:
        """Every copy of a volume, read from its directory."""
        view = self.json("volume", "show", name)
        return [self._copy(node, view["volume"]) for node in view["in_sync"]]

    def _copy(self, node: str, volume: str) -> Copy:
        (found,) = [path.parent for path in self._formats(node) if volume in str(path.parent)]
        out = self.directory / f"{node}.sums"
        done = self.stos("store", "digest", str(found), "--out", str(out))
        assert done.code == 0, done.errors
        return Copy(node, out.read_bytes())

    def _formats(self, node: str) -> list[Path]:
        return sorted(self.cluster.layout.data(node).rglob("format.json"))


@contextmanager
def running_cluster(cluster: Cluster, nodes: int | None = None) -> Iterator[RunningCluster]:
    """Up until the end of the block; then nothing of it is left on the machine."""
    cluster.up(nodes)
    try:
        yield RunningCluster(cluster)
    finally:
        ports = cluster.state().ports.values()
        stubborn = cluster.stop()
    where = (cluster.layout.root, cluster.layout.run)
    assert stubborn == []
    assert list(leftovers.programs(*where)) == []
    assert leftovers.mounts(*where) == []
    assert leftovers.unix_sockets(*where) == []
    assert listening_ports(ports) == []


async def completed(recorder: Recorder, count: int, timeout_s: float = 60.0) -> None:
    """Waits for that many more completed writes. Raises TimeoutError."""
    goal = recorder.history.completed + count
    async with asyncio.timeout(timeout_s):
        while recorder.history.completed < goal:
            await asyncio.sleep(0.01)
