"""docs/protocol-map.md names code, planted bugs, checks and tests that exist, and every rule has a row."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.simulation import checker, register, store
from tests.simulation.planted import PLANTED

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol-map.md").read_text()
RULES = [
    *(f"I{n}" for n in range(1, 5)),
    *(f"A{n}" for n in range(1, 7)),
    *(f"P{n}" for n in range(1, 7)),
    *(f"S{n}" for n in range(1, 5)),
    *(f"W{n}" for n in range(1, 6)),
    *(f"T{n}" for n in range(1, 5)),
    *(f"D{n}" for n in range(1, 4)),
    *(f"K{n}" for n in range(1, 5)),
]
ROWS = {cells[0]: cells for line in TEXT.splitlines() if len(cells := [c.strip() for c in line.split("|")[1:-1]]) == 3}


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_code_and_a_guard_that_exist(rule: str) -> None:
    _, code, guard = ROWS[rule]
    for name in names(code):
        module, _, path = name.partition(":")
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    file = ""
    for name in names(guard):
        if name.startswith("tests/"):
            file = (ROOT / name).read_text()
        elif name.startswith("_"):
            assert f"\ndef {name}(" in file, f"{name} is no planted bug of the file before it"
        elif "." in name:
            owner, _, attribute = name.partition(".")
            assert any(hasattr(getattr(m, owner, None), attribute) for m in (checker, register, store)), name
        else:
            assert name in PLANTED, f"{name} is no planted bug of the simulation"
    assert names(code) or "not built" in code
    assert "planted" in guard
