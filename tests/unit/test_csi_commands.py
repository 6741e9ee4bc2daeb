"""Running programs: their output, their failures, their time limit, and the daemons that they leave."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from services.csi.commands import missing, run
from stoscore.errors import Code, StosError

# The service runs on uvloop, whose child processes inherit more than asyncio's own.
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Any:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    with asyncio.Runner(loop_factory=factory) as running:
        yield running


def test_what_a_program_says(runner: asyncio.Runner) -> None:
    done = runner.run(run(["sh", "-c", "echo out; echo err >&2; exit 3"]))
    assert (done.code, done.output, done.errors) == (3, "out\n", "err\n")
    with pytest.raises(StosError) as caught:
        done.check()
    assert caught.value.code is Code.INTERNAL
    assert "err" in caught.value.message
    assert runner.run(run(["true"])).check().output == ""


def test_a_program_that_is_not_installed(runner: asyncio.Runner) -> None:
    with pytest.raises(StosError) as caught:
        runner.run(run(["no-such-program"]))
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "util-linux" in str(missing("losetup"))


def test_a_program_that_hangs(runner: asyncio.Runner) -> None:
    started = time.monotonic()
    with pytest.raises(StosError) as caught:
        runner.run(run(["sleep", "60"], timeout_s=0.2))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5


def test_a_daemon_that_is_left_behind_is_not_waited_for(runner: asyncio.Runner) -> None:
    started = time.monotonic()
    done = runner.run(run(["sh", "-c", "sleep 5 & echo started"]))
    assert done.check().output == "started\n"
    assert time.monotonic() - started < 4


def test_a_lock_goes_on_in_the_program(runner: asyncio.Runner) -> None:
    reading, writing = os.pipe()
    try:
        done = runner.run(run(["sh", "-c", f"echo locked > /dev/fd/{writing}"], pass_fds=[writing]))
        assert done.check().code == 0
        assert os.read(reading, 100) == b"locked\n"
    finally:
        os.close(reading)
        os.close(writing)
