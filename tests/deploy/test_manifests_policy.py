"""What every manifest owes: the least power, bounds, pins. Exceptions stand here, each with its reason."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest

from tests.support.manifests import BUILDS, WORKLOADS, Container, Object, build, containers, named, of_kind

PINNED = re.compile(r"[^:@]+:v?\d+\.\d+\.\d+")
PRIVILEGED = {
    "DaemonSet/csi-node/csi": "mounts for other pods, makes block devices, loads the nbd module",
}
ROOT = {
    "StatefulSet/nats/own-the-directory": "gives a directory of the host to the server's user",
    "DaemonSet/node/own-the-directories": "gives directories of the host to the service's user",
    "DaemonSet/holder/own-the-directory": "gives a directory of the host to the holder's user",
    "DaemonSet/csi-node/csi": "mounts",
    "DaemonSet/csi-node/node-driver-registrar": "kubelet's sockets belong to root",
    "DaemonSet/csi-node/liveness-probe": "the driver's socket belongs to root",
}
ADDED = {
    "StatefulSet/nats/own-the-directory": {"CHOWN", "FOWNER"},
    "DaemonSet/node/own-the-directories": {"CHOWN", "FOWNER"},
    "DaemonSet/holder/own-the-directory": {"CHOWN", "FOWNER"},
}
HOST_NETWORK = {"DaemonSet/csi-node": "the kernel offers nbd's netlink in the host's network namespace only"}
UNPROBED = {"DaemonSet/csi-node/liveness-probe": "it is the probe"}
ASKS_KUBERNETES = {
    "StatefulSet/certs/certs": "vault, TokenReview, ConfigMap",
    "Deployment/csi-controller/csi-provisioner": "claims and volumes",
    "Deployment/csi-controller/csi-attacher": "attachments",
    "Deployment/csi-controller/csi-resizer": "volume attributes",
    "Deployment/csi-controller/csi-snapshotter": "snapshots",
}
HOST_PATHS = {
    "DaemonSet/node": {"/var/lib/stos", "/run/stos"},
    "DaemonSet/holder": {"/run/stos"},
    "DaemonSet/csi-node": {
        "/var/lib/kubelet",
        "/var/lib/kubelet/plugins/csi.stos.dev",
        "/var/lib/kubelet/plugins_registry",
        "/run/stos",
        "/dev",
        "/lib/modules",
    },
}


@pytest.fixture(params=BUILDS)
def objects(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return build(request.param)


@pytest.fixture
def found(objects: tuple[Object, ...]) -> list[Container]:
    return list(containers(objects))


def pods(objects: tuple[Object, ...]) -> list[tuple[str, Object]]:
    return [(named(item), item["spec"]["template"]) for item in of_kind(objects, *WORKLOADS)]


# ---- containers ----------------------------------------------------------------------------------------


def test_images_are_pinned(found: list[Container]) -> None:
    for container in found:
        assert PINNED.fullmatch(container.spec["image"]), f"{container.name}: {container.spec['image']}"
        assert container.spec.get("imagePullPolicy", "IfNotPresent") == "IfNotPresent"


def test_every_container_is_bounded(found: list[Container]) -> None:
    for container in found:
        resources = container.spec["resources"]
        for bound in ("requests", "limits"):
            assert set(resources[bound]) == {"cpu", "memory"}, container.name


def test_only_the_node_half_of_csi_is_privileged(found: list[Container]) -> None:
    privileged = {container.name for container in found if container.security.get("privileged")}
    assert privileged == set(PRIVILEGED)


def test_nobody_is_root_without_a_reason(found: list[Container]) -> None:
    root = {container.name for container in found if container.security.get("runAsUser", 0) == 0}
    assert root == set(ROOT)
    for container in found:
        if container.name not in ROOT:
            assert container.security["runAsNonRoot"] is True, container.name
            assert container.security["runAsGroup"] != 0, container.name


def test_powers_are_dropped(found: list[Container]) -> None:
    for container in found:
        security = container.security
        assert security["readOnlyRootFilesystem"] is True, container.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, container.name
        if container.name in PRIVILEGED:
            continue
        assert security["allowPrivilegeEscalation"] is False, container.name
        assert security["capabilities"]["drop"] == ["ALL"], container.name
        assert set(security["capabilities"].get("add", [])) == ADDED.get(container.name, set()), container.name


def test_every_container_is_probed(found: list[Container]) -> None:
    for container in found:
        if container.init or container.name in UNPROBED:
            continue
        assert "livenessProbe" in container.spec, container.name
        if container.ours:
            assert "readinessProbe" in container.spec, container.name


def test_only_the_right_mounts_reach_the_host(objects: tuple[Object, ...]) -> None:
    for name, template in pods(objects):
        paths = {volume["hostPath"]["path"] for volume in template["spec"].get("volumes", []) if "hostPath" in volume}
        assert paths == HOST_PATHS.get(name, set()), name


def test_mounts_go_out_of_privileged_containers_only(found: list[Container]) -> None:
    for container in found:
        for mount in container.spec.get("volumeMounts", []):
            if mount.get("mountPropagation", "None") == "Bidirectional":
                assert container.name in PRIVILEGED, container.name


# ---- pods ----------------------------------------------------------------------------------------------


def test_pods_share_nothing_of_the_host(objects: tuple[Object, ...]) -> None:
    for name, template in pods(objects):
        spec = template["spec"]
        assert not spec.get("hostPID"), name
        assert not spec.get("hostIPC"), name
        assert bool(spec.get("hostNetwork")) == (name in HOST_NETWORK), name


def test_names_of_services_do_not_become_settings(objects: tuple[Object, ...]) -> None:
    """Kubernetes would set CERTS_PORT=tcp://… and the like, and STOS_CERTS_PORT for a service called stos-certs."""
    for name, template in pods(objects):
        assert template["spec"]["enableServiceLinks"] is False, name


def test_tokens_for_the_api_server_lie_only_where_it_is_asked(objects: tuple[Object, ...]) -> None:
    for account in of_kind(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False, named(account)
    for container in containers(objects):
        assert container.pod["automountServiceAccountToken"] is False, container.name
        tokens = [
            volume["name"]
            for volume in container.pod.get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source and "audience" not in source["serviceAccountToken"]
        ]
        has = any(mount["name"] in tokens for mount in container.spec.get("volumeMounts", []))
        assert has == (container.name in ASKS_KUBERNETES), container.name


def test_our_pods_have_a_priority(objects: tuple[Object, ...]) -> None:
    classes = {item["metadata"]["name"] for item in of_kind(objects, "PriorityClass")}
    ours = {container.workload for container in containers(objects) if container.ours}
    for name, template in pods(objects):
        if name in ours:
            assert template["spec"]["priorityClassName"] in classes, name
    for item in of_kind(objects, "PriorityClass"):
        assert item["value"] <= 1_000_000_000  # above it is Kubernetes' own
        assert not item.get("globalDefault")


def test_selectors_match_their_pods(objects: tuple[Object, ...]) -> None:
    for item in of_kind(objects, *WORKLOADS):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items(), named(item)


def test_whatever_can_be_evicted_has_a_budget(objects: tuple[Object, ...]) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods(objects)}
    budgets = of_kind(objects, "PodDisruptionBudget")
    for budget in budgets:
        selector = budget["spec"]["selector"]["matchLabels"]
        assert [name for name, has in labels.items() if selector.items() <= has.items()], named(budget)
        assert budget["spec"]["maxUnavailable"] == 1
    ours = {one.workload for one in containers(objects) if one.ours and not one.workload.startswith("DaemonSet")}
    for name in ours:
        covering = [b for b in budgets if b["spec"]["selector"]["matchLabels"].items() <= labels[name].items()]
        assert len(covering) == 1, name


# ---- what may be asked of the API server ---------------------------------------------------------------


def test_no_rule_is_wider_than_its_words(objects: tuple[Object, ...]) -> None:
    for role in of_kind(objects, "Role", "ClusterRole"):
        for rule in role["rules"]:
            words = [word for key in ("apiGroups", "resources", "verbs") for word in rule[key]]
            assert not [word for word in words if "*" in word], named(role)
            assert "nonResourceURLs" not in rule
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), named(role)


def test_secrets_are_for_certs_in_its_namespace_only(objects: tuple[Object, ...]) -> None:
    may = {
        named(role)
        for role in of_kind(objects, "Role", "ClusterRole")
        for rule in role["rules"]
        if "secrets" in rule["resources"]
    }
    assert may == {"Role/certs"}


def test_every_role_is_given_to_one_account(objects: tuple[Object, ...]) -> None:
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    roles = {named(role) for role in of_kind(objects, "Role", "ClusterRole")}
    given = []
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        (subject,) = binding["subjects"]
        assert subject["kind"] == "ServiceAccount"
        assert subject["name"] in accounts
        assert subject["namespace"] == "stos", named(binding)
        given.append(f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}")
    assert sorted(given) == sorted(roles)


def test_nodes_may_ask_nothing(objects: tuple[Object, ...]) -> None:
    """Whoever takes over a node has nothing of the API server by us."""
    bound = {
        subject["name"]
        for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding")
        for subject in binding["subjects"]
    }
    assert bound == {"certs", "csi-controller"}


# ---- network -------------------------------------------------------------------------------------------


def test_nothing_comes_or_goes_that_is_not_named(objects: tuple[Object, ...]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    (closed,) = [policy for policy in policies if policy["metadata"]["name"] == "default-deny"]
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction, []):
                assert rule.get("ports"), f"{named(policy)}: a rule without ports lets everything through"


def test_named_ports_are_ports_of_who_is_meant(objects: tuple[Object, ...]) -> None:
    ports: dict[str, set[str]] = {}
    for _, template in pods(objects):
        labels = template["metadata"]["labels"]["app.kubernetes.io/name"]
        for spec in template["spec"]["containers"]:
            ports.setdefault(labels, set()).update(one["name"] for one in spec.get("ports", []))
    for policy in of_kind(objects, "NetworkPolicy"):
        target = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        for rule in policy["spec"].get("ingress", []):
            assert {one["port"] for one in rule["ports"]} <= ports[target], named(policy)
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                name = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/name")
                if name is not None:
                    assert {one["port"] for one in rule["ports"]} <= ports[name], named(policy)


def test_everything_is_in_our_namespace_and_says_so(objects: tuple[Object, ...]) -> None:
    whole = ("Namespace", "PriorityClass", "ClusterRole*", "CSIDriver", "*Class", "PersistentVolume")
    for item in objects:
        if not any(fnmatch(item["kind"], pattern) for pattern in whole):
            assert item["metadata"]["namespace"] == "stos", named(item)
    for name, template in pods(objects):
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "stos", name
