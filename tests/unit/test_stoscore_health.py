"""The files by which a probe sees that a process lives and works."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from stoscore import health
from stoscore.errors import Code, StosError
from stoscore.health import ALIVE, READY, Health


async def test_alive_from_the_start_and_ready_when_told(tmp_path: Path) -> None:
    signs = Health(tmp_path / "health")
    async with signs.shown():
        assert [file.name for file in (tmp_path / "health").iterdir()] == [ALIVE]
        signs.ready()
        assert (tmp_path / "health" / READY).exists()
    assert not (tmp_path / "health" / READY).exists()


async def test_what_a_killed_process_left_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / READY).touch()
    async with Health(tmp_path).shown():
        assert not (tmp_path / READY).exists()


async def test_the_sign_is_renewed_while_the_loop_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BEAT_S", 0.01)
    async with Health(tmp_path).shown():
        os.utime(tmp_path / ALIVE, (1, 1))
        async with asyncio.timeout(30):
            while (tmp_path / ALIVE).stat().st_mtime == 1:
                await asyncio.sleep(0.01)


async def test_a_directory_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StosError, match="signs of life") as caught:
        async with Health(tmp_path / "file").shown():
            pass
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_without_a_directory_nothing_is_shown() -> None:
    signs = Health(None)
    async with signs.shown():
        signs.ready()
