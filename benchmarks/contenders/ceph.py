"""Ceph RBD of the distribution's packages: one monitor, one manager, three OSDs (BlueStore, three copies, checksums).

A small cluster made by hand in a directory of its own, the way of Ceph's manual deployment
(https://docs.ceph.com/en/pacific/install/manual-deployment/), on loopback. It is shown from its best side: no
authentication and no encryption on the wire, and the OSDs never wait for the monitor on the data's path. The volume is
served by `qemu-nbd` through librbd with its cache off, as a virtual machine would use it (a cache in the client would
answer before anything was replicated).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

from benchmarks.contenders.contract import end, environment, serve

COPIES = 3
_OSD_SPACE = 4
"""Space of each OSD, in volumes: BlueStore keeps its database and log there too."""
_PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd", "monmaptool", "qemu-nbd")
_PACKAGES = "apt install ceph-mon ceph-mgr ceph-osd ceph-common qemu-utils qemu-block-extra"
_COMMAND_S = 60
_POOL, _IMAGE = "rbd", "volume"


class Ceph:
    name = "ceph"
    jobs: frozenset[str] | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "ceph"
        self._conf = self._directory / "ceph.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def missing(self) -> str:
        absent = [program for program in _PROGRAMS if shutil.which(program) is None]
        return f"{', '.join(absent)} not installed: {_PACKAGES}" if absent else ""

    def start(self, size_bytes: int) -> str:
        self._directory.mkdir(parents=True)
        self._configure(size_bytes)
        self._monitor()
        self._daemon("mgr", ["ceph-mgr", "--id", "x"])
        for number in range(COPIES):
            self._osd(number)
        self._say("osd", "pool", "create", _POOL, "16", "16")
        self._say("osd", "pool", "application", "enable", _POOL, "rbd")
        self._command("rbd", "create", f"{_POOL}/{_IMAGE}", "--size", f"{size_bytes}B", timeout_s=_COMMAND_S)
        unix = self._directory / "socket"
        argv = ["qemu-nbd", "--persistent", "--shared=0", "--cache=none", "--format=raw", f"--socket={unix}"]
        self._running["qemu-nbd"] = serve([*argv, f"rbd:{_POOL}/{_IMAGE}:conf={self._conf}"], unix)
        return f"nbd+unix:///?socket={unix}"

    def _configure(self, size_bytes: int) -> None:
        """Everything below one directory, nothing in the system's places. One machine holds all copies."""
        self._fsid = str(uuid.uuid4())
        self._address = f"v2:127.0.0.1:{_free_port()}/0"
        lines = {
            "fsid": self._fsid,
            "mon_host": f"[{self._address}]",
            "public_network": "127.0.0.0/8",
            "auth_cluster_required": "none",
            "auth_service_required": "none",
            "auth_client_required": "none",
            "osd_pool_default_size": str(COPIES),
            "osd_pool_default_min_size": "2",
            "osd_pool_default_pg_autoscale_mode": "off",
            "osd_crush_chooseleaf_type": "0",
            "mon_data": f"{self._directory}/mon",
            "mgr_data": f"{self._directory}/mgr",
            "osd_data": f"{self._directory}/osd.$id",
            "bluestore_block_create": "true",
            "bluestore_block_size": str(_OSD_SPACE * size_bytes),
            "run_dir": str(self._directory),
            "admin_socket": "",
            "log_file": f"{self._directory}/$name.log",
            "mon_allow_pool_size_one": "false",
            "rbd_cache": "false",
        }
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        self._conf.write_text(f"[global]\n{text}")

    def _monitor(self) -> None:
        monmap = self._directory / "monmap"
        address = f"[{self._address}]"
        self._command("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, str(monmap))
        self._command("ceph-mon", "--mkfs", "--id", "a", "--monmap", str(monmap))
        self._daemon("mon", ["ceph-mon", "--id", "a"])
        self._say("mon", "stat")

    def _osd(self, number: int) -> None:
        made = json.loads(self._say("osd", "new", name := str(uuid.uuid4()), "--format=json"))
        assert made["osdid"] == number, f"a new cluster numbers its OSDs from 0, it said {made}"
        (self._directory / f"osd.{number}").mkdir()
        self._command("ceph-osd", "--id", str(number), "--mkfs", "--osd-uuid", name)
        self._say("osd", "crush", "add", f"osd.{number}", "1.0", "root=default")
        self._daemon(f"osd.{number}", ["ceph-osd", "--id", str(number)])

    def _daemon(self, name: str, argv: list[str]) -> None:
        self._running[name] = subprocess.Popen(
            [*argv, "--foreground", "--conf", str(self._conf)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )

    def _say(self, *words: str) -> str:
        """To the monitor, which may still be starting: the client waits for it."""
        return self._command("ceph", "--connect-timeout", str(_COMMAND_S), *words)

    def _command(self, program: str, *words: str, timeout_s: float = 2 * _COMMAND_S) -> str:
        argv = [program, *words] if program == "monmaptool" else [program, *words, "--conf", str(self._conf)]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout_s, env=environment(), check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{program} {words[0]} did not end within {timeout_s:.0f} s") from None
        if done.returncode:
            raise RuntimeError(f"{program} failed ({done.returncode}): {done.stderr.strip()[-300:]}")
        return done.stdout

    def processes(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def working(self) -> set[str]:
        return {name for name in self._running if name not in ("mon", "mgr")}

    def stop(self) -> None:
        """The client first, the monitor last: each waits for the one that it needs."""
        while self._running:
            end(self._running.popitem()[1])
        shutil.rmtree(self._directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
