"""What a node tells of its attachers and its mounts: only what is ours, and only what is unsafe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from services.csi import figures
from services.csi.attachers import Attacher
from services.csi.figures import Figures

VOLUME = "0123456789abcdef" * 2
MOUNTS = """/dev/nbd0 /data ext4 rw,nobarrier 0 0
/dev/nbd0 /data/again ext4 rw,nobarrier,data=writeback 0 0
/dev/nbd1 /other ext4 rw,nobarrier 0 0
/dev/loop3 /mnt xfs rw,noatime 0 0
tmpfs /nobarrier tmpfs rw,nobarrier 0 0
proc /proc
"""


@dataclass
class Way:
    name: str
    why_not: str | None
    asked: int = 0

    def obstacle(self) -> str | None:
        self.asked += 1
        return self.why_not


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    files = {
        "sys/block/nbd0/backend": f"stos:{VOLUME}\n",
        "sys/block/nbd1/backend": "another\n",
        "sys/block/loop3/loop/backing_file": f"/var/lib/x/{VOLUME}/disk\n",
        "proc/self/mounts": MOUNTS,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def told(of: Figures) -> dict[tuple[str, ...], float]:
    return {(sample.name.removeprefix("stos."), *sample.attributes): sample.value for sample in of.samples()}


def test_what_is_unsafe_is_counted_by_its_option(machine: Path) -> None:
    ways = [Way("fuse", "no /dev/fuse"), Way("kernel-nbd", None)]
    assert told(Figures(cast("list[Attacher]", ways), machine)) == {
        ("attacher.usable", "fuse"): 0,
        ("attacher.usable", "kernel-nbd"): 1,
        ("mount.unsafe", "nobarrier"): 2,
        ("mount.unsafe", "data=writeback"): 1,
    }


def test_a_file_system_of_ours_that_is_mounted_well_is_no_finding(machine: Path) -> None:
    (machine / "proc/self/mounts").write_text("/dev/loop3 /mnt xfs rw,nobarrierless 0 0\n")
    assert told(Figures([], machine)) == {}
    assert told(Figures([], machine / "nowhere")) == {}


def test_a_way_is_not_tried_at_each_look(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To try one may mean to load a kernel module."""
    way = Way("kernel-nbd", "no module")
    looking = Figures(cast("list[Attacher]", [way]), machine)
    assert told(looking) == told(looking)
    assert way.asked == 1
    monkeypatch.setattr(figures, "LOOK_S", 0.0)
    way.why_not = None
    assert told(looking)["attacher.usable", "kernel-nbd"] == 1
