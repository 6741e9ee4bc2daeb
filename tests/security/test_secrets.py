"""No secret of a running cluster is anywhere but in its own file, and nobody else can open that file.

The cluster runs with its most talkative logs and with its traces written into them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from pathlib import Path

import pytest

from services.dev.processes import alive, identify
from tests.security import kernel, secrets_of
from tests.security.secrets_of import Secret
from tests.security.stage import Stage

pytestmark = [pytest.mark.long, pytest.mark.slow]


@pytest.fixture(scope="module")
def processes(stage: Stage) -> dict[int, str]:
    return kernel.processes_of(stage.cluster.layout.root, stage.cluster.layout.run)


@pytest.fixture(scope="module")
def secrets(stage: Stage) -> list[Secret]:
    found = secrets_of.collect(stage.cluster.layout.root)
    # One key and one seed for each identity at the least, or the search below would look for nothing.
    identities = [path.parent for path in stage.cluster.layout.root.rglob("key.pem")]
    assert len(identities) >= 9
    for what in ("private key", "NATS seed"):
        homes = {secret.home.parent for secret in found if secret.what == what}
        assert set(identities) - homes - _without_nats(stage) == set(), what
    assert any(secret.what == "join token's secret" for secret in found)
    assert any(secret.what.startswith("key-encryption key") for secret in found)
    return found


def _without_nats(stage: Stage) -> set[Path]:
    """The NATS server itself is no user of NATS."""
    return {path for path in stage.cluster.layout.root.rglob("*") if path.is_dir() and path.name.startswith("nats")}


def test_none_is_in_arguments_or_environments(secrets: list[Secret], processes: dict[int, str]) -> None:
    places = {}
    for pid in processes:
        places |= secrets_of.process_listing(pid)
    assert len(places) >= 30
    assert secrets_of.leaks(secrets, places) == []


def test_none_is_in_logs_or_traces(stage: Stage, secrets: list[Secret]) -> None:
    logs = secrets_of.files(stage.cluster.layout.logs)
    everything = b"".join(logs.values())
    assert b'"level": "debug"' in everything, "the cluster was to be talkative"
    assert b'"trace_id"' in everything
    assert b'"parent_id"' in everything, "spans were to be written into the logs"
    assert secrets_of.leaks(secrets, logs) == []


def test_none_is_in_another_file(stage: Stage, secrets: list[Secret]) -> None:
    assert secrets_of.leaks(secrets, secrets_of.files(stage.cluster.layout.root, stage.cluster.layout.run)) == []


def test_the_search_finds_what_leaks(stage: Stage, secrets: list[Secret], tmp_path: Path) -> None:
    """Each secret in each form is found when it is somewhere."""
    for secret in secrets:
        assert secrets_of.leaks([secret], {"a log": b'{"message": "' + secret.form + b'"}'}) != []


def test_nobody_else_can_open_a_file(stage: Stage) -> None:
    """Files are for their owner; sockets for their owner and its group, in directories for the owner."""
    layout = stage.cluster.layout
    wide = []
    for top in (layout.root, layout.run):
        for path in (top, *top.rglob("*")):
            mode = path.lstat().st_mode
            if stat.S_ISSOCK(mode):
                allowed = 0o770
            elif stat.S_ISLNK(mode):
                continue
            else:
                allowed = 0o700
            if mode & 0o777 & ~allowed:
                wide.append(f"{stat.filemode(mode)} {path.relative_to(top)}")
    assert wide == []


def test_processes_make_private_files(processes: dict[int, str]) -> None:
    """A file that is made readable and restricted afterwards was readable for a moment: the mask is the process's."""
    wide = {}
    for pid, command in processes.items():
        umask = _status(pid).get("Umask", "")
        if int(umask, 8) & 0o077 != 0o077:
            wide[command] = umask
    assert wide == {}


def test_a_crash_leaves_no_memory_on_the_disk(processes: dict[int, str]) -> None:
    """No core file, and where a core is piped into a program instead, one without memory."""
    dumping = {}
    for pid, command in processes.items():
        limits = Path(f"/proc/{pid}/limits").read_text()
        (core,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
        mappings = int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16)
        if core != ["0", "0"] or mappings != 0:
            dumping[command] = (core, mappings)
    assert dumping == {}


def test_a_crashed_process_leaves_no_core(stage: Stage, secrets: list[Secret]) -> None:
    """The same by experiment, as far as this machine writes core files at all."""
    victim = "placement-2"
    process = stage.cluster.state().processes[victim]
    stage.cluster.kill(victim, signal.SIGSEGV)
    try:
        for _ in range(1000):
            if not alive(process):
                break
            os.sched_yield()
            identify(process.pid)
        cores = [path for path in stage.cluster.layout.root.iterdir() if path.name.startswith("core")]
        assert cores == []
    finally:
        stage.cluster.start(victim)


def test_directories_are_locked(stage: Stage) -> None:
    """Two processes on one data or identity directory would destroy it: the second is refused by the kernel."""
    layout = stage.cluster.layout
    locks = [layout.data(node) / "lock" for node in (*stage.cluster.state().nodes, "app")]
    locks += [layout.identity(name) / "lock" for name in ("n1", "app", "placement-1", "csi-node")]
    free = []
    for path in locks:
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free.append(str(path))
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
    assert free == []


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
