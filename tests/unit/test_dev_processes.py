"""Processes are known by pid and start time, and stopped for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.dev.processes import (
    ProcessId,
    alive,
    identify,
    reap,
    send_signal,
    spawn,
    terminate,
    wait_gone,
)

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def started() -> Iterator[list[ProcessId]]:
    """Whatever a test starts is gone after it."""
    processes: list[ProcessId] = []
    yield processes
    for process in processes:
        send_signal(process, signal.SIGKILL)
    wait_gone(processes, 5)


def start(tmp_path: Path, program: str) -> ProcessId:
    return spawn([sys.executable, "-c", program], {"PATH": os.environ["PATH"]}, tmp_path / "log", tmp_path)


def test_a_spawned_process_lives_in_its_own_session_and_logs(tmp_path: Path, started: list[ProcessId]) -> None:
    started.append(start(tmp_path, "import os, time; print('hello', os.getcwd(), flush=True); time.sleep(60)"))
    process = started[0]
    assert alive(process)
    assert os.getsid(process.pid) == process.pid
    deadline = time.monotonic() + 10
    while not (said := (tmp_path / "log").read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert said == f"hello {tmp_path}\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_is_continued(tmp_path: Path, started: list[ProcessId]) -> None:
    for word in ("one", "two"):
        started.append(start(tmp_path, f"print('{word}')"))
        assert wait_gone(started, 10) == []
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_the_same_pid_with_another_start_time_is_somebody_else(started: list[ProcessId], tmp_path: Path) -> None:
    started.append(start(tmp_path, "import time; time.sleep(60)"))
    process = started[0]
    reused = ProcessId(process.pid, process.start_ticks - 1)
    assert not alive(reused)
    assert not send_signal(reused, signal.SIGKILL)
    assert alive(process)


def test_a_dead_process_gets_no_signal_and_is_waited_for_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "pass")
    assert wait_gone([process], 10) == []
    assert not send_signal(process, signal.SIGTERM)
    assert terminate([process], 1) == []


def test_an_unreaped_process_does_not_count_as_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 10
    while identify(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert identify(child.pid) is None
    assert Path(f"/proc/{child.pid}").exists()
    child.wait()


def test_who_ignores_sigterm_is_killed_and_named(tmp_path: Path, started: list[ProcessId]) -> None:
    started += [start(tmp_path, DEAF), start(tmp_path, "import time; time.sleep(60)")]
    while "up" not in (tmp_path / "log").read_text():
        time.sleep(0.01)
    assert terminate(started, 0.5) == [started[0]]
    assert not any(alive(process) for process in started)


def test_a_stopped_process_still_ends_on_sigterm(tmp_path: Path, started: list[ProcessId]) -> None:
    started.append(start(tmp_path, "import time; time.sleep(60)"))
    send_signal(started[0], signal.SIGSTOP)
    assert terminate(started, 5) == []


def test_a_killed_process_is_gone_only_when_its_port_is_free(tmp_path: Path) -> None:
    program = (
        "import socket, threading, time; s = socket.create_server(('127.0.0.1', 0));"
        "[threading.Thread(target=bytearray, args=(1 << 26,)).start() for _ in range(8)];"
        "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(8)];"
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    for number in range(5):
        directory = tmp_path / str(number)
        directory.mkdir()
        process = start(directory, program)
        while not (said := (directory / "log").read_text()):
            time.sleep(0.01)
        send_signal(process, signal.SIGKILL)
        assert wait_gone([process], 10) == []
        socket.create_server(("127.0.0.1", int(said))).close()


def test_waiting_ends_at_its_deadline(tmp_path: Path, started: list[ProcessId]) -> None:
    started.append(start(tmp_path, "import time; time.sleep(60)"))
    before = time.monotonic()
    assert wait_gone(started, 0.1) == started
    assert time.monotonic() - before < 2


def test_reaping_a_stranger_is_harmless() -> None:
    reap(ProcessId(1, 0))
