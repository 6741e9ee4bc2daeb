"""What the kernel's mount table says, read without asking any filesystem.

`stat` on a mount point whose device has died can hang for ever; /proc/self/mountinfo never does. This
module parses that table and answers the questions that staging and publishing have; it does no I/O.

One line (proc(5)):

    36 35 7:3 / /var/lib/x rw,noatime shared:1 - ext4 /dev/loop3 rw,errors=continue
    id parent dev root path options [optional …] - type source super-options
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FILESYSTEMS = ("ext4", "xfs")
_FAILED = {"emergency_ro", "shutdown"}
"""What newer kernels say of a file system that has given up."""
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    mount_id: int
    device: str
    """major:minor of the mounted filesystem"""
    root: str
    """what of that filesystem is mounted here: / or a path in it"""
    path: str
    readonly: bool
    fs_type: str
    source: str
    failed: bool = False
    """It was mounted for writing, and the kernel has made the file system read-only after an error."""

    @property
    def what(self) -> str:
        """For messages: the source and the kind."""
        return f"{self.source}{'' if self.root == '/' else self.root} ({self.fs_type})"


@dataclass(frozen=True, slots=True)
class Device:
    """A block device of this node."""

    path: str
    """/dev/loop3"""
    number: str
    """7:3"""

    def mounted_as_filesystem(self, mount: Mount) -> bool:
        return mount.device == self.number

    def mounted_as_file(self, mount: Mount) -> bool:
        """A bind mount of the device file itself (how a raw block volume is published)."""
        return mount.fs_type == "devtmpfs" and mount.root == self.path.removeprefix("/dev")

    def mounted(self, mount: Mount) -> bool:
        return self.mounted_as_filesystem(mount) or self.mounted_as_file(mount)


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts in the order of the table; lines that are no mount are skipped."""
    mounts = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 2 or not fields[0].isdigit():
            continue
        readonly = "ro" in fields[5].split(",")
        options = set(kind[2].split(",")) if len(kind) > 2 else set()
        mounts.append(
            Mount(
                mount_id=int(fields[0]),
                device=fields[2],
                root=unescape(fields[3]),
                path=unescape(fields[4]),
                readonly=readonly,
                fs_type=kind[0],
                source=unescape(kind[1]),
                failed=("ro" in options and not readonly) or bool(options & _FAILED),
            )
        )
    return mounts


def unescape(text: str) -> str:
    r"""The kernel writes space, tab, newline and backslash as \040, \011, \012 and \134."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def topmost(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that one sees at `path`: the last one made there."""
    found = None
    for mount in mounts:
        if mount.path == path:
            found = mount
    return found


def parse_probe(output: str) -> dict[str, str]:
    """`blkid -o export` prints KEY=value lines."""
    pairs = (line.partition("=") for line in output.splitlines())
    return {key: value for key, separator, value in pairs if separator}


def mkfs_command(fs_type: str, device: str) -> list[str]:
    """How a fresh volume is formatted. Nothing is discarded, because a fresh volume holds nothing, and blocks
    are 4 KiB like the volume's own. mkfs.xfs gets no -f: it then refuses what has a signature by itself."""
    if fs_type == "ext4":
        return ["mkfs.ext4", "-F", "-q", "-m0", "-b", "4096", "-E", "nodiscard,lazy_itable_init=1", device]
    if fs_type == "xfs":
        return ["mkfs.xfs", "-q", "-K", "-b", "size=4096", device]
    raise ValueError(fs_type)
