"""ruff and mypy --strict run clean over the whole project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--no-cache", "--output-format", "concise", "libs", "services", "tests")


@pytest.mark.slow
def test_mypy_strict_finds_nothing() -> None:
    run("mypy", "libs", "services")
