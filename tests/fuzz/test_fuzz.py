"""What the fuzzer kept is replayed; in the slow suite it looks on for ten minutes at each place."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.__main__ import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
SECONDS = 600


def kept(target: Any, name: str) -> list[bytes]:
    return [*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).iterdir()))]


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_is_accepted_or_ends_in_the_protocols_error(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.{name}")
    for data in kept(target, name):
        target.run(data)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("nbd", "services.replica.nbd.protocol._requested_contexts"),
        ("nbd", "services.replica.nbd.pieces._cut"),
        ("peers", "services.replica.peers.payloads.unpack_ranges"),
        ("peers", "services.replica.replication.frontend._fits"),
        ("files", "services.replica.store.layer.hash_data"),
    ],
)
def test_another_error_would_be_noticed(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = importlib.import_module(f"tests.fuzz.{name}")
    module, function = place.rsplit(".", 1)

    def planted(*_: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr(importlib.import_module(module), function, planted)
    with pytest.raises(IndexError, match="planted"):
        for data in target.seeds():
            target.run(data)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_ten_minutes_find_nothing(name: str) -> None:
    if find_spec("atheris") is None:
        pytest.skip("NOT FUZZED: atheris is not installed (`make test-slow` installs it)")
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * 2, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
