"""What the project is built on: licences that allow it, and no version with a known weakness."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.licences import closure, is_allowed, licences

TIMEOUT_S = 300


def test_every_dependency_has_a_licence_that_we_can_use() -> None:
    packages = closure("stos")
    assert len(packages) > 20, "the search for dependencies finds too little to be believed"
    wrong = {
        name: licences(dist)
        for name, dist in packages.items()
        if not licences(dist) or not any(is_allowed(licence) for licence in licences(dist))
    }
    assert wrong == {}, "neither allowed nor known: see tests/support/licences.py"


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-or-later", False),
        ("LGPL-3.0-only", False),
        ("", False),
        ("Proprietary", False),
    ],
)
def test_a_licence_is_read_as_it_is_meant(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed


@pytest.mark.long
def test_no_dependency_has_a_known_weakness(tmp_path: Path) -> None:
    """`pip-audit` over exactly the versions that are installed. It ends with "no known vulnerabilities" also when
    it could look up none of them, so its list of what it skipped counts, not its last line."""
    if find_spec("pip_audit") is None:
        pytest.skip("NOT AUDITED: pip-audit is not installed (`make test-slow` installs it)")
    packages = {name: dist.version for name, dist in closure("stos").items() if name != "stos"}
    pinned = tmp_path / "requirements.txt"
    pinned.write_text("".join(f"{name}=={version}\n" for name, version in sorted(packages.items())))
    argv = [sys.executable, "-m", "pip_audit", "--requirement", str(pinned), "--no-deps", "--disable-pip"]
    argv += ["--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        pytest.skip(f"NOT AUDITED: the source of advisories can't be reached: {last[:200]}")
    weak = {item["name"]: [found["id"] for found in item["vulns"]] for item in audited if item.get("vulns")}
    assert weak == {}
    skipped = sorted(item["name"] for item in audited if "skip_reason" in item)
    if skipped:
        reason = next(item["skip_reason"] for item in audited if "skip_reason" in item)
        pytest.skip(f"NOT AUDITED: {len(skipped)} of {len(packages)} packages, for example: {reason}")
