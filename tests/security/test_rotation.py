"""Certificates that live for a minute, under load: nobody notices that they change, nor that the root does.

`STOS_TEST_ROTATION_S` says for how long; ten minutes by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from services.dev.admission import admit
from services.dev.demo.recorder import Recorder
from services.dev.demo.verify import disagreements
from services.dev.layout import ADMIN
from services.dev.members import members
from stoscore import subjects
from stoscore.bus import Bus
from stoscore.errors import StosError
from stoscore.following import Follower
from stoscore.identity import Identity
from stoscore.messages import NodeStatus, NodeStatusRequest
from stoscore.renewal import keep_renewed
from tests.security.arms import Arms
from tests.security.pauses import Pauses, Sleeper, longest
from tests.support.cluster import AlteredCluster, RunningCluster, completed

pytestmark = pytest.mark.long

LIFE_S = 60
SECONDS = float(os.environ.get("STOS_TEST_ROTATION_S", "600"))
PAUSE_NS_MAX = 250_000_000
FAILOVER_NS_MAX = 1_500_000_000
ASKED_EVERY_S = 0.05
RETIRED_WITHIN_S = 3 * LIFE_S
VOLUME = "data"


@dataclass(slots=True)
class Watch:
    """What the identity directories of all members said, looked at every second."""

    cluster: AlteredCluster
    serials: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    expired: list[str] = field(default_factory=list)
    shortest: timedelta = timedelta(days=1)
    """What was left of a certificate at the least."""

    def look(self) -> None:
        now = datetime.now(UTC)
        for path in sorted(self.cluster.layout.identity("x").parent.iterdir()):
            # The administrator's is nobody's while no command runs.
            if path.name != ADMIN and (path / "cert.pem").exists():
                certificate = x509.load_pem_x509_certificate((path / "cert.pem").read_bytes())
                self.serials[path.name].add(certificate.serial_number)
                left = certificate.not_valid_after_utc - now
                self.shortest = min(self.shortest, left)
                if left < timedelta(0):
                    self.expired.append(path.name)

    def roots(self) -> dict[str, set[str]]:
        """Member -> fingerprints of the roots that it trusts."""
        found = {}
        for path in sorted(self.cluster.layout.identity("x").parent.iterdir()):
            if path.name != ADMIN and (path / "trust.pem").exists():
                roots = x509.load_pem_x509_certificates((path / "trust.pem").read_bytes())
                found[path.name] = {root.fingerprint(hashes.SHA256()).hex() for root in roots}
        return found

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(1)


@dataclass(slots=True)
class Asker:
    """Somebody who asks a node for its status again and again, and renews while he does so."""

    asked: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    async def run(self, bus: Bus, node: str) -> None:
        while True:
            begun = time.monotonic()
            try:
                await bus.request(subjects.node(node, "status"), NodeStatusRequest(), NodeStatus)
            except StosError as error:
                self.failures.append(str(error))
            self.asked += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            await asyncio.sleep(ASKED_EVERY_S)


@asynccontextmanager
async def asking(cluster: AlteredCluster, directory: Path, node: str) -> AsyncIterator[Asker]:
    identity = Identity.load(await Arms(cluster, directory).enrolled("user", "asker", "viewer"))
    bus = await Bus.connect(identity, list(cluster.state().nats_urls), name="asker", wait=True)
    asker = Asker()
    # As in every process that lives long: who never says that it uses the new root holds the rotation up.
    works = (asker.run(bus, node), keep_renewed(identity, bus), Follower(identity, bus).run())
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield asker
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()


def readmit_admin(cluster: AlteredCluster) -> None:
    """Nobody renews the administrator's identity while no command runs, and here it lives for a minute."""
    shutil.rmtree(cluster.layout.identity(ADMIN))
    admit(cluster.layout, members(cluster.layout, cluster.state()))


async def calm(recorder: Recorder, seconds: float) -> float:
    """The load goes on for that long; the longest pause in milliseconds."""
    recorder.gap.take()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await completed(recorder, 100)
    return recorder.gap.take() / 1e6


async def test_everything_rotates_under_load(tmp_path: Path) -> None:
    cluster = AlteredCluster(tmp_path / "dev", settings={"certs": {"STOS_CERTS_CERTIFICATE_LIFE_S": str(LIFE_S)}})
    await asyncio.to_thread(cluster.up)
    try:
        await rotate_under_load(cluster, tmp_path / "arms")
    finally:
        assert await asyncio.to_thread(cluster.stop) == []


async def rotate_under_load(cluster: AlteredCluster, directory: Path) -> None:
    running = RunningCluster(cluster)
    made = await asyncio.to_thread(running.stos, "volume", "create", VOLUME, "--size", "64MiB")
    assert made.code == 0, made.errors
    watch, gaps, sleeper = Watch(cluster), Pauses(), Sleeper()
    watching = asyncio.create_task(watch.run())
    sleeper.start()
    begun = time.monotonic()
    try:
        async with running.writing(VOLUME) as recorder, asking(cluster, directory, "app") as asker:
            recorder.gap = gaps
            pauses = {"before": await calm(recorder, SECONDS * 0.25)}

            await asyncio.to_thread(readmit_admin, cluster)
            primary = (await asyncio.to_thread(running.json, "volume", "show", VOLUME))["primary"]
            recorder.gap.take()
            await asyncio.to_thread(cluster.kill, primary)
            await completed(recorder, 500)
            failover_ms = recorder.gap.take() / 1e6
            await asyncio.to_thread(readmit_admin, cluster)
            await asyncio.to_thread(cluster.start, primary)
            await running.in_sync(VOLUME, 3)
            pauses["come-back"] = recorder.gap.take() / 1e6

            old = set.union(*watch.roots().values())
            assert len(old) == 1
            socket = str(cluster.layout.certs_admin_socket)
            changed = await asyncio.to_thread(running.stos, "certs", "rotate", "--root", "--socket", socket)
            assert changed.code == 0, changed.errors
            rotated = time.monotonic()
            pauses["root"] = 0.0
            while set.union(*watch.roots().values()) & old:
                late = time.monotonic() > rotated + RETIRED_WITHIN_S
                assert not late, await asyncio.to_thread(lambda: running.stos("certs", "ls", "--socket", socket).output)
                pauses["root"] = max(pauses["root"], await calm(recorder, 1.0))
            root_s = time.monotonic() - rotated
            assert len(set.union(*watch.roots().values())) == 1
            pauses["after"] = await calm(recorder, max(LIFE_S / 2, begun + SECONDS - time.monotonic()))
            errors, writes = recorder.history.errors, recorder.history.completed
        await asyncio.to_thread(readmit_admin, cluster)
        await running.in_sync(VOLUME, 3)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        sleeper.stop()
        for line in longest(gaps.noted, sleeper, cluster.layout.logs):
            print(f"\n{line}", file=sys.__stderr__)

    took_s = time.monotonic() - begun
    certificates = {name: len(serials) for name, serials in sorted(watch.serials.items())}
    figures = {
        "seconds": round(took_s),
        "writes": writes,
        "errors": errors,
        "failover_ms": round(failover_ms),
        "pauses_ms": {name: round(pause) for name, pause in pauses.items()},
        "root_change_s": round(root_s, 1),
        "certificates": certificates,
        "shortest_left_s": round(watch.shortest.total_seconds(), 1),
        "asked": asker.asked,
        "asked_in_vain": len(asker.failures),
        "slowest_answer_ms": round(asker.slowest_s * 1000),
    }
    print(f"\nrotation under load: {json.dumps(figures)}", file=sys.__stderr__)
    assert errors == 0, figures
    assert failover_ms * 1e6 <= FAILOVER_NS_MAX, figures
    assert max(pauses.values()) * 1e6 <= PAUSE_NS_MAX, figures
    assert watch.expired == [], figures
    # A quarter of the life, some jitter, and twice for the root: at the very least one every half life.
    assert min(certificates.values()) >= took_s / (LIFE_S / 2), figures
    assert asker.failures == [], figures
    assert disagreements(running.copies(VOLUME)) == []
