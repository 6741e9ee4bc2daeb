"""Every kind of decision that a brain can make, read from its source: what a run has to reach.

A list kept by hand would miss the newest, which is the one that nobody has tested.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from services.replica import brain

KIND_AT = {"Verdict": 0, "Outcome": 1}
"""Constructor -> position of its argument that names the kind."""
UNREACHABLE = {
    "misunderstood": "a message of another version of the program: there is one version here",
}
"""Kinds that no simulation reaches, with the reason."""


def _named(source: ast.AST) -> Iterator[str]:
    for node in ast.walk(source):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in KIND_AT:
            continue
        at = KIND_AT[node.func.id]
        given = [node.args[at]] if len(node.args) > at else [k.value for k in node.keywords if k.arg == "kind"]
        for value in given:
            yield from (part.value for part in ast.walk(value) if _is_kind(part))  # type: ignore[attr-defined]


def _is_kind(part: ast.AST) -> bool:
    return isinstance(part, ast.Constant) and isinstance(part.value, str) and bool(part.value)


def all_kinds() -> frozenset[str]:
    room = Path(brain.__file__).parent
    return frozenset(kind for path in sorted(room.glob("*.py")) for kind in _named(ast.parse(path.read_text())))


KINDS = tuple(sorted(all_kinds() - set(UNREACHABLE)))
