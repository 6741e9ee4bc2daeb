"""The simulated disk: what a process finds when it starts again."""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.store import Disk
from tests.support.voters import A


@pytest.mark.parametrize("end", ["closed", "killed", "without power"])
def test_a_disk_that_failed_is_opened_anew_however_its_process_ended(end: str) -> None:
    disk = Disk("v", A, 64)
    disk.fail("no space left on device")
    assert disk.failure
    match end:
        case "closed":
            disk.close(Random(1))
        case "killed":
            disk.killed(Random(1), ())
        case _:
            disk.power_lost(Random(1), ())
    assert not disk.failure and disk.votes
    assert disk.unclean, "what it holds is not trusted (S3)"
