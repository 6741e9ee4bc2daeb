"""When an identity is renewed, and how loudly it is told that it was not."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from stoscore.identity import Identity
from stoscore.renewal import JITTER, alarm, renewal_time
from stoscore.renewal import _until_due as until_due
from tests.support.ca import TestAuthority

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
RESERVE = 3 * DAY


def test_a_cluster_does_not_renew_in_step(tmp_path: Path) -> None:
    identity = TestAuthority().issue(tmp_path, "n1", valid=4 * DAY)
    reserve = identity.not_after - identity.renew_at
    times = [renewal_time(identity, dice / 10) for dice in range(11)]
    assert times[0] == identity.renew_at
    assert times == sorted(set(times))
    assert abs(times[-1] - times[0] - JITTER * reserve) < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("left", "level", "said"),
    [
        (RESERVE, logging.WARNING, ""),
        (RESERVE / 2 + HOUR, logging.WARNING, ""),
        (RESERVE / 2 - HOUR, logging.ERROR, "more than half of the reserve is used up, 35 h 0 min are left"),
        (DAY + HOUR, logging.ERROR, "is certs running?"),
        (DAY, logging.ERROR, "ends in 24 h 0 min, and then nobody accepts this process any more: start certs"),
        (timedelta(seconds=90), logging.ERROR, "ends in 1 min 30 s"),
        (timedelta(0), logging.CRITICAL, "has expired"),
        (-DAY, logging.CRITICAL, "STOS_JOIN_TOKEN_FILE"),
    ],
)
def test_the_less_is_left_the_louder(left: timedelta, level: int, said: str) -> None:
    told = alarm(left, RESERVE)
    assert told[0] == level
    assert said in told[1]
    assert bool(told[1]) == (level > logging.WARNING)


def test_the_last_day_of_a_short_life_is_short() -> None:
    reserve = timedelta(seconds=45)
    assert "is certs running?" in alarm(timedelta(seconds=16), reserve)[1]
    assert "start certs" in alarm(timedelta(seconds=15), reserve)[1]


async def test_a_wish_of_certs_wakes_who_sleeps_until_tomorrow(tmp_path: Path) -> None:
    authority = TestAuthority()
    certs, identity = authority.issue(tmp_path, "certs", kind="svc"), authority.issue(tmp_path, "n1", valid=4 * DAY)
    changed = asyncio.Event()
    identity.on_trust_change.append(changed.set)
    waiting = asyncio.create_task(until_due(identity, changed, 0))
    await asyncio.sleep(0)
    identity.apply_trust(authority.trust(certs, 1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    identity.apply_trust(authority.trust(certs, 2, renew_issued_before_s=identity.peer.issued_s + 1))
    async with asyncio.timeout(20):  # it waits up to five seconds, so that not all ask at once
        await waiting


async def test_what_is_due_is_due_at_once(tmp_path: Path) -> None:
    identity: Identity = TestAuthority().issue(tmp_path, "n1", valid=timedelta(seconds=1))
    async with asyncio.timeout(20):
        await until_due(identity, asyncio.Event(), 0)
