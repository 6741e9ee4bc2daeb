"""`stos store check` and `stos store digest`: what they print, write and exit with."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner
from xxhash import xxh3_64_hexdigest

from services.cli.main import run
from services.replica.commands import app
from services.replica.store import FileStore, Format, block_sums, digest
from stoscore.units import BLOCK_BYTES, GIB

runner = CliRunner()
SIZE = 1500


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    made = FileStore.create(tmp_path / "replica", Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot")
    made.mark([0, 1])
    for at in (0, 7, SIZE - 1):
        data = bytes([at % 251 + 1]) * BLOCK_BYTES
        made.write(at, block_sums(data), data)
    yield made
    made.close(clean=False)


def test_digest_reads_the_data_and_not_the_sums(store: FileStore, tmp_path: Path) -> None:
    out = tmp_path / "sums"
    rotten = b"\xee" * BLOCK_BYTES
    with (store.directory / "layers/0001/data").open("r+b") as file:
        file.seek(7 * BLOCK_BYTES)
        file.write(rotten)
    done = runner.invoke(app, ["digest", str(store.directory), "-o", "json", "--blocks", "--out", str(out)])
    assert done.exit_code == 0, done.output
    want = bytearray(store.read_sums(0, SIZE))
    want[7 * 8 : 8 * 8] = block_sums(rotten)
    assert out.read_bytes() == want
    fields = json.loads(done.stdout)
    assert fields["digest"] == xxh3_64_hexdigest(bytes(want))
    assert (fields["volume"], fields["size_blocks"], fields["blocks"]) == ("a" * 32, SIZE, 3)
    values = struct.unpack(f"<{SIZE}Q", want)
    assert fields["sums"] == {str(at): f"{values[at]:016x}" for at in (0, 7, SIZE - 1)}


def test_digest_for_people(store: FileStore) -> None:
    done = runner.invoke(app, ["digest", str(store.directory)])
    assert done.exit_code == 0
    assert digest(store.directory).digest in done.stdout
    assert "12.0 KiB" in done.stdout


def test_digests_of_equal_copies_are_equal_whatever_their_holes(store: FileStore, tmp_path: Path) -> None:
    before = digest(store.directory)
    with (store.directory / "layers/0001/data").open("r+b") as file:
        file.seek(100 * BLOCK_BYTES)
        file.write(bytes(BLOCK_BYTES))
    assert digest(store.directory) == before


def test_a_sparse_gibibyte_is_quick(tmp_path: Path) -> None:
    store = FileStore.create(
        tmp_path / "large", Format("c", "a" * 32, "v", "b" * 16, "data", GIB // BLOCK_BYTES), "boot"
    )
    parts: list[bytes] = []
    found = digest(store.directory, parts.append)
    store.close()
    assert found.blocks == 0
    assert b"".join(parts) == bytes(GIB // BLOCK_BYTES * 8)


def test_check_of_a_whole_replica(store: FileStore) -> None:
    store.close()
    done = runner.invoke(app, ["check", str(store.directory), "-o", "json"])
    assert done.exit_code == 0, done.output
    fields = json.loads(done.stdout)
    assert fields["ok"] is True
    assert (fields["blocks"], fields["problems"], fields["notes"]) == (3, [], [])
    done = runner.invoke(app, ["check", str(store.directory)])
    assert done.exit_code == 0
    assert "problems" in done.stdout


def test_check_exits_with_9_when_a_block_is_rotten(store: FileStore) -> None:
    store.close()
    with (store.directory / "layers/0001/data").open("r+b") as file:
        file.seek(7 * BLOCK_BYTES)
        file.write(b"rot")
    done = runner.invoke(app, ["check", str(store.directory), "-o", "json"])
    assert done.exit_code == 9
    fields = json.loads(done.stdout)
    assert (fields["ok"], fields["bad_blocks"]) == (False, [7])
    assert fields["problems"] == ["1 blocks do not match their checksum"]


@pytest.mark.parametrize("name", ["state", "intent", "layers/0001/sums"])
def test_check_names_torn_files(store: FileStore, name: str) -> None:
    store.close()
    path = store.directory / name
    if name.startswith("layers"):
        path.unlink()
    else:
        path.write_bytes(os.urandom(path.stat().st_size))
    done = runner.invoke(app, ["check", str(store.directory), "-o", "json"])
    assert done.exit_code == 9
    assert name.rpartition("/")[2] in json.loads(done.stdout)["problems"][0]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Exit code and what is said on stderr, of the command as people call it."""
    code = run(["store", *arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.splitlines()


def test_check_refuses_a_replica_in_use(store: FileStore, capsys: pytest.CaptureFixture[str]) -> None:
    code, (error, step) = refused(capsys, "check", str(store.directory))
    assert code == 8
    assert "is in use" in error
    assert "stos store digest" in step


@pytest.mark.parametrize("command", ["check", "digest"])
def test_what_is_no_replica_is_told_what_would_be_one(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (error, step) = refused(capsys, command, str(tmp_path))
    assert (code, error) == (5, f"error: {tmp_path} is no replica directory: it has no format.json")
    assert step.startswith("next: name the directory of one replica")
    assert run(["store", command, str(tmp_path), "-o", "json"]) == 5
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "FAILED_PRECONDITION"


def test_digest_with_an_out_file_that_cannot_be_written(
    store: FileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, "digest", str(store.directory), "--out", str(tmp_path / "no" / "file"))
    assert code == 2
    assert "No such file or directory" in said[0]
