"""Tables and errors: nothing that somebody else chose reaches the terminal unescaped."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.output import fields, plain, report, table, toned, wants_json
from stoscore import tables
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


def in_black(text: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def test_colours_change_nothing_but_colours() -> None:
    headings = ("NAME", "STATE", "ID")
    rows = [("data", toned("healthy"), 1), ("healthy", toned("unavailable"), 2), ("b\x1b[31m", toned("odd"), "")]
    coloured = tables.table(headings, rows, colours=True)
    assert in_black(coloured).splitlines() == table(headings, rows).splitlines()
    assert "\x1b[32mhealthy\x1b[0m" in coloured and "\x1b[31munavailable\x1b[0m" in coloured
    assert coloured.count("\x1b[32m") == 1, "a name is no state"
    assert "b\\x1b[31m" in coloured and "odd\x1b" not in coloured
    pairs = [("state", toned("degraded")), ("in sync", "n1")]
    assert in_black(tables.fields(pairs, colours=True)) == fields(pairs)


@given(st.lists(st.tuples(st.text("ab ", max_size=5), st.sampled_from([None, *tables.Tone]))), st.integers(0, 20))
def test_a_painted_line_is_cut_where_a_plain_one_is(parts: list[tuple[str, tables.Tone | None]], width: int) -> None:
    line = "".join(tables.painted(text, tone) if tone else text for text, tone in parts)
    kept = tables.cut(line, width)
    assert in_black(kept) == in_black(line)[:width]
    assert kept.count("\x1b[0m") == line.count("\x1b[0m"), "no colour goes on behind it"


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
