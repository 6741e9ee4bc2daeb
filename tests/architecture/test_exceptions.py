"""Whoever sets a rule of security aside says why, on the same line."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_EXCEPTION = re.compile(r"#\s*noqa(?P<codes>:\s*[A-Z0-9, ]+)?(?P<reason>.*)")


def exceptions() -> list[tuple[str, str, str]]:
    """(place, rules, what follows)"""
    found = []
    for top in ("libs", "services"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if "_pb2" in path.name:
                continue
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                match = _EXCEPTION.search(line)
                if match:
                    place = f"{path.relative_to(ROOT)}:{number}"
                    found.append((place, match["codes"] or "", match["reason"].strip()))
    return found


def test_no_exception_sets_all_rules_aside() -> None:
    assert [place for place, codes, _ in exceptions() if not codes] == []


def test_each_exception_from_a_rule_of_security_has_its_reason() -> None:
    of_security = [(place, reason) for place, codes, reason in exceptions() if re.search(r"\bS\d", codes)]
    assert of_security, "the search finds nothing"
    assert [place for place, reason in of_security if not re.fullmatch(r"\(.{3,}\)", reason)] == []
