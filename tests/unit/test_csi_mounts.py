"""The mount table and the other things that the node's programs print."""

from __future__ import annotations

from services.csi.mounts import Device, mkfs_command, parse_mountinfo, parse_probe, topmost, unescape

TABLE = r"""22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 7:3 / /var/lib/stage\040one rw,noatime shared:9 master:2 - ext4 /dev/loop3 rw
41 27 7:3 / /pods/a ro,noatime - ext4 /dev/loop3 rw
42 41 7:4 /sub /pods/a rw - xfs /dev/loop4 rw
43 27 0:6 /loop3 /pods/block rw,nosuid - devtmpfs udev rw,size=1k
44 27 0:39 / /state/disk rw - fuse /dev/fuse rw
this line is no mount
45 27 0:40 / /x rw
"""
LOOP3 = Device("/dev/loop3", "7:3")


def test_fields_of_a_mount() -> None:
    mount = parse_mountinfo(TABLE)[2]
    assert (mount.mount_id, mount.device, mount.root, mount.path) == (40, "7:3", "/", "/var/lib/stage one")
    assert (mount.readonly, mount.fs_type, mount.source) == (False, "ext4", "/dev/loop3")
    assert mount.what == "/dev/loop3 (ext4)"


def test_lines_that_are_no_mount_are_skipped() -> None:
    assert [mount.mount_id for mount in parse_mountinfo(TABLE)] == [22, 27, 40, 41, 42, 43, 44]
    assert parse_mountinfo("") == []


def test_the_last_mount_at_a_path_is_the_one_that_is_seen() -> None:
    mounts = parse_mountinfo(TABLE)
    there = topmost(mounts, "/pods/a")
    assert there is not None
    assert there.what == "/dev/loop4/sub (xfs)"
    assert topmost(mounts, "/pods") is None


def test_what_shows_a_device() -> None:
    mounts = {mount.mount_id: mount for mount in parse_mountinfo(TABLE)}
    assert LOOP3.mounted_as_filesystem(mounts[40])
    assert LOOP3.mounted_as_filesystem(mounts[41])
    assert mounts[41].readonly
    assert LOOP3.mounted_as_file(mounts[43])
    assert not LOOP3.mounted_as_filesystem(mounts[43])
    assert [number for number, mount in mounts.items() if LOOP3.mounted(mount)] == [40, 41, 43]


def test_escapes() -> None:
    assert unescape(r"a\040b\011c\134d") == "a b\tc\\d"
    assert unescape("plain") == "plain"


def test_probe_output() -> None:
    assert parse_probe("DEVNAME=/dev/loop0\nTYPE=ext4\nLABEL=a=b\n\n") == {
        "DEVNAME": "/dev/loop0",
        "TYPE": "ext4",
        "LABEL": "a=b",
    }
    assert parse_probe("") == {}


def test_mkfs_never_discards_and_uses_the_volumes_block_size() -> None:
    ext4 = mkfs_command("ext4", "/dev/loop3")
    assert ext4[0] == "mkfs.ext4"
    assert ext4[-1] == "/dev/loop3"
    assert "4096" in ext4
    assert any(option.startswith("nodiscard") for option in ext4)
    xfs = mkfs_command("xfs", "/dev/loop3")
    assert "-f" not in xfs  # then it refuses a device with a signature
    assert "-K" in xfs
