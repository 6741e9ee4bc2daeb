"""Identities and time: clocks that are wrong, a certs service that is away for three of four days, lost authorities."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.certs.founding import found
from services.certs.settings import CertsSettings
from services.certs.vault import open_vault
from stoscore import subjects
from stoscore.admission import ensure_identity, keep_admitted
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.certs_messages import RotateAuthority, Rotated
from stoscore.enrolment import admin_call, issue_token
from stoscore.files import locked, write_private
from stoscore.following import Follower, refresh
from stoscore.identity import Identity
from stoscore.messages import DescribeReplica, Empty
from stoscore.renewal import keep_renewed
from stoscore.settings import CommonSettings
from stoscore.volumes import Volumes
from tests.support.certs_process import CertsProcess
from tests.support.nats_service import free_port
from tests.support.service_process import ServiceProcess

pytestmark = pytest.mark.long

VOLUME = "0123456789abcdef" * 2
FAKETIME = shutil.which("faketime")
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="needs Debian's package faketime")


@asynccontextmanager
async def control(directory: Path, *, nats: bool = True, **settings: str) -> AsyncIterator[CertsProcess]:
    directory.mkdir(exist_ok=True)
    process = CertsProcess(directory, **settings)
    try:
        await asyncio.to_thread(process.start)
        if nats:
            await asyncio.to_thread(process.nats.start)
        yield process
    finally:
        await asyncio.to_thread(process.stop)


@asynccontextmanager
async def running(
    service: str, directory: Path, certs: CertsProcess, *, wrapper: Sequence[str] = (), **settings: str
) -> AsyncIterator[ServiceProcess]:
    """Not yet started."""
    directory.mkdir(parents=True)
    process = ServiceProcess(service, directory, wrapper=wrapper, STOS_NATS_URLS=certs.nats_urls[0], **settings)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.stop)


async def give_token(certs: CertsProcess, process: ServiceProcess, kind: str, name: str) -> None:
    write_private(process.token_file, (await issue_token(certs.socket, kind, name)).encode())


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


class Talk:
    """A node that answers and a user who asks all the time, each with all that keeps its identity."""

    def __init__(self, certs: CertsProcess):
        self._certs = certs
        self.asked = 0
        self._stack = AsyncExitStack()
        self.node: Identity
        self.user: Identity

    async def __aenter__(self) -> Talk:
        self.node = await self._certs.enrolled("node", "n1")
        self.user = await self._certs.enrolled("user", "admin")
        buses = [await self._bus(identity) for identity in (self.node, self.user)]

        async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
            await asyncio.sleep(0.02)
            return Empty()

        await buses[0].serve(subjects.node("n1", "describe"), DescribeReplica, describe)
        self._asking = self._work(self._ask(buses[1]))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def _bus(self, identity: Identity) -> Bus:
        bus = await self._certs.bus(identity)
        self._stack.push_async_callback(bus.close)
        self._work(keep_renewed(identity, bus))
        self._work(Follower(identity, bus).run())
        return bus

    def _work(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)
        return task

    async def _ask(self, bus: Bus) -> None:
        while True:
            await bus.request(subjects.node("n1", "describe"), DescribeReplica(volume=VOLUME), Empty)
            self.asked += 1

    def check(self) -> None:
        """No request failed."""
        if self._asking.done():
            self._asking.result()


# ---- clocks ------------------------------------------------------------------------------------------------


def skewed(minutes: int) -> list[str]:
    assert FAKETIME is not None
    return ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", FAKETIME, "-f", f"{minutes * 60:+d}s"] if minutes else []


@needs_faketime
@pytest.mark.slow
async def test_nodes_whose_clocks_are_five_minutes_off(tmp_path: Path) -> None:
    """One behind, one ahead, at default lifetimes: they enrol, renew, link to each other and hold a volume together."""
    async with control(tmp_path / "certs") as certs, AsyncExitStack() as stack:
        nodes = {"n1": -5, "n2": +5, "n3": 0}
        (tmp_path / "run").mkdir()
        processes = {}
        for node, minutes in nodes.items():
            processes[node] = await stack.enter_async_context(
                running(
                    "replica",
                    tmp_path / node,
                    certs,
                    wrapper=skewed(minutes),
                    STOS_REPLICA_NODE=node,
                    STOS_REPLICA_ZONE=node,
                    STOS_REPLICA_DATA_DIR=str(tmp_path / node / "data"),
                    STOS_REPLICA_RUN_DIR=str(tmp_path / node / "run"),
                    STOS_REPLICA_LISTEN=f"127.0.0.1:{free_port()}",
                )
            )
            await give_token(certs, processes[node], "node", node)
        placement = await stack.enter_async_context(running("placement", tmp_path / "placement", certs))
        await give_token(certs, placement, "svc", "placement-1")
        for process in (placement, *processes.values()):
            process.start()
        for process in (placement, *processes.values()):
            await process.wait_logged("is ready")

        await admin_call(certs.socket, "rotate", RotateAuthority(what="issuer"), Rotated)
        for process in processes.values():
            await process.wait_logged("renewed")

        bus = await certs.bus(await certs.enrolled("user", "admin"))
        stack.push_async_callback(bus.close)
        volumes = Volumes(bus, Catalogue(bus))
        created = await volumes.create("data", 16 << 20, replicas=1)
        assert created.record is not None
        assert {voter.node for voter in created.record.voters} == set(nodes)
        for process in processes.values():
            await process.wait_logged("peer link up")  # the bus is a second way: the volume may be there first


@needs_faketime
async def test_a_clock_that_is_a_quarter_of_an_hour_off_is_named(tmp_path: Path) -> None:
    """And the wrapper of these tests does shift clocks."""
    async with (
        control(tmp_path / "certs", nats=False) as certs,
        running("placement", tmp_path / "placement", certs, wrapper=skewed(-15)) as placement,
    ):
        await give_token(certs, placement, "svc", "placement-1")
        placement.start()
        await placement.wait_logged("or the clock of this machine is off by more than five minutes")
        assert not Identity.exists(placement.identity_dir)


# ---- certs is away -----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_certs_may_be_away_for_three_quarters_of_a_life(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three days of four, in 40 seconds: no request fails, and the warnings grow until somebody starts it again."""
    async with control(tmp_path / "certs", STOS_CERTS_CERTIFICATE_LIFE_S="40") as certs, Talk(certs) as talk:
        first = (talk.node.certificate, talk.user.certificate)
        await asyncio.to_thread(certs.kill)
        for said, level in (
            ("not renewed", logging.WARNING),
            ("more than half of the reserve is used up", logging.ERROR),
            ("and then nobody accepts this process any more: start certs", logging.ERROR),
        ):
            await until(lambda said=said: said in caplog.text)  # type: ignore[misc]
            assert level == next(one.levelno for one in caplog.records if said in one.getMessage())
            talk.check()
        assert talk.node.certificate == first[0]
        await asyncio.to_thread(certs.start)
        await until(lambda: talk.node.certificate != first[0] and talk.user.certificate != first[1], 20)
        asked = talk.asked
        await until(lambda: talk.asked > asked + 20)
        talk.check()
        assert "has expired" not in caplog.text


@pytest.mark.slow
async def test_an_expired_process_comes_back_with_a_token(tmp_path: Path) -> None:
    """certs was away for longer still. The process lives, says what to do, and needs no restart."""
    async with (
        control(tmp_path / "certs", nats=False, STOS_CERTS_CERTIFICATE_LIFE_S="6") as certs,
        running("placement", tmp_path / "placement", certs) as placement,
    ):
        await give_token(certs, placement, "svc", "placement-1")
        placement.start()
        await placement.wait_logged("enrolled")
        first = Identity(placement.identity_dir)
        await asyncio.to_thread(certs.kill)
        await placement.wait_logged("the certificate has expired")
        await asyncio.to_thread(certs.start)
        await give_token(certs, placement, "svc", "placement-1")
        await placement.wait_logged("this process has a new identity")
        assert placement.alive
        assert Identity(placement.identity_dir).certificate != first.certificate


async def test_a_command_renews_what_the_next_one_will_use(tmp_path: Path) -> None:
    """Nobody keeps a person's identity but the person's own commands; and a role lasts."""
    async with control(tmp_path / "certs", STOS_CERTS_CERTIFICATE_LIFE_S="20") as certs:
        eve = await certs.enrolled("user", "eve", "viewer")
        bus = await certs.bus(eve)

        async def commands_until_renewed() -> None:
            before = eve.certificate
            async with asyncio.timeout(60):
                while eve.certificate == before:
                    assert await refresh(eve, bus) == ""
                    await asyncio.sleep(0.05)

        before = eve.certificate
        with locked(eve.directory, "the identity", "wait"):  # another command is about it
            await until(lambda: datetime.now(UTC) >= eve.renew_at)
            assert await refresh(eve, bus) == ""
        assert eve.certificate == before
        await commands_until_renewed()
        again = Identity.load(eve.directory)
        assert again.certificate == eve.certificate
        assert again.role == eve.role == "viewer"

        await admin_call(certs.socket, "rotate", RotateAuthority(what="issuer"), Rotated)
        await commands_until_renewed()
        assert eve.renew_at > datetime.now(UTC)  # it was not its age

        await asyncio.to_thread(certs.kill)
        await until(lambda: eve.not_after - datetime.now(UTC) < timedelta(seconds=7))
        assert "your identity eve ends in 0 min" in await refresh(eve, bus)
        await bus.close()


# ---- the root changes --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_root_is_rotated_under_requests(tmp_path: Path) -> None:
    """Everybody ends below the new root, trusts no other, and no request failed on the way."""
    async with control(tmp_path / "certs", STOS_CERTS_CERTIFICATE_LIFE_S="24") as certs, Talk(certs) as talk:
        old = talk.node.roots
        await admin_call(certs.socket, "rotate", RotateAuthority(what="root"), Rotated)
        for identity in (talk.node, talk.user):
            await until(lambda identity=identity: not set(identity.roots) & set(old), 120)  # type: ignore[misc]
            again = Identity.load(identity.directory)
            assert again.roots == identity.roots
            assert len(again.roots) == 1
        asked = talk.asked
        await until(lambda: talk.asked > asked + 20)
        talk.check()
        late = await certs.enrolled("node", "late")
        assert late.roots == talk.node.roots


# ---- the authority is lost ---------------------------------------------------------------------------------


async def anew(directory: Path, cluster: str, after: Identity) -> CertsProcess:
    """An authority for the same cluster on an empty vault, as the recovery makes one."""
    while datetime.now(UTC) - timedelta(minutes=10) < after.roots[0].not_valid_before_utc + timedelta(seconds=1):
        await asyncio.sleep(0.1)
    directory.mkdir()
    certs = CertsProcess(directory)
    settings = CertsSettings(data_dir=certs.data)
    vault = open_vault(settings)
    found(settings, vault, lambda: datetime.now(UTC), cluster)
    vault.close()
    await asyncio.to_thread(certs.start)
    return certs


async def test_a_lost_authority_is_replaced_under_a_running_process(tmp_path: Path) -> None:
    """A token of the new one is all that it takes, for a process that runs and for one that starts."""
    async with (
        control(tmp_path / "old", nats=False) as old,
        running("placement", tmp_path / "placement", old) as placement,
    ):
        node = await old.enrolled("node", "n1")
        await give_token(old, placement, "svc", "placement-1")
        placement.start()
        await placement.wait_logged("enrolled")
        await asyncio.to_thread(old.kill)
        new = await anew(tmp_path / "new", node.cluster, node)
        try:
            await give_token(new, placement, "svc", "placement-1")
            await placement.wait_logged("this process has a new identity")
            moved = Identity.load(placement.identity_dir)
            assert not set(moved.roots) & set(node.roots)
            assert placement.alive

            token_file = tmp_path / "token"
            write_private(token_file, (await issue_token(new.socket, "node", "n1")).encode())
            settings = CommonSettings(join_token_file=token_file)
            again = await ensure_identity(settings, node.directory, "node")
            assert again.roots == moved.roots
            assert again.uri == node.uri
        finally:
            await asyncio.to_thread(new.stop)


async def test_a_good_identity_ends_no_process(tmp_path: Path) -> None:
    """The keeper of an identity has nothing to do, and does nothing, whatever lies in the token file."""
    async with control(tmp_path / "certs", nats=False) as certs:
        node = await certs.enrolled("node", "n1")
        token_file = tmp_path / "token"
        settings = CommonSettings(join_token_file=token_file)
        bus = await Bus.connect(node, certs.nats_urls, name="test")
        before = node.certificate
        for content in (await issue_token(certs.socket, "node", "n1"), "rubbish", ""):
            write_private(token_file, content.encode())
            keeping = asyncio.create_task(keep_admitted(settings, node, bus))
            done, _ = await asyncio.wait([keeping], timeout=0.5)
            assert not done
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        assert node.certificate == before
        await bus.close()
