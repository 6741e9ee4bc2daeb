"""A file system is held still for a snapshot, and moves again whoever dies: a real one, on a loop device."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.csi import freezer
from services.csi.freezing import Freezing
from services.dev.demo.tools import why_no_mount

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount"),
]
VOLUME = "ab" * 16
LONG_S = 10.0
"""More than any test takes that does not wait for it."""


class Attached:
    """An attacher that has one volume."""

    name = "loop"

    def __init__(self, device: str):
        self.device = device

    async def attached(self) -> dict[str, str]:
        return {VOLUME: self.device}


@pytest.fixture(params=["ext4", "xfs"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The device and where it is mounted."""
    image, path = tmp_path / "image", tmp_path / "mounted"
    path.mkdir()
    subprocess.run(["truncate", "--size", "320M", image], check=True)
    subprocess.run([f"mkfs.{request.param}", "-q", image], check=True, capture_output=True)
    done = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    subprocess.run(["mount", device, path], check=True)
    yield device, path
    where = os.open(path, os.O_RDONLY)
    freezer.thaw(where)
    os.close(where)
    subprocess.run(["umount", path], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def freezing_of(mounted: tuple[str, Path]) -> Freezing:
    return Freezing([Attached(mounted[0])], mounted[1].parent / "notes")  # type: ignore[list-item]


async def done(*command: str | Path) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


async def written(path: Path, name: str) -> float:
    """How long it takes to write a file there."""
    since_s = time.monotonic()

    def write() -> None:
        with (path / name).open("wb") as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())

    await asyncio.to_thread(write)
    return time.monotonic() - since_s


async def test_nothing_is_written_until_it_thaws(mounted: tuple[str, Path]) -> None:
    freezing = freezing_of(mounted)
    frozen = await freezing.freeze(VOLUME, LONG_S)
    assert frozen.token, frozen.reason
    task = asyncio.create_task(written(mounted[1], "during"))
    await asyncio.sleep(0.3)
    assert not task.done()
    assert (await freezing.freeze(VOLUME, LONG_S)).reason == "it is frozen for another snapshot"
    assert not (await freezing.thaw(VOLUME, "another")).lasted
    assert not task.done(), "a word for another snapshot"
    thawed = await freezing.thaw(VOLUME, frozen.token)
    assert thawed.lasted and thawed.frozen_ms >= 300
    await task
    again = await freezing.freeze(VOLUME, LONG_S)
    assert again.token and (await freezing.thaw(VOLUME, again.token)).lasted


async def test_it_thaws_by_itself_and_that_is_told(mounted: tuple[str, Path]) -> None:
    freezing = freezing_of(mounted)
    frozen = await freezing.freeze(VOLUME, 0.3)
    await written(mounted[1], "after")
    assert not (await freezing.thaw(VOLUME, frozen.token)).lasted


async def test_nobody_comes_back_to_thaw_it_and_the_next_snapshot_freezes_it_again(mounted: tuple[str, Path]) -> None:
    freezing = freezing_of(mounted)
    assert (await freezing.freeze(VOLUME, 0.2)).token
    await written(mounted[1], "after")
    async with asyncio.timeout(LONG_S):
        while not (again := await freezing.freeze(VOLUME, LONG_S)).token:
            await asyncio.sleep(0.05)  # the program has thawed, and is about to end
    assert (await freezing.thaw(VOLUME, again.token)).lasted


async def test_of_two_at_once_one_freezes_it(mounted: tuple[str, Path]) -> None:
    freezing = freezing_of(mounted)
    found = await asyncio.gather(*(freezing.freeze(VOLUME, LONG_S) for _ in range(4)))
    (token,) = [frozen.token for frozen in found if frozen.token]
    assert (await freezing.thaw(VOLUME, token)).lasted


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_it_thaws_when_the_service_dies(mounted: tuple[str, Path], ending: signal.Signals) -> None:
    program = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from tests.integration.test_csi_freezing import VOLUME, freezing_of\n"
        "async def main():\n"
        "    frozen = await freezing_of((sys.argv[1], Path(sys.argv[2]))).freeze(VOLUME, 600.0)\n"
        "    print(frozen.token or frozen.reason, flush=True)\n"
        "    time.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, mounted[0], str(mounted[1]), stdout=asyncio.subprocess.PIPE
    )
    assert service.stdout is not None
    assert len((await service.stdout.readline()).strip()) == 16
    task = asyncio.create_task(written(mounted[1], "during"))
    await asyncio.sleep(0.2)
    assert not task.done()
    service.send_signal(ending)
    await service.wait()
    await asyncio.wait_for(task, LONG_S)


async def test_the_next_service_thaws_what_died_with_the_machines_programs(mounted: tuple[str, Path]) -> None:
    freezing, notes = freezing_of(mounted), mounted[1].parent / "notes"
    assert (await freezing.freeze(VOLUME, 600.0)).token
    note = (notes / VOLUME).read_text()
    freezing._held[VOLUME].program.kill()
    task = asyncio.create_task(written(mounted[1], "during"))
    await asyncio.sleep(0.2)
    assert not task.done()
    (notes / VOLUME).write_text(note)  # this service lives, and has seen the program's end
    await freezing_of(mounted).thaw_left()
    await asyncio.wait_for(task, LONG_S)
    assert not list(notes.iterdir())


async def test_what_is_not_mounted_or_frozen_already_is_told(mounted: tuple[str, Path]) -> None:
    freezing = freezing_of(mounted)
    assert "no file system" in (await freezing.freeze("cd" * 16, LONG_S)).reason
    await done("fsfreeze", "--freeze", mounted[1])
    refused = await freezing.freeze(VOLUME, LONG_S)
    assert not refused.token and "busy" in refused.reason.lower()
    await done("fsfreeze", "--unfreeze", mounted[1])
    await written(mounted[1], "after")
    await done("mount", "-o", "remount,ro", mounted[1])
    assert "for writing" in (await freezing.freeze(VOLUME, LONG_S)).reason
