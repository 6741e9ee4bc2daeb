"""One fio job against an NBD URI, and its figures."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

HOW_TO_GET = "apt install fio (Debian and Ubuntu build it with the nbd engine)"
_GRACE_S = 60


class FioMissing(Exception):
    """There is no fio, or it has no nbd engine."""


@dataclass(frozen=True, slots=True)
class Job:
    """`reads_percent` of a mixed job; `fsync`: a flush after every write."""

    name: str
    rw: str
    block: str
    depth: int
    reads_percent: int = 0
    fsync: bool = False

    def options(self) -> list[str]:
        mix = [f"--rwmixread={self.reads_percent}"] if self.reads_percent else []
        return [*mix, *(["--fsync=1"] if self.fsync else [])]


@dataclass(frozen=True, slots=True)
class Figures:
    operations: int
    iops: float
    mbps: float
    mean_us: float
    p50_us: float
    p99_us: float
    p999_us: float


def check() -> str:
    """fio's version. Raises FioMissing."""
    program = shutil.which("fio")
    if program is None:
        raise FioMissing(f"fio is not installed: {HOW_TO_GET}")
    engines = subprocess.run([program, "--enghelp"], capture_output=True, text=True, check=False).stdout
    if "nbd" not in engines.split():
        raise FioMissing(f"this fio has no nbd engine: {HOW_TO_GET}")
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def run(job: Job, uri: str, size_bytes: int, *, seconds: int | None) -> Figures:
    """Raises RuntimeError with fio's words when it fails. `seconds` None: once over the whole volume."""
    argv = [
        "fio",
        f"--name={job.name}",
        "--ioengine=nbd",
        f"--uri={uri}",
        f"--rw={job.rw}",
        f"--bs={job.block}",
        f"--iodepth={job.depth}",
        f"--size={size_bytes}",
        "--randrepeat=0",
        "--norandommap",
        "--percentile_list=50:99:99.9",
        "--thread",
        "--unified_rw_reporting=1",
        "--output-format=json",
        *job.options(),
    ]
    if seconds is not None:
        argv += ["--time_based", f"--runtime={seconds}"]
    limit_s = (seconds or 300) + _GRACE_S
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"fio did not end within {limit_s} s") from None
    # fio says "connected to NBD server" on the same stream before its JSON.
    _, brace, rest = done.stdout.partition("{")
    if done.returncode or not brace:
        raise RuntimeError(f"fio failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-500:]}")
    found = json.loads(brace + rest)["jobs"][0]
    if found["error"]:
        raise RuntimeError(f"fio reports error {found['error']}: {done.stderr.strip()[-500:]}")
    return _figures(job, found)


def _figures(job: Job, found: dict[str, Any]) -> Figures:
    """Of all operations together. fio's nbd engine tells no times of flushes: where each write is followed by one,
    the mean is that of the whole cycle (depth 1: the inverse of the rate), the percentiles are the writes' alone."""
    part = found["mixed"]
    latency = part["clat_ns"]["percentile"]
    return Figures(
        operations=part["total_ios"],
        iops=part["iops"],
        mbps=part["bw_bytes"] / 1e6,
        mean_us=1e6 / part["iops"] if job.fsync else part["lat_ns"]["mean"] / 1e3,
        p50_us=latency["50.000000"] / 1e3,
        p99_us=latency["99.000000"] / 1e3,
        p999_us=latency["99.900000"] / 1e3,
    )
