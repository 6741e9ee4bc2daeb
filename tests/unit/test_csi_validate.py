"""Every way in which a CSI request can be wrong, and what the right ones mean."""

from __future__ import annotations

import pytest

from services.csi import parameters, validate
from services.csi.topology import NODE_KEY, ZONE_KEY
from stoscore.errors import Code, StosError
from stoscore.limits import valid_volume_id, valid_volume_name
from stoscore.proto import csi_pb2 as pb
from stoscore.units import GIB, MIB, TIB
from tests.support.csi import block, create_request, mounted

MODE = pb.VolumeCapability.AccessMode


def refused(request: pb.CreateVolumeRequest) -> StosError:
    with pytest.raises(StosError) as caught:
        validate.create(request)
    return caught.value


def test_a_plain_request_gets_the_defaults() -> None:
    wanted = validate.create(create_request())
    assert (wanted.name, wanted.sizes.chosen_bytes, wanted.asked.replicas) == ("pvc-1", GIB, 2)
    assert (wanted.fs_type, wanted.zones, wanted.labels) == ("ext4", (), {"stos.dev/fs-type": "ext4"})


@pytest.mark.parametrize(
    ("required", "limit", "size_bytes"),
    [
        (1, 0, 16 * MIB),
        (GIB, GIB, GIB),
        (GIB + 1, 0, GIB + MIB),
        (0, 10 * GIB, GIB),
        (0, 100 * MIB + 5, 100 * MIB),
        (64 * TIB, 0, 64 * TIB),
    ],
)
def test_a_size_is_whole_mib_within_the_range(required: int, limit: int, size_bytes: int) -> None:
    assert validate.create(create_request("v", required, limit)).sizes.chosen_bytes == size_bytes


def test_without_a_range_a_volume_has_one_gib() -> None:
    request = create_request()
    request.ClearField("capacity_range")
    assert validate.create(request).sizes.chosen_bytes == GIB


@pytest.mark.parametrize(
    ("required", "limit", "code", "says"),
    [
        (0, 0, Code.INVALID_ARGUMENT, "0 bytes"),
        (-1, 0, Code.INVALID_ARGUMENT, "required_bytes is negative"),
        (0, -1, Code.INVALID_ARGUMENT, "limit_bytes is negative"),
        (-(2**63), 0, Code.INVALID_ARGUMENT, "negative"),
        (2 * GIB, GIB, Code.OUT_OF_RANGE, "below required_bytes"),
        (64 * TIB + 1, 0, Code.OUT_OF_RANGE, "more than a volume can have"),
        (2**63 - 1, 0, Code.OUT_OF_RANGE, "more than a volume can have"),
        (GIB + 1, GIB + 2, Code.OUT_OF_RANGE, "no whole number of MiB"),
        (1, MIB, Code.OUT_OF_RANGE, "below the smallest"),
        (0, 1, Code.OUT_OF_RANGE, "below the smallest"),
    ],
)
def test_impossible_sizes(required: int, limit: int, code: Code, says: str) -> None:
    error = refused(create_request("v", required, limit))
    assert error.code is code
    assert says in error.message


def test_xfs_needs_more_and_a_block_volume_less() -> None:
    assert validate.create(create_request("v", 1, 0, mounted("xfs"))).sizes.chosen_bytes == 300 * MIB
    assert validate.create(create_request("v", 1, 0, block())).sizes.chosen_bytes == MIB


@pytest.mark.parametrize(
    "name", ["a/b", "..", "-x", "späce", "a b", "*", "a.>", "vol+1", "0123456789abcdef" * 2, "/" * 128]
)
def test_names_that_are_none_of_ours_become_one(name: str) -> None:
    made = validate.create(create_request(name)).name
    assert valid_volume_name(made)
    assert not valid_volume_id(made)
    assert made == validate.create(create_request(name)).name
    assert made != validate.create(create_request(name[:-1] + "~")).name


@pytest.mark.parametrize("name", ["", "x" * 129, "ä" * 65, "a\n", "\0", "a\x1b[2J"])
def test_impossible_names(name: str) -> None:
    assert refused(create_request(name)).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["0", "5"])
def test_possible_replicas(text: str) -> None:
    assert validate.create(create_request(replicas=text)).asked.replicas == int(text)


@pytest.mark.parametrize("text", ["", "6", "-1", "two", "1.0", " 1", "٣", "1" * 5000])
def test_impossible_replicas(text: str) -> None:
    assert "replicas" in refused(create_request(replicas=text)).message


def test_an_unknown_parameter_is_named() -> None:
    error = refused(create_request(replicsa="2"))
    assert error.code is Code.INVALID_ARGUMENT
    assert "replicsa" in error.message


def test_kubernetes_metadata_becomes_labels() -> None:
    request = create_request()
    request.parameters["csi.storage.k8s.io/pvc/name"] = "data"
    request.parameters["csi.storage.k8s.io/fstype"] = "xfs"
    wanted = validate.create(request)
    assert wanted.labels == {"csi.storage.k8s.io/pvc/name": "data", "stos.dev/fs-type": "xfs"}


@pytest.mark.parametrize("count", [64, 200])
def test_too_much_metadata(count: int) -> None:
    request = create_request()
    for number in range(count):
        request.parameters[f"csi.storage.k8s.io/{number}"] = "x"
    assert "metadata" in refused(request).message


def test_metadata_that_is_too_long() -> None:
    request = create_request()
    request.parameters["csi.storage.k8s.io/pvc/name"] = "x" * 257
    assert "metadata" in refused(request).message


def test_filesystem_parameters_that_contradict_each_other() -> None:
    request = create_request(fsType="ext4")
    request.parameters["csi.storage.k8s.io/fstype"] = "xfs"
    assert "contradict" in refused(request).message
    request.parameters["csi.storage.k8s.io/fstype"] = "ext4"
    assert validate.create(request).fs_type == "ext4"


def test_a_filesystem_parameter_against_the_capability() -> None:
    assert "several filesystems" in refused(create_request(capability=mounted("xfs"), fsType="ext4")).message


def test_a_block_volume_has_no_filesystem() -> None:
    assert "no filesystem" in refused(create_request(capability=block(), fsType="ext4")).message
    assert validate.create(create_request(capability=block())).fs_type == ""


@pytest.mark.parametrize("fs_type", ["btrfs", "EXT4", "ext4 ", "../ext4"])
def test_unknown_filesystems(fs_type: str) -> None:
    assert refused(create_request(fsType=fs_type)).code is Code.INVALID_ARGUMENT
    assert refused(create_request(capability=mounted(fs_type))).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "mode", [MODE.MULTI_NODE_READER_ONLY, MODE.MULTI_NODE_SINGLE_WRITER, MODE.MULTI_NODE_MULTI_WRITER]
)
def test_modes_of_many_nodes_are_refused_by_name(mode: int) -> None:
    error = refused(create_request(capability=mounted(mode=mode)))
    assert error.code is Code.INVALID_ARGUMENT
    assert MODE.Mode.Name(mode) in error.message
    with pytest.raises(StosError) as caught:
        validate.access(block(mode), refusal=Code.FAILED_PRECONDITION)
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("mode", [MODE.UNKNOWN, 99])
def test_modes_that_say_nothing(mode: int) -> None:
    assert refused(create_request(capability=mounted(mode=mode))).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "mode",
    [
        MODE.SINGLE_NODE_WRITER,
        MODE.SINGLE_NODE_READER_ONLY,
        MODE.SINGLE_NODE_SINGLE_WRITER,
        MODE.SINGLE_NODE_MULTI_WRITER,
    ],
)
def test_modes_of_one_node(mode: int) -> None:
    assert validate.access(mounted(mode=mode)).readonly == (mode == MODE.SINGLE_NODE_READER_ONLY)


def test_capabilities_that_are_missing_or_mixed() -> None:
    request = create_request()
    del request.volume_capabilities[:]
    assert "empty" in refused(request).message
    request.volume_capabilities.extend([mounted(), block()])
    assert "at once" in refused(request).message
    assert "access type" in refused(create_request(capability=pb.VolumeCapability())).message
    grouped = mounted()
    grouped.mount.volume_mount_group = "1000"
    assert "volume_mount_group" in refused(create_request(capability=grouped)).message


def test_a_content_source_is_refused_by_name() -> None:
    request = create_request()
    request.volume_content_source.snapshot.snapshot_id = "s"
    assert "snapshot" in refused(request).message
    request.volume_content_source.volume.volume_id = "v"
    assert "volume" in refused(request).message


def test_the_class_says_how_writes_are_kept() -> None:
    asked = validate.create(create_request(replicas="2", failureMode="soft", onUnavailable="error")).asked
    assert (asked.replicas, asked.failure_mode, asked.on_unavailable) == (2, "soft", "error")
    assert validate.create(create_request(failureMode="3")).asked.failure_mode == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("failureMode", "softly"),
        ("failureMode", ""),
        ("failureMode", "0"),
        ("failureMode", "7"),
        ("onUnavailable", "panic"),
        ("topologyKey", "kubernetes.io/hostname"),
        ("topologyKey", "*"),
        ("dataLocality", "strict"),
        ("dataLocality", ""),
        ("fsType", ""),
    ],
)
def test_impossible_parameters_are_named(key: str, value: str) -> None:
    error = refused(create_request(**{key: value}))
    assert error.code is Code.INVALID_ARGUMENT
    assert key in error.message


def test_a_write_can_not_need_more_copies_than_there_are() -> None:
    assert "copies" in refused(create_request(replicas="1", failureMode="3")).message


def test_what_the_driver_has_to_remember_are_labels() -> None:
    wanted = validate.create(create_request(topologyKey=ZONE_KEY, dataLocality="best-effort"))
    assert wanted.labels == {
        "stos.dev/apart": "zone",
        "stos.dev/data-locality": "best-effort",
        "stos.dev/fs-type": "ext4",
    }
    plain = validate.create(create_request(topologyKey=NODE_KEY, dataLocality="disabled"))
    assert plain.labels == {"stos.dev/apart": "node", "stos.dev/fs-type": "ext4"}


def test_mutable_parameters_win_over_the_class() -> None:
    request = create_request(replicas="1", failureMode="soft")
    request.mutable_parameters["replicas"] = "2"
    asked = validate.create(request).asked
    assert (asked.replicas, asked.failure_mode) == (2, "soft")


@pytest.mark.parametrize("key", ["iops", "fsType", "topologyKey", "dataLocality", ""])
def test_what_can_not_change_is_refused_by_name(key: str) -> None:
    request = create_request()
    request.mutable_parameters[key] = "1"
    assert repr(key) in refused(request).message
    with pytest.raises(StosError):
        parameters.changes({key: "1"})


def test_changes_of_a_live_volume() -> None:
    assert parameters.changes({}).nothing
    found = parameters.changes({"replicas": "0", "onUnavailable": "suspend"})
    assert found == parameters.Changes(replicas=0, on_unavailable="suspend")


def test_mount_flags_that_the_kernel_would_cut_off() -> None:
    with pytest.raises(StosError) as caught:
        validate.access(mounted(flags=["x" * 4096]))
    assert "longer" in caught.value.message


def test_mount_flags() -> None:
    assert validate.access(mounted(flags=["noatime", "nodiratime,discard"])).mount_flags == (
        "noatime",
        "nodiratime",
        "discard",
    )


@pytest.mark.parametrize(
    "flag", ["bind", "rbind", "remount", "loop=/dev/loop0", "offset=4096", "shared", "rslave", "", "a b", "a,,b", "\0"]
)
def test_mount_flags_that_would_mount_something_else(flag: str) -> None:
    with pytest.raises(StosError):
        validate.access(mounted(flags=[flag]))


def test_zones() -> None:
    request = create_request()
    for zone in ("b", "a", "b"):
        request.accessibility_requirements.requisite.add().segments[ZONE_KEY] = zone
    assert validate.create(request).zones == ("a", "b")
    request.accessibility_requirements.requisite.add()
    assert validate.create(request).zones == ()
    request.accessibility_requirements.requisite.add().segments["rack"] = "1"
    assert "rack" in refused(request).message


@pytest.mark.parametrize("zone", ["", "a b", "*", ">", "zone\n", "x" * 64, "../a", "a.*"])
def test_impossible_zones(zone: str) -> None:
    request = create_request()
    request.accessibility_requirements.requisite.add().segments[ZONE_KEY] = zone
    assert refused(request).code is Code.INVALID_ARGUMENT


def test_a_node_s_own_topology_limits_no_copies() -> None:
    """The scheduler passes on where the pod is to run, and there a volume can be used wherever its copies are."""
    request = create_request()
    request.accessibility_requirements.requisite.add().segments.update({ZONE_KEY: "a", NODE_KEY: "n1"})
    assert validate.create(request).zones == ()


def test_more_zones_than_make_sense() -> None:
    request = create_request()
    for number in range(65):
        request.accessibility_requirements.requisite.add().segments[ZONE_KEY] = f"z{number}"
    assert "65 zones" in refused(request).message


def test_the_preferred_node_is_wanted_with_locality_only() -> None:
    for locality, near in (("best-effort", "n2"), ("disabled", None)):
        request = create_request(dataLocality=locality)
        for node in ("n2", "n1"):
            request.accessibility_requirements.preferred.add().segments[NODE_KEY] = node
        assert validate.create(request).near == near
    request.accessibility_requirements.preferred.add().segments[NODE_KEY] = "n.*"
    assert refused(request).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["", "x", "/", "/a/../b", "/a/./b", "/a\0b", "/a\nb", "/a\x1bb", "/" + "x" * 4096])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(StosError) as caught:
        validate.path(path, "target_path")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "target_path" in caught.value.message


def test_paths_are_brought_into_one_form() -> None:
    assert validate.path("/a//b/", "target_path") == "/a/b"


@pytest.mark.parametrize(
    ("text", "code"), [("", Code.INVALID_ARGUMENT), ("x", Code.NOT_FOUND), ("A" * 32, Code.NOT_FOUND)]
)
def test_ids_that_no_volume_has(text: str, code: Code) -> None:
    with pytest.raises(StosError) as caught:
        validate.volume_id(text)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("text", "code"), [("", Code.INVALID_ARGUMENT), ("N1", Code.NOT_FOUND), ("a.b", Code.NOT_FOUND)]
)
def test_ids_that_no_node_has(text: str, code: Code) -> None:
    with pytest.raises(StosError) as caught:
        validate.node_id(text)
    assert caught.value.code is code
