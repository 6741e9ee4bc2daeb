"""What a brain that has nothing to do costs: no timer, and little memory."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

from services.replica.brain import Brain, Facts
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from stoscore.units import MS
from tests.support.voters import A, B, C, brain, record, slot, step

BRAINS = 1000
BYTES_MAX = 16 << 10
CLAIMED = Facts(promised_until_ns=1 << 60, promised_to=A.node, claimed_by=A.node)
LED = record(A, B, C, primary=A)


def follower(number: int) -> Brain:
    """One that has stored its leader's record and heard that it is committed."""
    volume = f"{number:032x}"
    agreed = slot(replace(LED, volume=volume, name=f"pvc-{volume}"), epoch=1)
    made = brain(B, agreed, epoch=1)
    step(made, ev.PeerUp(A.node))
    step(made, ev.Received(ms.Propose(volume, A, B, 1, agreed)), 1 * MS, CLAIMED)
    step(made, ev.Received(ms.Committed(volume, A, B, 1, agreed.stamp)), 2 * MS)
    return made


def test_a_thousand_idle_brains_are_small() -> None:
    follower(0)
    gc.collect()
    tracemalloc.start()
    try:
        made = [follower(number) for number in range(1, BRAINS + 1)]
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(each.role == "follower" for each in made)
    assert held / BRAINS <= BYTES_MAX, f"{held / BRAINS:.0f} bytes a brain"
    print(f"{held / BRAINS:.0f} bytes a brain")


def test_an_idle_follower_has_no_timer() -> None:
    """Its leader claims it: from then on beats are looked at once for all volumes of a pair."""
    made = follower(1)
    due = made.next_deadline_ns(CLAIMED)
    assert due is not None, "a new process asks once whether it still belongs"
    assert step(made, ev.TimePassed(), due, CLAIMED) == []
    assert made.next_deadline_ns(CLAIMED) is None
