"""How a benchmark ends: what it says to its caller, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.running import run
from stoscore.errors import unavailable


@pytest.fixture(autouse=True)
def the_signal_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_ends_as_the_measurement_says(tmp_path: Path) -> None:
    def measure(directory: Path) -> int:
        (directory / "cluster").mkdir()
        return 1

    assert run("bench", measure, tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_asked_to_end_it_cleans_up_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(directory: Path) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert run("bench-csi", measure, tmp_path) == 130
    assert "bench-csi: interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [unavailable("nobody answers"), TimeoutError("too slow"), OSError("disk full")])
def test_a_failure_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    def measure(directory: Path) -> int:
        raise error

    assert run("bench-idle", measure, tmp_path) == 1
    assert capsys.readouterr().err == f"bench-idle: {error}\n"
    assert not list(tmp_path.iterdir())
