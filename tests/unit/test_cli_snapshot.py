"""`stos snapshot`, and volumes that begin as one, over model nodes: what they print and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.cli.beginning import Beginning
from services.cli.shapes import SHAPES
from stoscore.errors import EXIT_CODE, Code, StosError
from tests.support.model_nodes import ModelCluster
from tests.unit.test_cli_volume import catalogue, model, stos

__all__ = ["catalogue", "model", "stos"]
Stos = Callable[..., Any]


@pytest.fixture
def source(stos: Stos, model: ModelCluster) -> str:
    volume = stos("volume", "create", "data", "--size", "1GiB", "--replicas", "1")["volume"]
    model.write(volume, 1)
    return str(volume)


def test_create_show_and_rm(stos: Stos, source: str) -> None:
    made = stos("snapshot", "create", "data", "monday")
    SHAPES["snapshot create"].model_validate(made)
    assert (made["name"], made["volume"], made["volume_name"], made["state"]) == ("monday", source, "data", "ready")
    assert (made["held_by"], made["copies"]) == (["n1", "n2"], 2)
    assert stos("snapshot", "create", "data", "monday") == made, "again"
    assert stos("snapshot", "show", "data", "monday") == made
    assert stos("snapshot", "ls") == stos("snapshot", "ls", "data") == [made]
    told = stos("snapshot", "create", source, "monday", table=True)
    assert told == "snapshot monday of volume data: 1.0 GiB, ready, held by 2/2: n1, n2\n"
    assert stos("snapshot", "rm", "data", "monday") == {"name": "monday", "volume_name": "data", "removed": True}
    told = stos("snapshot", "rm", "data", "monday", table=True)
    assert told == "there was no snapshot monday of volume data\n"
    assert stos("snapshot", "ls") == []


def test_names_for_pipes(stos: Stos, source: str) -> None:
    for name in ("monday", "tuesday"):
        stos("snapshot", "create", "data", name)
    assert stos("snapshot", "ls", "data", "-o", "name", table=True) == "monday\ntuesday\n"


def test_all_volumes_are_listed(stos: Stos, source: str) -> None:
    for number in range(40):
        stos("volume", "create", f"v{number:02d}", "--size", "1MiB", "--replicas", "0")
    stos("snapshot", "create", "v39", "last")
    stos("snapshot", "create", "data", "first")
    assert [row["name"] for row in stos("snapshot", "ls")] == ["first", "last"]


def test_a_volume_from_a_snapshot(stos: Stos, source: str, model: ModelCluster) -> None:
    stos("snapshot", "create", "data", "monday")
    model.write(source, 2)
    made = stos("volume", "create", "restored", "--from-snapshot", "data/monday")
    assert made["size_bytes"] == 1 << 30
    assert model.content(made["volume"]) == 1
    assert stos("volume", "create", "restored", "--from-snapshot", "data/monday")["volume"] == made["volume"]
    larger = stos("volume", "create", "larger", "--from-snapshot", f"{source}/monday", "--size", "2GiB")
    assert larger["size_bytes"] == 2 << 30


def test_a_clone(stos: Stos, source: str, model: ModelCluster) -> None:
    model.write(source, 3)
    made = stos("volume", "create", "trial", "--clone", "data", "--replicas", "0")
    assert model.content(made["volume"]) == 3
    assert stos("snapshot", "ls") == [], "what was taken for it alone is gone"
    stos("volume", "expand", "data", "2GiB")
    assert stos("volume", "create", "trial", "--clone", "data", "--replicas", "0")["volume"] == made["volume"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("volume", "create", "x"), Code.INVALID_ARGUMENT, "needs a size"),
        (("volume", "create", "x", "--clone", "data", "--from-snapshot", "a/b"), Code.INVALID_ARGUMENT, "not as both"),
        (("volume", "create", "x", "--from-snapshot", "monday"), Code.INVALID_ARGUMENT, "no snapshot"),
        (("volume", "create", "x", "--from-snapshot", "data/none"), Code.NOT_FOUND, "no snapshot 'none'"),
        (("volume", "create", "x", "--from-snapshot", "none/none"), Code.NOT_FOUND, "no volume 'none'"),
        (("volume", "create", "x", "--clone", "none"), Code.NOT_FOUND, "no volume 'none'"),
        (("volume", "create", "x", "--clone", "data", "--size", "1MiB"), Code.OUT_OF_RANGE, "would have 1.0 MiB"),
        (("volume", "create", "x", "--clone", "data", "--size", "many"), Code.INVALID_ARGUMENT, "many"),
        (("volume", "create", "data", "--clone", "data", "--replicas", "1"), Code.ALREADY_EXISTS, "something else"),
        (("snapshot", "create", "data", "Monday"), Code.INVALID_ARGUMENT, "no possible name"),
        (("snapshot", "rm", "data", "-clone-x"), Code.INVALID_ARGUMENT, ""),
        (("snapshot", "rm", "--", "data", "-clone-x"), Code.INVALID_ARGUMENT, "no possible name"),
        (("snapshot", "create", "none", "monday"), Code.NOT_FOUND, "no volume 'none'"),
        (("snapshot", "show", "data", "none"), Code.NOT_FOUND, "no snapshot 'none'"),
        (("snapshot", "ls", "none"), Code.NOT_FOUND, "no volume 'none'"),
        (("snapshot", "rm", "none", "monday"), Code.NOT_FOUND, "no volume 'none'"),
    ],
)
def test_what_is_refused(stos: Stos, source: str, arguments: tuple[str, ...], code: Code, told: str) -> None:
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    error = stos(*words[:at], "-o", "json", *words[at:], code=EXIT_CODE[code], table=True)
    assert told in error
    assert code in error or not told


def test_a_volume_with_snapshots_is_not_removed(stos: Stos, source: str) -> None:
    stos("snapshot", "create", "data", "monday")
    error = stos("volume", "rm", "data", code=EXIT_CODE[Code.FAILED_PRECONDITION])
    assert error["error"]["code"] == "FAILED_PRECONDITION"
    stos("snapshot", "rm", "data", "monday")
    assert stos("volume", "rm", "data")["removed"]


def test_what_is_typed() -> None:
    assert Beginning.parse("1GiB", None, None) == Beginning(1 << 30)
    assert Beginning.parse(None, "a/b", None) == Beginning(None, "a", "b")
    for wrong in ("a", "/", "a/", "/b", ""):
        with pytest.raises(StosError, match="no snapshot"):
            Beginning.parse(None, wrong, None)


def test_a_group_is_taken_shown_and_removed_as_a_whole(stos: Stos, source: str) -> None:
    stos("volume", "create", "logs", "--size", "1MiB", "--replicas", "0")
    made = stos("snapshot", "group", "create", "nightly", "logs", "data")
    SHAPES["snapshot group create"].model_validate(made)
    assert stos("snapshot", "group", "create", "nightly", "data", "logs", "data") == made, "again"
    assert stos("snapshot", "group", "show", "nightly") == made
    assert {row["volume_name"]: row["group"] for row in stos("snapshot", "ls")} == {
        "data": "nightly",
        "logs": "nightly",
    }
    stos("snapshot", "group", "create", "nightly", "data", code=EXIT_CODE[Code.ALREADY_EXISTS])
    (member,) = [row["name"] for row in stos("snapshot", "ls", "data")]
    stos("snapshot", "rm", "data", member, code=EXIT_CODE[Code.FAILED_PRECONDITION])
    assert stos("snapshot", "group", "rm", "nightly") == {"name": "nightly", "removed": True}
    assert stos("snapshot", "ls") == []
    assert stos("snapshot", "group", "rm", "nightly", table=True) == "there was no group snapshot nightly\n"
    stos("snapshot", "group", "show", "nightly", code=EXIT_CODE[Code.NOT_FOUND])


def test_a_group_that_can_not_be_taken_leaves_nothing(stos: Stos, source: str, model: ModelCluster) -> None:
    logs = stos("volume", "create", "logs", "--size", "1MiB", "--replicas", "0")["volume"]
    primary = model.primary(logs)
    assert primary is not None
    model.refuse[primary.name, "step"] = [StosError(Code.RESOURCE_EXHAUSTED, "no room for a layer") for _ in range(8)]
    stos("snapshot", "group", "create", "nightly", "data", "logs", code=EXIT_CODE[Code.RESOURCE_EXHAUSTED])
    assert stos("snapshot", "ls") == []
    del model.refuse[primary.name, "step"]
    assert len(stos("snapshot", "group", "create", "nightly", "data", "logs")["snapshots"]) == 2
