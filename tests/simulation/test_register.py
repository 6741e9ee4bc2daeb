"""What a block may hold, in cases that a simulated run meets once in thousands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from tests.simulation.register import Registers
from tests.simulation.world import World

VOLUME = "v"


def never_told(registers: Registers, frontend: int, content: int) -> None:
    """A frontend asks for a write of block 0, and dies before it is told."""
    registers.submitted(VOLUME, frontend, frontend, 0, [content])
    registers.gone(VOLUME, frontend)


def read(registers: Registers, frontend: int, content: int) -> None:
    registers.read_asked(VOLUME, frontend, 0, 1)
    registers.read(VOLUME, frontend, 1, frontend, 0, [content], 0)


def test_a_power_loss_may_bring_back_any_write_that_happened_before_the_one_that_was_read() -> None:
    registers = Registers(cast(World, SimpleNamespace(now_ns=1)))
    never_told(registers, 1, 86)
    never_told(registers, 2, 178)
    read(registers, 3, 178)
    assert registers.volume(VOLUME).now(0) == {178}
    registers.relax(VOLUME, 2)
    assert registers.volume(VOLUME).now(0) == {0, 86, 178}


def test_what_was_flushed_after_it_was_read_is_all_that_a_power_loss_may_bring_back() -> None:
    registers = Registers(cast(World, SimpleNamespace(now_ns=1)))
    never_told(registers, 1, 86)
    never_told(registers, 2, 178)
    read(registers, 3, 178)
    registers.flush_asked(VOLUME, 4)
    registers.flush_done(VOLUME, 3, 1, 4)
    registers.relax(VOLUME, 2)
    assert registers.volume(VOLUME).now(0) == {178}


def test_a_power_loss_may_bring_back_a_failed_write_that_a_read_did_not_show() -> None:
    """It was on one copy when the next primary undid it there."""
    registers = Registers(cast(World, SimpleNamespace(now_ns=1)))
    registers.submitted(VOLUME, 1, 1, 0, [27])
    registers.failed(VOLUME, 1, 1, 0, 1)
    read(registers, 1, 0)
    assert registers.volume(VOLUME).now(0) == {0}
    registers.relax(VOLUME, 2)
    assert registers.volume(VOLUME).now(0) == {0, 27}


def test_a_flush_after_the_read_ends_that() -> None:
    registers = Registers(cast(World, SimpleNamespace(now_ns=1)))
    registers.submitted(VOLUME, 1, 1, 0, [27])
    registers.failed(VOLUME, 1, 1, 0, 1)
    read(registers, 1, 0)
    registers.flush_asked(VOLUME, 2)
    registers.flush_done(VOLUME, 1, 1, 2)
    registers.relax(VOLUME, 2)
    assert registers.volume(VOLUME).now(0) == {0}
