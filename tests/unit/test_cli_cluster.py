"""How the command line finds its cluster, and what it says when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.cli import cluster
from services.cli.main import run
from stoscore.errors import EXIT_CODE, Code, StosError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("STOS_DIR", "STOS_NATS_URLS", "STOS_IDENTITY_DIR", "STOS_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def describe(directory: Path, **changes: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    document: dict[str, object] = {
        "nats_urls": ["tls://127.0.0.1:4444"],
        "cluster": "stos",
        "user_identity_dir": str(directory / "identities" / "admin"),
        "nodes": {},
    }
    (directory / "cluster.json").write_text(json.dumps(document | changes))


def test_an_embedded_cluster_is_found_by_its_directory(tmp_path: Path) -> None:
    describe(tmp_path / "c")
    access = cluster.find(tmp_path / "c")
    assert access.nats_urls == ("tls://127.0.0.1:4444",)
    assert access.identity_dir == tmp_path / "c" / "identities" / "admin"


def test_without_anything_it_is_the_default_directory(tmp_path: Path) -> None:
    describe(tmp_path / ".stos" / "dev", user_identity_dir="identities/admin")
    assert cluster.find(None).identity_dir == tmp_path / ".stos" / "dev" / "identities" / "admin"


def test_the_environment_names_any_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_NATS_URLS", "tls://a:1, tls://b:2")
    monkeypatch.setenv("STOS_IDENTITY_DIR", "/id")
    assert cluster.find(None) == cluster.Access(("tls://a:1", "tls://b:2"), Path("/id"), "at tls://a:1, tls://b:2")


def test_the_settings_file_names_any_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = tmp_path / "client.toml"
    settings.write_text('[common]\nnats_urls = ["tls://a:1"]\nidentity_dir = "/id"\n')
    monkeypatch.setenv("STOS_CONFIG", str(settings))
    access = cluster.find(None)
    assert access.nats_urls == ("tls://a:1",)
    assert access.identity_dir == Path("/id")


def test_a_named_directory_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STOS_NATS_URLS", "tls://a:1")
    monkeypatch.setenv("STOS_IDENTITY_DIR", "/id")
    describe(tmp_path / "c")
    assert cluster.find(tmp_path / "c").nats_urls == ("tls://127.0.0.1:4444",)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"nats_urls": 1, "user_identity_dir": "x"}'])
def test_a_damaged_description_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(StosError, match=r"cluster\.json") as caught:
        cluster.find(tmp_path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.next_step


@pytest.mark.parametrize("arguments", [["volume", "ls"], ["volume", "connect", "x"], ["node", "ls"]])
def test_no_cluster_is_told_with_how_to_start_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == EXIT_CODE[Code.UNAVAILABLE]
    error = capsys.readouterr().err
    assert "error: no cluster runs in .stos/dev" in error
    assert "next: start one with `stos dev up`" in error
    assert run([*arguments, "-o", "json"]) == EXIT_CODE[Code.UNAVAILABLE]
    assert "stos dev up" in json.loads(capsys.readouterr().err)["error"]["next_step"]
