"""docs/security.md says what the code does."""

from __future__ import annotations

import re

from tests.security.cases import CASES
from tests.security.document import DOCUMENT, roles_table, stolen_table, written_roles_table


def test_the_table_of_roles_is_the_codes() -> None:
    assert written_roles_table() == roles_table(), "python -m tests.security.document"


def test_the_table_of_the_stolen_node_is_readable() -> None:
    table = stolen_table()
    assert True in table.values()
    assert False in table.values()


def test_every_path_that_it_names_exists() -> None:
    root = DOCUMENT.parents[1]
    named = re.findall(r"`((?:docs|libs|services|tests)/[\w./-]+)`", DOCUMENT.read_text("utf-8"))
    assert len(named) >= 5
    assert [path for path in named if not (root / path).exists()] == []


def test_every_attack_has_a_weakening_and_nearly_every_one_an_event() -> None:
    """The exceptions are refused by a library, before anything of ours could tell: gRPC at the enrolment door. And a
    copy of what a leader said is no refusal: it changes nothing."""
    silent = {case.name for case in CASES if not case.audit}
    assert all(case.weakened for case in CASES)
    assert silent == {
        "administration-at-the-door",
        "an-enormous-request",
        "enrolment-in-plain-text",
        "enrolment-with-old-tls",
        "repeat-what-a-leader-said",
    }
