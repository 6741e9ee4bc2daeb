"""From an empty directory to a verdict: cluster up, the story, cluster down, the figures written."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from services.dev.cluster import Cluster
from services.dev.demo import summary
from services.dev.demo.cleanup import nothing_running
from services.dev.demo.context import Context, DemoFailed
from services.dev.demo.csi import CsiClient
from services.dev.demo.scenario import play
from services.dev.demo.summary import Findings
from services.dev.demo.tools import Command
from services.dev.demo.view import View, open_view, print_outcome
from services.dev.demo.watch import Watch
from services.dev.layout import ADMIN
from services.dev.state import ClusterState
from stoscore.bus import Bus
from stoscore.errors import StosError, unavailable
from stoscore.identity import Identity

_CONNECT_TIMEOUT_S = 10.0
_PLAY_TIMEOUT_S = 300.0
"""Longer than it may take, so that a slow machine still gets figures; but it ends."""


def run(directory: Path, *, keep: bool) -> bool:
    """True when everything held. The figures are in `directory`/summary.json, the logs in its `logs`."""
    started_s = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    findings = Findings()
    directory = directory.absolute()
    cluster = _fresh_cluster(directory)
    view = open_view()
    try:
        view.step("a cluster starts: certificates, NATS, placement, CSI, three nodes and one for the application")
        _play_on(cluster, view, findings)
    finally:
        view.close()
        _stop(cluster, findings)
    findings.elapsed_s = time.monotonic() - started_s
    summary.judge(findings)
    summary.write(directory, findings)
    _keep_logs(cluster, directory)
    if findings.all_held and not keep:
        cluster.remove()
    print_outcome(findings)
    print(f"figures: {directory / 'summary.json'}   logs: {directory / 'logs'}")
    return findings.all_held


def _fresh_cluster(directory: Path) -> Cluster:
    """What an earlier run left is stopped and removed: only what `cluster.json` says was ours."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(directory / "cluster")
    if cluster.layout.state.exists():
        cluster.stop()
        cluster.remove()
    return cluster


def _play_on(cluster: Cluster, view: View, findings: Findings) -> None:
    """The story; what could not be done becomes a check that did not hold."""
    try:
        state = cluster.up(say=view.say)
        asyncio.run(_play(cluster, state, view, findings))
        findings.check("the story was played to its end", True, "yes")
    except grpc.aio.AioRpcError as error:
        _gave_up(view, findings, f"CSI answered {error.code().name}: {error.details()}")
    except (DemoFailed, StosError, TimeoutError, OSError) as error:
        _gave_up(view, findings, str(error) or type(error).__name__)


def _gave_up(view: View, findings: Findings, why: str) -> None:
    view.say(f"given up: {why}")
    findings.check("the story was played to its end", False, why)


async def _play(cluster: Cluster, state: ClusterState, view: View, findings: Findings) -> None:
    layout = cluster.layout
    csi = CsiClient(layout.csi_socket("controller"), layout.csi_socket("node"))
    async with _bus(cluster, state) as bus:
        watch = Watch(bus, state.nodes)
        view.scene.nodes, view.scene.seen = state.nodes, watch.seen
        watching = asyncio.create_task(watch.run())
        try:
            async with asyncio.timeout(_PLAY_TIMEOUT_S):
                await play(Context(cluster, Command(layout.root), csi, watch, view, findings))
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await csi.close()


@asynccontextmanager
async def _bus(cluster: Cluster, state: ClusterState) -> AsyncIterator[Bus]:
    identity = Identity.load(cluster.layout.identity(ADMIN))
    bus = await Bus.connect(identity, list(state.nats_urls), name="stos-demo")
    try:
        if not await bus.wait_connected(_CONNECT_TIMEOUT_S):
            raise unavailable("NATS does not answer", f"see {cluster.layout.log('nats')}")
        yield bus
    finally:
        await bus.close()


def _stop(cluster: Cluster, findings: Findings) -> None:
    if not cluster.layout.state.exists():
        return
    ports = list(cluster.state().ports.values())
    stubborn = cluster.stop()
    nothing_running(cluster, findings, stubborn, ports)


def _keep_logs(cluster: Cluster, directory: Path) -> None:
    if cluster.layout.logs.exists():
        shutil.copytree(cluster.layout.logs, directory / "logs", dirs_exist_ok=True)
