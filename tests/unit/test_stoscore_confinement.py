"""What a confined process can't leave behind, asked of the kernel and of the programs that it starts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

_ASK = """
import subprocess
from stoscore.confinement import confine_process
{confine}
open("made", "w").close()
ask = ["sh", "-c", "umask; ulimit -c; cat /proc/self/coredump_filter"]
print(subprocess.run(ask, capture_output=True, text=True).stdout)
"""


def told(directory: Path, confine: str) -> list[str]:
    """umask, core limit and dumped mappings of a child of a process that did this."""

    def as_in_a_debugging_session() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    done = subprocess.run(
        [sys.executable, "-c", _ASK.format(confine=confine)],
        cwd=directory,
        umask=0o022,
        preexec_fn=as_in_a_debugging_session,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def test_files_are_private_and_crashes_leave_no_memory(tmp_path: Path) -> None:
    assert told(tmp_path, "confine_process()") == ["0077", "0", "00000000"]
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_without_it_they_are_not(tmp_path: Path) -> None:
    umask, _, mappings = told(tmp_path, "")
    assert umask == "0022"
    assert mappings != "00000000"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


_WAIT = """
import sys
from stoscore.confinement import confine_process
{confine}
print("ready", flush=True)
sys.stdin.read()
"""
_CAPABILITIES = "-sys_ptrace,-perfmon,-sys_admin"
AS_A_USER = ["setpriv", "--bounding-set", _CAPABILITIES, "--inh-caps", _CAPABILITIES] if os.geteuid() == 0 else []
"""Without what lets an administrator look into any process."""


@pytest.mark.parametrize(("confine", "readable"), [("", True), ("confine_process()", False)])
def test_nobody_looks_into_it(confine: str, readable: bool) -> None:
    """Memory and environment of a process, asked for by another one of the same user."""
    with subprocess.Popen(
        [*AS_A_USER, sys.executable, "-c", _WAIT.format(confine=confine)],
        env={"PATH": os.environ["PATH"], "MARK": "of-this-process"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for name in ("environ", "maps"):
            look = subprocess.run([*AS_A_USER, "cat", f"/proc/{process.pid}/{name}"], capture_output=True, timeout=30)
            assert (look.returncode == 0) is readable, look.stderr
            assert (b"of-this-process" in look.stdout) is (readable and name == "environ")
        process.communicate(b"")
