"""The kernel's own tables: which processes belong to a cluster, and every socket on which they can be reached.

What a program says of itself is not asked: a socket that somebody forgot is just the one that it does not mention.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TCP_LISTEN = "0A"
_UNIX_ACCEPTS = 0x10000
"""__SO_ACCEPTCON in the flags of /proc/net/unix."""


@dataclass(frozen=True, slots=True)
class Listening:
    """One socket that takes connections, or datagrams from anybody."""

    family: str
    """tcp, tcp6, udp, udp6, raw, raw6, unix, packet"""
    address: str
    """host:port, or the path of a Unix socket ("@name" for an abstract one)"""
    pid: int
    program: str


def processes_of(*directories: Path) -> dict[int, str]:
    """pid -> command line of every process that was started for a cluster: it, or one of its ancestors, names one
    of the cluster's directories in its arguments, its environment or its working directory."""
    named = {pid for pid in _pids() if _names(pid, directories)} - {os.getpid()}
    ours = {pid for pid in _pids() if named.intersection(_ancestors(pid)) and pid != os.getpid()}
    return {pid: _command(pid) for pid in sorted(ours)}


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _names(pid: int, directories: tuple[Path, ...]) -> bool:
    texts = []
    for file in ("cmdline", "environ"):
        with suppress(OSError):
            texts.append(Path(f"/proc/{pid}/{file}").read_bytes())
    with suppress(OSError):
        texts.append(os.readlink(f"/proc/{pid}/cwd").encode())
    return any(bytes(directory) in text for text in texts for directory in directories)


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(text[text.rindex(")") + 2 :].split()[1])


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return ""


def listening(pids: dict[int, str]) -> list[Listening]:
    """Every socket of these processes that a stranger could reach."""
    owner = {inode: pid for pid in pids for inode in _inodes(pid)}
    found = []
    for family, address, inode in _open_sockets():
        if inode in owner:
            pid = owner[inode]
            found.append(Listening(family, address, pid, pids[pid]))
    return found


def _inodes(pid: int) -> set[int]:
    inodes = set()
    with suppress(OSError):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(descriptor.path)
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
    return inodes


def _open_sockets() -> Iterator[tuple[str, str, int]]:
    """(family, address, inode)"""
    for family in ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6"):
        for fields in _rows(family):
            if not family.startswith("tcp") or fields[3] == _TCP_LISTEN:
                yield family, _address(fields[1]), int(fields[9])
    for fields in _rows("unix"):
        if int(fields[3], 16) & _UNIX_ACCEPTS:
            yield "unix", fields[7] if len(fields) > 7 else "", int(fields[6])
    for fields in _rows("packet"):
        yield "packet", fields[3], int(fields[8])


def _rows(table: str) -> list[list[str]]:
    try:
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return []  # the kernel was built without that family
    return [line.split() for line in lines]


def _address(text: str) -> str:
    """host:port of the kernel's hexadecimal form: 32-bit words in the machine's own order (proc(5))."""
    host, _, port = text.rpartition(":")
    raw = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    name = socket.inet_ntop(family, raw).removeprefix("::ffff:")
    return f"{name}:{int(port, 16)}"
