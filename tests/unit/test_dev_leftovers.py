"""What is left of a cluster is found in the kernel's tables."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from services.dev.leftovers import Mount, parse_mountinfo, programs, unix_sockets

TABLE = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 7:0 / /tmp/a\040b/mnt rw,relatime shared:9 master:2 - ext4 /dev/loop0 rw
32 22 0:44 / /c/export rw,nosuid - fuse.export export rw,user_id=0
broken line
"""


def test_the_mount_table() -> None:
    assert parse_mountinfo(TABLE) == [
        Mount("/dev/vda", "/", "ext4"),
        Mount("/dev/loop0", "/tmp/a b/mnt", "ext4"),
        Mount("export", "/c/export", "fuse.export"),
    ]


def test_listening_unix_sockets_of_a_directory(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(tmp_path / "listening"))
        one.listen()
        other.bind(str(tmp_path / "bound"))
        assert unix_sockets(tmp_path) == [str(tmp_path / "listening")]
        assert unix_sockets(tmp_path / "elsewhere") == []
    assert unix_sockets(tmp_path) == []


def test_programs_that_name_a_directory(tmp_path: Path) -> None:
    """And not those that name its neighbour, who belongs to somebody else."""
    code = "import time; print(flush=True); time.sleep(60)"
    with ExitStack() as stack:
        ours, theirs = (
            subprocess.Popen([sys.executable, "-c", code, f"filename={place}/x,off"], stdout=subprocess.PIPE)
            for place in (tmp_path, f"{tmp_path}0")
        )
        for child in (ours, theirs):
            stack.enter_context(child)
            stack.callback(child.kill)
        for child in (ours, theirs):
            assert child.stdout is not None
            child.stdout.readline()  # while a program is being loaded, the kernel shows no arguments of it
        assert [pid for pid, _ in programs(tmp_path)] == [ours.pid]
    assert list(programs(tmp_path)) == []
