"""The benchmark's arithmetic: medians over rounds, CPU per operation, the ratio to the floor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.comparison import load, regressions
from benchmarks.contenders import Ceph, Nbdkit, Quorum
from benchmarks.fio import Figures
from benchmarks.report import Round, ratios, save, summary, table


def one(contender: str, operations: int, cpu_us: dict[str, int], working: set[str]) -> Round:
    figures = Figures(operations, operations / 10, 1.0, 2.0, 3.0, 4.0, 5.0)
    return Round("randwrite-4k-q16", contender, figures, cpu_us, working)


ROUNDS = [
    one("floor", 1000, {"primary": 60_000, "replica": 40_000}, {"primary", "replica"}),
    one("stos", 1000, {"n1": 150_000, "certs": 50_000}, {"n1"}),
    one("floor", 1000, {"primary": 61_000, "replica": 39_000}, {"primary", "replica"}),
    one("stos", 500, {"n1": 100_000, "certs": 0}, {"n1"}),
    one("stos", 1000, {"n1": 170_000, "certs": 50_000}, {"n1"}),
]


def test_medians_by_contender() -> None:
    floor, stos = summary(ROUNDS)
    assert (floor["contender"], floor["rounds"], floor["cpu_us_per_op"]) == ("floor", 2, 100.0)
    assert (stos["rounds"], stos["iops"], stos["cpu_us_per_op"]) == (3, 100.0, 170.0)
    assert stos["cpu_us_per_op_all"] == 200.0
    assert stos["cpu_us_per_op_by_process"] == {"certs": 50.0, "n1": 170.0}


def test_the_ratio_says_where_the_cpu_goes() -> None:
    first, second = ratios(summary(ROUNDS), "stos", "floor")
    assert "1.70 x the CPU of the floor" in first and "1.00 x its IOPS" in first
    assert second.endswith("n1 170, certs 50")


def test_one_contender_alone_has_no_ratio() -> None:
    assert ratios(summary(ROUNDS[:1]), "stos", "floor") == []


def test_the_file_names_the_machine_and_every_round(tmp_path: Path) -> None:
    directory = tmp_path / "results"
    save(directory, summary(ROUNDS), ROUNDS, {"fio": "fio-3.33"})
    found = json.loads((directory / "speed.json").read_text())
    assert len((directory / "speed.csv").read_text().splitlines()) == 1 + len(found["results"])
    assert found["machine"]["cores"] >= 1
    assert len(found["rounds"]) == len(ROUNDS)
    assert {"job", "contender", "iops", "mbps", "mean_us", "p50_us", "p99_us", "p999_us", "cpu_us_per_op"} <= set(
        found["results"][0]
    )
    assert "randwrite-4k-q16" in table(found["results"])


def test_a_regression_is_named_and_noise_is_not(tmp_path: Path) -> None:
    save(tmp_path, summary(ROUNDS), ROUNDS, {})
    before = load(tmp_path / "speed.json")
    assert regressions(before, summary(ROUNDS), "floor") == []
    slower = [one("floor", 1000, {"p": 100_000}, {"p"}), one("stos", 1000, {"n1": 200_000}, {"n1"})]
    (line,) = regressions(before, summary(slower), "floor")
    assert line == "regression: randwrite-4k-q16 stos: CPU 1.70 x the floor's before, 2.00 x now"


def test_another_machine_is_not_compared(tmp_path: Path) -> None:
    save(tmp_path, summary(ROUNDS), ROUNDS, {})
    path = tmp_path / "speed.json"
    content = json.loads(path.read_text())
    content["machine"]["cpu"] = "another"
    path.write_text(json.dumps(content))
    assert load(path) == []
    assert load(tmp_path / "missing.json") == []


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for contender in (Nbdkit(tmp_path), Quorum(tmp_path), Ceph(tmp_path)):
        assert "apt install" in contender.missing()
