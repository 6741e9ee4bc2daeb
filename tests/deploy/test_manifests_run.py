"""What the manifests say exists in the code: commands, settings, ports, paths, accounts. So they can't go stale."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest

from services.certs.publication import CLUSTER, ROOTS
from services.certs.settings import CertsSettings, parse_accounts
from services.csi.controller import CAPABILITIES
from services.csi.identity import PLUGIN_NAME
from services.csi.settings import CsiSettings
from services.nats.settings import SETTINGS as NATS
from services.nats.settings import NatsSettings
from services.placement.settings import PlacementSettings
from services.replica.holder import HolderSettings
from services.replica.settings import ReplicaSettings
from stoscore import health, plugins
from stoscore.admission import SERVICE_ROLE
from stoscore.proto import csi_pb2 as pb
from stoscore.settings import COMMON, CommonSettings, ServiceSettings, load
from stoscore.spiffe import role_of
from tests.support.manifests import (
    BUILDS,
    EVERYTHING,
    Container,
    Object,
    build,
    containers,
    environment,
    of_kind,
    one,
)

SETTINGS: dict[str, tuple[str, type[ServiceSettings]]] = {
    "certs": ("certs", CertsSettings),
    "csi": ("csi", CsiSettings),
    "holder": ("holder", HolderSettings),
    "nats": (NATS, NatsSettings),
    "placement": ("placement", PlacementSettings),
    "replica": ("replica", ReplicaSettings),
}


ENROLS_ITSELF = {"certs"}
NO_IDENTITY = {"holder"}


@pytest.fixture(params=BUILDS)
def objects(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return build(request.param)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("STOS_"):
            monkeypatch.delenv(name)
    return monkeypatch


def services(objects: tuple[Object, ...]) -> list[Container]:
    return [container for container in containers(objects) if container.ours and not container.init]


def service_of(container: Container) -> str:
    verb, name = container.spec["args"]
    assert verb == "serve"
    return str(name)


def loaded(
    objects: tuple[Object, ...], container: Container, clean: pytest.MonkeyPatch
) -> tuple[CommonSettings, ServiceSettings]:
    """By the code itself, which refuses what it does not know."""
    for name, value in environment(objects, container).items():
        clean.setenv(name, value)
    table, cls = SETTINGS[service_of(container)]
    return load(CommonSettings, COMMON), load(cls, table)


def settings_of(
    objects: tuple[Object, ...], workload: str, clean: pytest.MonkeyPatch
) -> tuple[Container, CommonSettings, ServiceSettings]:
    (container,) = [one for one in services(objects) if one.workload == workload]
    return (container, *loaded(objects, container, clean))


def test_every_service_runs_somewhere(objects: tuple[Object, ...]) -> None:
    run = {service_of(container) for container in services(objects)}
    assert run == {plugin.name for plugin in plugins.listing() if plugin.group == "stos.services"}


@pytest.mark.parametrize("build_name", BUILDS)
def test_every_setting_is_understood(build_name: str, clean: pytest.MonkeyPatch) -> None:
    objects = build(build_name)
    for container in services(objects):
        with clean.context() as patched:
            common, _ = loaded(objects, container, patched)
            assert common.health_dir is not None
            if service_of(container) not in ENROLS_ITSELF | NO_IDENTITY:
                assert common.service_account_token_file is not None
                assert common.cluster == "stos-0a1b2c3d"


def test_every_path_that_is_written_lies_on_a_volume(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    """The root file systems are read-only."""
    for container in services(objects):
        with clean.context() as patched:
            common, own = loaded(objects, container, patched)
        # Directories that are private, sockets in directories of their own: the mount point itself may belong to root.
        paths = [common.health_dir, *(path for path in own.__dict__.values() if isinstance(path, Path))]
        if service_of(container) == "csi":
            assert isinstance(own, CsiSettings)
            half = [own.node_socket, own.state_dir] if own.serves_node else [own.controller_socket]
            paths = [common.health_dir, *half]
        if service_of(container) not in ENROLS_ITSELF | NO_IDENTITY:
            paths.append(common.identity_dir)
        if service_of(container) not in NO_IDENTITY:
            paths.append(common.trace_dir or common.identity_dir)
        for path in paths:
            if path is not None and not path.is_relative_to("/proc"):
                assert writable(container, path), f"{container.name}: {path} is on no volume"
        for path in (common.service_account_token_file, common.enrol_root_file):
            assert path is None or mounted(container, path), f"{container.name}: {path} is not mounted"


def mounted(container: Container, path: Path) -> Object | None:
    below = [mount for mount in container.spec["volumeMounts"] if path.is_relative_to(mount["mountPath"])]
    return max(below, key=lambda mount: len(mount["mountPath"]), default=None)


def writable(container: Container, path: Path) -> bool:
    mount = mounted(container, path)
    return mount is not None and not mount.get("readOnly")


def test_every_mount_has_its_volume(objects: tuple[Object, ...]) -> None:
    for container in containers(objects):
        volumes = {volume["name"] for volume in container.pod.get("volumes", [])}
        if container.workload == "StatefulSet/nats":
            volumes.add("data")  # from its claim
        used = {mount["name"] for mount in container.spec.get("volumeMounts", [])}
        assert used <= volumes, container.name


def test_sockets_lie_where_the_other_side_looks(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    """The replica's NBD sockets are opened by csi-node's kernel under the same path; both see the same directory."""
    node, _, replica = settings_of(objects, "DaemonSet/node", clean)
    csi = next(one for one in services(objects) if one.workload == "DaemonSet/csi-node")
    assert isinstance(replica, ReplicaSettings)
    assert host_path(node, replica.run_dir) == host_path(csi, replica.run_dir) == str(replica.run_dir)


def test_the_node_finds_its_holder(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    """One directory, one user: a socket is 0600, and the holder holds what lies beside its own only."""
    with clean.context() as patched:
        node, _, replica = settings_of(objects, "DaemonSet/node", patched)
    with clean.context() as patched:
        container, _, holder = settings_of(objects, "DaemonSet/holder", patched)
    assert isinstance(replica, ReplicaSettings)
    assert isinstance(holder, HolderSettings)
    assert replica.holder == holder.socket
    assert replica.run_dir == holder.socket.parent
    assert host_path(node, holder.socket) == host_path(container, holder.socket)
    assert node.security["runAsUser"] == container.security["runAsUser"]
    # An upgrade of the nodes must not replace both at once.
    assert one(objects, "DaemonSet", "holder")["spec"]["updateStrategy"] == {"type": "OnDelete"}


def host_path(container: Container, path: Path) -> str:
    mount = mounted(container, path)
    assert mount is not None
    (volume,) = [volume for volume in container.pod["volumes"] if volume["name"] == mount["name"]]
    return str(Path(volume["hostPath"]["path"]) / path.relative_to(mount["mountPath"]))


# ---- ports and addresses -------------------------------------------------------------------------------


def port(container: Container, name: str) -> int:
    return next(int(one["containerPort"]) for one in container.spec["ports"] if one["name"] == name)


def test_ports_are_those_that_are_listened_on(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    with clean.context() as patched:
        container, _, certs = settings_of(objects, "StatefulSet/certs", patched)
        assert isinstance(certs, CertsSettings)
        assert port(container, "enrolment") == certs.port
    with clean.context() as patched:
        container, _, nats = settings_of(objects, "StatefulSet/nats", patched)
        assert isinstance(nats, NatsSettings)
        assert (port(container, "clients"), port(container, "routes")) == (nats.port, nats.cluster_port)
    with clean.context() as patched:
        container, _, replica = settings_of(objects, "DaemonSet/node", patched)
        assert isinstance(replica, ReplicaSettings)
        assert replica.listen.endswith(f":{port(container, 'peers')}")
        assert replica.advertise == f"10.1.2.3:{port(container, 'peers')}"


def test_addresses_lead_to_services(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    reachable = addresses(objects)
    asked: set[str] = set()
    for container in services(objects):
        if service_of(container) in NO_IDENTITY:
            continue
        with clean.context() as patched:
            common, own = loaded(objects, container, patched)
        asked |= {url.removeprefix("tls://") for url in common.nats_urls} | set(common.enrol_addresses)
        asked |= set(own.routes) if isinstance(own, NatsSettings) else set()
        asked |= set(own.advertise) if isinstance(own, CertsSettings) else set()
        if common.otel_exporter == "otlp":
            asked.add(common.otel_endpoint.removeprefix("http://"))
    assert asked <= reachable


def addresses(objects: tuple[Object, ...]) -> set[str]:
    """host:port of every Service, and of every pod of a StatefulSet behind one."""
    found = set()
    for item in of_kind(objects, "Service"):
        host = f"{item['metadata']['name']}.{item['metadata']['namespace']}.svc"
        hosts = [host]
        for owner in of_kind(objects, "StatefulSet"):
            if owner["spec"]["serviceName"] == item["metadata"]["name"]:
                count = owner["spec"]["replicas"]
                hosts += [f"{owner['metadata']['name']}-{number}.{host}" for number in range(count)]
        found |= {f"{name}:{one['port']}" for name in hosts for one in item["spec"]["ports"]}
    return found


def test_the_servers_of_a_bus_know_each_other(clean: pytest.MonkeyPatch) -> None:
    """The certificates name the routes' hosts, and no stream is kept by more servers than there are."""
    objects = build("ha")
    with clean.context() as patched:
        _, common, nats = settings_of(objects, "StatefulSet/nats", patched)
    with clean.context() as patched:
        _, _, certs = settings_of(objects, "StatefulSet/certs", patched)
    assert isinstance(nats, NatsSettings)
    assert isinstance(certs, CertsSettings)
    assert {route.partition(":")[0] for route in nats.routes} == set(certs.nats_names)
    servers = one(objects, "StatefulSet", "nats")["spec"]["replicas"]
    assert len(nats.routes) == len(common.nats_urls) == servers == certs.stream_replicas
    claim = one(objects, "StatefulSet", "nats")["spec"]["volumeClaimTemplates"][0]
    assert certs.nats_store_bytes < 4 << 30
    assert claim["spec"]["resources"]["requests"]["storage"] == "4Gi"


def test_each_server_of_the_bus_finds_its_volume(objects: tuple[Object, ...]) -> None:
    nats = one(objects, "StatefulSet", "nats")
    claim = nats["spec"]["volumeClaimTemplates"][0]
    wanted = {f"{claim['metadata']['name']}-nats-{number}" for number in range(nats["spec"]["replicas"])}
    volumes = of_kind(objects, "PersistentVolume")
    assert {volume["spec"]["claimRef"]["name"] for volume in volumes} == wanted
    for volume in volumes:
        assert volume["spec"]["storageClassName"] == claim["spec"]["storageClassName"]
        assert volume["spec"]["capacity"]["storage"] == claim["spec"]["resources"]["requests"]["storage"]


# ---- who becomes whom ----------------------------------------------------------------------------------


def test_every_pod_gets_the_identity_that_its_service_needs(
    objects: tuple[Object, ...], clean: pytest.MonkeyPatch
) -> None:
    with clean.context() as patched:
        _, _, certs = settings_of(objects, "StatefulSet/certs", patched)
    assert isinstance(certs, CertsSettings)
    rules = {(rule.namespace, rule.account): rule for rule in parse_accounts(certs.kubernetes_accounts)}
    without = ENROLS_ITSELF | NO_IDENTITY
    enrolling = [container for container in services(objects) if service_of(container) not in without]
    accounts = {("stos", container.pod["serviceAccountName"]) for container in enrolling}
    assert set(rules) == accounts
    for container in enrolling:
        rule = rules["stos", container.pod["serviceAccountName"]]
        pod = container.workload.partition("/")[2] + "-0"
        name = rule.name.replace("{node}", "worker-1").replace("{pod}", pod)
        service = service_of(container)
        assert role_of(rule.kind, name) == SERVICE_ROLE.get(service, service), container.name
        (source,) = next(v for v in container.pod["volumes"] if v["name"] == "proof")["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == certs.kubernetes_audience


def test_newcomers_look_where_certs_publishes(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    with clean.context() as patched:
        _, _, certs = settings_of(objects, "StatefulSet/certs", patched)
    assert isinstance(certs, CertsSettings)
    for container in services(objects):
        if service_of(container) in ENROLS_ITSELF | NO_IDENTITY:
            continue
        (cluster,) = [entry for entry in container.spec["env"] if entry["name"] == "STOS_CLUSTER"]
        assert cluster["valueFrom"]["configMapKeyRef"] == {"name": certs.kubernetes_configmap, "key": CLUSTER}
        volume = next(volume for volume in container.pod["volumes"] if volume["name"] == "authority")
        assert volume["configMap"]["name"] == certs.kubernetes_configmap
        assert [item["key"] for item in volume["configMap"]["items"]] == [ROOTS]
    # Made by certs at run time: applied again it must not be reset to something else.
    assert not [
        item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == certs.kubernetes_configmap
    ]


# ---- csi -----------------------------------------------------------------------------------------------


def test_the_driver_has_one_name(objects: tuple[Object, ...], clean: pytest.MonkeyPatch) -> None:
    one(objects, "CSIDriver", PLUGIN_NAME)
    for item in of_kind(objects, "StorageClass"):
        assert item["provisioner"] in (PLUGIN_NAME, "kubernetes.io/no-provisioner")
    for item in of_kind(objects, "VolumeAttributesClass"):
        assert item["driverName"] == PLUGIN_NAME
    for item in of_kind(objects, "VolumeSnapshotClass", "VolumeGroupSnapshotClass"):
        assert item["driver"] == PLUGIN_NAME


def test_the_sidecar_carries_out_group_snapshots_where_there_is_a_class_of_them(objects: tuple[Object, ...]) -> None:
    gates = [
        argument
        for container in containers(objects)
        for argument in container.spec.get("args", [])
        if argument.startswith("--feature-gates") and "VolumeGroupSnapshot" in argument
    ]
    classes = of_kind(objects, "VolumeGroupSnapshotClass")
    assert gates == ["--feature-gates=CSIVolumeGroupSnapshot=true"] * len(classes)


def test_sidecars_speak_to_the_socket_that_is_listened_on(
    objects: tuple[Object, ...], clean: pytest.MonkeyPatch
) -> None:
    with clean.context() as patched:
        _, _, controller = settings_of(objects, "Deployment/csi-controller", patched)
    with clean.context() as patched:
        node_container, _, node = settings_of(objects, "DaemonSet/csi-node", patched)
    assert isinstance(controller, CsiSettings)
    assert isinstance(node, CsiSettings)
    for container in containers(objects):
        for argument in container.spec.get("args", []):
            name, _, value = argument.partition("=")
            if name == "--csi-address" and container.workload == "Deployment/csi-controller":
                assert value == str(controller.controller_socket)
            elif name == "--csi-address":
                assert host_path(container, Path(value)) == host_path(node_container, node.node_socket)
            elif name == "--kubelet-registration-path":
                assert value == host_path(node_container, node.node_socket)


def test_each_sidecar_has_something_to_do(objects: tuple[Object, ...]) -> None:
    """A sidecar without its capability ends at once, and a capability without its sidecar is never used."""
    rpc = pb.ControllerServiceCapability.RPC
    run = {container.spec["name"] for container in containers(objects) if container.workload.endswith("csi-controller")}
    assert rpc.CREATE_DELETE_VOLUME in CAPABILITIES
    assert rpc.PUBLISH_UNPUBLISH_VOLUME in CAPABILITIES
    assert {"csi-provisioner", "csi-attacher"} <= run
    if {rpc.MODIFY_VOLUME, rpc.EXPAND_VOLUME} & set(CAPABILITIES):
        assert "csi-resizer" in run
    expands = rpc.EXPAND_VOLUME in CAPABILITIES
    for item in of_kind(objects, "StorageClass"):
        if item["provisioner"] == PLUGIN_NAME:
            assert item.get("allowVolumeExpansion", False) == expands, item["metadata"]["name"]


def test_storage_classes_are_understood() -> None:
    from services.csi import validate

    for item in of_kind(build(EVERYTHING), "StorageClass"):
        if item["provisioner"] == PLUGIN_NAME:
            request = pb.CreateVolumeRequest(name="pvc-1", parameters=item["parameters"])
            capability = request.volume_capabilities.add()
            capability.mount.fs_type = ""
            capability.access_mode.mode = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
            wanted = validate.create(request)
            assert wanted.fs_type == "ext4"


# ---- probes --------------------------------------------------------------------------------------------


def probes(objects: tuple[Object, ...], kind: str) -> list[tuple[Container, Object]]:
    return [(one, one.spec[kind]["exec"]) for one in services(objects) if "exec" in one.spec.get(kind, {})]


def run_probe(command: list[str], directory: Path) -> int:
    """The very command of the manifest, on a directory of the test."""
    there = [part.replace("/run/health", str(directory)) for part in command]
    return subprocess.run(there, capture_output=True, timeout=30, stdin=subprocess.DEVNULL).returncode


def test_probes_see_what_a_process_shows(
    objects: tuple[Object, ...], tmp_path: Path, clean: pytest.MonkeyPatch
) -> None:
    commands = {tuple(probe["command"]) for _, probe in probes(objects, "livenessProbe")}
    assert len(commands) == 1
    alive = list(next(iter(commands)))
    assert run_probe(alive, tmp_path) != 0
    (tmp_path / health.ALIVE).touch()
    assert run_probe(alive, tmp_path) == 0
    long_ago = time.time() - 120
    os.utime(tmp_path / health.ALIVE, (long_ago, long_ago))
    assert run_probe(alive, tmp_path) != 0
    ready = {tuple(probe["command"]) for _, probe in probes(objects, "readinessProbe")}
    assert len(ready) == 1
    assert run_probe(list(next(iter(ready))), tmp_path) != 0
    (tmp_path / health.READY).touch()
    assert run_probe(list(next(iter(ready))), tmp_path) == 0


def test_probes_over_http_go_to_ports_that_are_served(objects: tuple[Object, ...]) -> None:
    for container in containers(objects):
        for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
            asked = container.spec.get(kind, {}).get("httpGet")
            if asked is None:
                continue
            numbers = {one["name"]: one["containerPort"] for one in container.spec.get("ports", [])}
            number = numbers.get(asked["port"], asked["port"])
            beside = [argument for other in container.pod["containers"] for argument in other.get("args", [])]
            served = {int(m[1]) for text in beside if (m := re.search(r"--http-endpoint=[^ ]*:(\d+)$", text))}
            assert number in served | {13133, 14269}, f"{container.name}: nobody serves {number}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_directories_are_made_for_who_writes_them(objects: tuple[Object, ...], tmp_path: Path) -> None:
    """The init containers' very commands, on a directory of the test, also when it is there already."""
    made = 0
    for container in containers(objects):
        if not container.init:
            continue
        main = next(spec for spec in container.pod["containers"] if service_of(Container("", {}, spec, init=False)))
        user = {**container.pod["securityContext"], **main["securityContext"]}["runAsUser"]
        directories = [part for part in container.spec["command"] if part.startswith("/")]
        command = [f"{tmp_path}{part}" if part.startswith("/") else part for part in container.spec["command"]]
        for _ in range(2):
            subprocess.run(command, check=True, capture_output=True, timeout=30)
        for directory in directories:
            found = Path(f"{tmp_path}{directory}").stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (user, 0o700)
            made += 1
    assert made == 4
