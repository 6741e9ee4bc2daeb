"""The archive of a support bundle: private, whole or not there, redacted, and honest about what it lacks."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from services.cli.bundle import Bundle
from services.cli.main import run
from stoscore.errors import StosError


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {
            entry.name.partition("/")[2]: archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
            for entry in archive
        }


def test_what_is_added_is_there_and_listed(tmp_path: Path) -> None:
    with Bundle(tmp_path / "b.tar.gz", {"stos": "1"}) as bundle:
        bundle.add_json("nodes/n1.json", {"up": True})
        bundle.lacks("node n2", "it does not answer")
    found = contents(tmp_path / "b.tar.gz")
    assert json.loads(found["nodes/n1.json"]) == {"up": True}
    manifest = json.loads(found["manifest.json"])
    assert manifest["stos"] == "1"
    assert manifest["missing"] == [{"what": "node n2", "why": "it does not answer"}]
    assert [file["file"] for file in manifest["files"]] == ["nodes/n1.json"]
    assert stat.S_IMODE((tmp_path / "b.tar.gz").stat().st_mode) == 0o600


def test_secrets_are_taken_out_and_counted(tmp_path: Path) -> None:
    with Bundle(tmp_path / "b.tar.gz", {"cluster": "at tls://me:hunter2@nats:4222"}) as bundle:
        bundle.add("log", "password=hunter2\n")
        bundle.lacks("node n1", "refused tls://me:hunter2@nats:4222")
    found = contents(tmp_path / "b.tar.gz")
    assert "hunter2" not in "".join(found.values())
    assert json.loads(found["manifest.json"])["files"][0]["redacted"] == 1


def test_a_name_leaves_the_archive_for_no_other_place_and_hides_no_other(tmp_path: Path) -> None:
    with Bundle(tmp_path / "b.tar.gz", {}) as bundle:
        bundle.add("logs/a\x1b[2Jb", "one")
        bundle.add("logs/a\x1b[2Jb", "two")
    found = contents(tmp_path / "b.tar.gz")
    assert {found["logs/a__2Jb"], found["logs/a__2Jb.2"]} == {"one", "two"}


def test_an_archive_that_was_not_finished_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Bundle(tmp_path / "b.tar.gz", {}) as bundle:
        bundle.add("a", "b")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_text("mine")
    with pytest.raises(StosError, match="exists already"), Bundle(tmp_path / "b.tar.gz", {}):
        pass
    assert (tmp_path / "b.tar.gz").read_text() == "mine"


def test_of_a_cluster_that_is_down_the_logs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is when somebody needs it most."""
    for variable in ("STOS_NATS_URLS", "STOS_IDENTITY_DIR", "STOS_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "dev" / "logs").mkdir(parents=True)
    (tmp_path / "dev" / "logs" / "n1.log").write_text("it stopped\n")
    description = {"nats_urls": ["tls://127.0.0.1:1"], "user_identity_dir": "identities/admin"}
    (tmp_path / "dev" / "cluster.json").write_text(json.dumps(description))
    assert run(["support-bundle", str(tmp_path / "b.tar.gz"), "--dir", str(tmp_path / "dev")]) == 1
    found = contents(tmp_path / "b.tar.gz")
    assert found["logs/n1.log"] == "it stopped\n"
    assert "over NATS" in json.loads(found["manifest.json"])["missing"][0]["what"]
    assert "missing: everything" in capsys.readouterr().err
