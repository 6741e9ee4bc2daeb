"""A process is ready when it says so after its start; one that never will be is named with its last words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from services.dev.processes import spawn, terminate
from services.dev.readiness import Starting, says_ready, wait_ready
from stoscore.errors import StosError

READY = '{"level": "info", "message": "certs is ready"}'


@pytest.mark.parametrize("line", [READY, f"something\n{READY}\nmore"])
def test_ready(line: str) -> None:
    assert says_ready(line)


@pytest.mark.parametrize(
    "line", ["", "certs is ready", READY[:-3], '{"message": "is not ready yet"}', '["is ready"]', "{}"]
)
def test_not_ready(line: str) -> None:
    assert not says_ready(line)


def starting(tmp_path: Path, program: str, before: str = "") -> Starting:
    log = tmp_path / "log"
    log.write_text(before)
    process = spawn([sys.executable, "-c", program], {"PATH": os.environ["PATH"]}, log, tmp_path)
    return Starting("n1", process, log, len(before))


def test_waits_until_the_line_comes(tmp_path: Path) -> None:
    one = starting(tmp_path, f"import time; time.sleep(0.2); print('''{READY}''', flush=True); time.sleep(60)")
    wait_ready([one], 10)
    terminate([one.process], 5)


def test_an_early_end_is_told_with_the_last_words(tmp_path: Path) -> None:
    one = starting(tmp_path, "print('stos serve replica: the port is taken'); raise SystemExit(2)")
    with pytest.raises(StosError, match=r"n1 ended at its start: .*the port is taken"):
        wait_ready([one], 10)


def test_the_readiness_of_an_earlier_life_does_not_count(tmp_path: Path) -> None:
    one = starting(tmp_path, "import time; time.sleep(60)", before=f"{READY}\n")
    with pytest.raises(StosError, match="not ready within"):
        wait_ready([one], 0.2)
    terminate([one.process], 5)
