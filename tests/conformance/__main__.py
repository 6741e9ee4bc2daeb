"""`make conformance`: csi-sanity of the Kubernetes project against an embedded cluster, with real devices and mounts.

It runs twice, with mounted and with block volumes, each time the whole suite. What the driver does not advertise
csi-sanity skips without a word, so the numbers of specs that passed and that were skipped are part of the verdict: a
capability that is lost by mistake is a failure here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.dev.demo.tools import why_no_mount
from stoscore.units import MIB
from tests.support.cluster import AlteredCluster

PASSED, SKIPPED = 94, 2
"""Of the 96 specs of csi-sanity 5.5, for either kind of volume."""
SIZE_BYTES, EXPANDED_BYTES = 320 * MIB, 384 * MIB
CLASS = {
    "mount": 'replicas: "2"\nfailureMode: soft\nfsType: xfs\n',
    "block": 'replicas: "2"\nfailureMode: soft\n',
}
"""xfs, because mounted ext4 grows only for who has CAP_SYS_RESOURCE."""
VOLUMES_PER_NODE = 4
"""Few, so that csi-sanity reaches the limit soon."""
SUITE_S = 900
SPEC = "It"


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: int
    skipped: list[str]
    failed: dict[str, str]
    """spec -> why"""

    @property
    def as_expected(self) -> bool:
        return not self.failed and (self.passed, len(self.skipped)) == (PASSED, SKIPPED)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--sanity", default="csi-sanity", help="the csi-sanity program")
    parser.add_argument("--focus", default="", help="only specs that match this expression; counts are not judged")
    chosen = parser.parse_args()
    obstacle = why_no_mount()
    if obstacle:
        print(f"csi-sanity attaches and mounts for real, which this machine can't: {obstacle}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="stos-conformance-") as directory:
        cluster = AlteredCluster(
            Path(directory) / "dev", settings={"csi": {"STOS_CSI_MAX_VOLUMES_PER_NODE": str(VOLUMES_PER_NODE)}}
        )
        cluster.up()
        try:
            outcomes = [
                _run(cluster, kind, chosen.sanity, chosen.focus, Path(directory)) for kind in ("mount", "block")
            ]
        finally:
            cluster.stop()
    good = all(not outcome.failed if chosen.focus else outcome.as_expected for outcome in outcomes)
    return 0 if good else 1


def _run(cluster: AlteredCluster, kind: str, program: str, focus: str, directory: Path) -> Outcome:
    report, parameters, changes = (
        directory / f"{kind}-{name}" for name in ("report.json", "class.yaml", "changes.yaml")
    )
    parameters.write_text(CLASS[kind])
    changes.write_text("failureMode: alwayson\n")
    layout = cluster.layout
    argv = [
        program,
        f"--csi.controllerendpoint=unix://{layout.csi_socket('controller')}",
        f"--csi.endpoint=unix://{layout.csi_socket('node')}",
        f"--csi.mountdir={directory / kind}-target",
        f"--csi.stagingdir={directory / kind}-staging",
        f"--csi.testvolumeaccesstype={kind}",
        f"--csi.testvolumesize={SIZE_BYTES}",
        f"--csi.testvolumeexpandsize={EXPANDED_BYTES}",
        f"--csi.testvolumeparameters={parameters}",
        f"--csi.testvolumemutableparameters={changes}",
        "--csi.testnodevolumeattachlimit",
        f"--ginkgo.json-report={report}",
        "--ginkgo.no-color",
        *([f"--ginkgo.focus={focus}"] if focus else []),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SUITE_S, stdin=subprocess.DEVNULL, check=False)
    if not report.exists():
        raise SystemExit(f"csi-sanity made no report: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    outcome = outcome_of(json.loads(report.read_text()))
    print(f"{kind}: {outcome.passed} passed, {len(outcome.skipped)} skipped, {len(outcome.failed)} failed")
    for name, why in outcome.failed.items():
        print(f"  FAILED  {name}\n          {' '.join(why.split())[:600]}")
    if not focus and not outcome.failed and not outcome.as_expected:
        print(f"  expected {PASSED} passed and {SKIPPED} skipped; skipped were: {_by_area(outcome.skipped)}")
    return outcome


def outcome_of(suites: list[dict[str, Any]]) -> Outcome:
    """From ginkgo's report: one entry for each spec, and some for what runs around them."""
    passed, skipped, failed = 0, [], {}
    for spec in (spec for suite in suites for spec in suite["SpecReports"] if spec["LeafNodeType"] == SPEC):
        name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
        if spec["State"] == "passed":
            passed += 1
        elif spec["State"] in ("skipped", "pending"):
            skipped.append(name)
        else:
            failed[name] = spec.get("Failure", {}).get("Message", spec["State"])
    return Outcome(passed, skipped, failed)


def _by_area(names: list[str]) -> str:
    counted = Counter(" ".join(name.split()[:5]) for name in names)
    return ", ".join(f"{area} {count}" for area, count in sorted(counted.items()))


if __name__ == "__main__":
    sys.exit(main())
