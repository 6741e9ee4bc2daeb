"""Tables and errors: nothing that somebody else chose reaches the terminal unescaped."""

from __future__ import annotations

import json

import pytest

from services.cli.output import fields, plain, report, table, wants_json
from stoscore.errors import Code, StosError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("data-1", "data-1"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("a\u202eb\u200bc", "a\\u202eb\\u200bc"),
        ("[bold red]x[/]", "[bold red]x[/]"),
        ("Größe 容量", "Größe 容量"),
    ],
)
def test_only_printable_characters_are_shown(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_table_is_aligned_and_cuts_nothing() -> None:
    assert table(("NAME", "SIZE"), [("a" * 100, 1), ("b", "x\ny")]).splitlines() == [
        "NAME" + " " * 98 + "SIZE",
        "a" * 100 + "  1",
        "b" + " " * 101 + "x\\ny",
    ]


def test_fields_are_one_line_each() -> None:
    assert fields([("name", "data"), ("in sync", "n1\x07")]) == "name     data\nin sync  n1\\x07"


def test_an_error_is_two_lines_or_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    error = StosError(Code.NOT_FOUND, "no volume\x1b", next_step="see ls", details={"a": 1})
    report(error, as_json=False)
    assert capsys.readouterr().err == "error: no volume\\x1b\nnext: see ls\n"
    report(error, as_json=True)
    assert json.loads(capsys.readouterr().err) == {"error": error.to_wire()}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["volume", "ls", "-o", "json"], True),
        (["volume", "ls", "-ojson"], True),
        (["volume", "ls", "--output=json"], True),
        (["volume", "ls", "--output", "json"], True),
        (["volume", "ls", "-o", "table"], False),
        (["volume", "show", "json"], False),
    ],
)
def test_json_is_recognised_before_the_arguments_are_parsed(arguments: list[str], wanted: bool) -> None:
    assert wants_json(arguments) is wanted
