"""Choosing an attacher, and recognising what a former life of the service left."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.csi import attachers
from services.csi.attachers import Attacher, Export, kernel_nbd, loops
from services.csi.attachers.fuse import daemon_command
from services.csi.attachers.loops import Loop
from stoscore.errors import Code, StosError

VOLUME = "0123456789abcdef" * 2


class Stub:
    def __init__(self, name: str, obstacle: str | None, volumes: dict[str, str] | None = None) -> None:
        self.name = name
        self._obstacle = obstacle
        self._volumes = volumes or {}

    def obstacle(self) -> str | None:
        return self._obstacle

    async def attached(self) -> dict[str, str]:
        return self._volumes

    async def attach(self, volume: str, export: Export) -> str:
        raise NotImplementedError

    async def detach(self, volume: str) -> None:
        raise NotImplementedError

    async def tend(self) -> None:
        return


def test_the_first_usable_one_is_taken() -> None:
    chosen: list[Attacher] = [Stub("a", "no module"), Stub("b", None), Stub("c", None)]
    assert attachers.first_usable(chosen).name == "b"


def test_without_a_usable_one_every_obstacle_is_told() -> None:
    with pytest.raises(StosError) as caught:
        attachers.first_usable([Stub("a", "no module"), Stub("b", "install x")])
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "a: no module; b: install x" in caught.value.message
    with pytest.raises(StosError):
        attachers.first_usable([])


async def test_the_holder_is_found_whether_it_is_usable_or_not() -> None:
    held = await attachers.holder([Stub("a", None), Stub("b", "gone", {"v": "/dev/x"})], "v")
    assert held is not None
    assert (held[0].name, held[1]) == ("b", "/dev/x")
    assert await attachers.holder([Stub("a", None)], "v") is None


def test_the_attachers_are_found_by_name(tmp_path: Path) -> None:
    assert [attacher.name for attacher in attachers.load(["kernel-nbd", "fuse"], tmp_path)] == [
        "kernel-nbd",
        "fuse",
    ]
    with pytest.raises(StosError) as caught:
        attachers.load(["floppy"], tmp_path)
    assert caught.value.code is Code.NOT_FOUND


def test_commas_in_names_do_not_become_options() -> None:
    argv = daemon_command(Export("/run/a,b.sock", "x,readonly=on"), Path("/state/disk"))
    assert "server.path=/run/a,,b.sock,export=x,,readonly=on," in argv[3]


def loop(root: Path, name: str, sequence: int, backing: str) -> None:
    (root / name / "loop").mkdir(parents=True)
    (root / name / "diskseq").write_text(f"{sequence}\n")
    (root / name / "loop" / "backing_file").write_text(f"{backing}\n")


def test_loop_devices_are_read_from_sysfs(tmp_path: Path) -> None:
    loop(tmp_path, "loop0", 3, "/a file")
    loop(tmp_path, "loop7", 9, "/")
    (tmp_path / "loop1").mkdir()
    assert loops.in_use(tmp_path) == [Loop("loop0", 3, "/a file"), Loop("loop7", 9, "/")]


def test_a_loop_device_is_recalled_only_in_the_same_use() -> None:
    used = [Loop("loop0", 3, "/a"), Loop("loop1", 0, "/b")]
    assert loops.recall(Loop("loop0", 3, "/gone").note(), used) == used[0]
    assert loops.recall(Loop("loop0", 2, "/a").note(), used) is None
    assert loops.recall(Loop("loop1", 0, "/b").note(), used) is None  # no number, no proof
    assert loops.recall("", used) is None


def test_nbd_devices_are_known_by_what_the_kernel_kept(tmp_path: Path) -> None:
    for name, identifier in (("nbd0", f"stos:{VOLUME}"), ("nbd1", "somebody"), ("nbd2", "stos:short")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backend").write_text(f"{identifier}\n")
    (tmp_path / "nbd3").mkdir()
    assert kernel_nbd.devices(tmp_path) == {VOLUME: 0}
