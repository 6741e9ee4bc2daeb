"""The benchmark's arithmetic: medians over rounds, CPU per operation, the ratio to the floor."""

from __future__ import annotations

import json
from pathlib import Path

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
    path = tmp_path / "results" / "speed.json"
    save(path, summary(ROUNDS), ROUNDS, {"fio": "fio-3.33"})
    found = json.loads(path.read_text())
    assert found["machine"]["cores"] >= 1
    assert len(found["rounds"]) == len(ROUNDS)
    assert {"job", "contender", "iops", "mbps", "mean_us", "p50_us", "p99_us", "p999_us", "cpu_us_per_op"} <= set(
        found["results"][0]
    )
    assert "randwrite-4k-q16" in table(found["results"])
