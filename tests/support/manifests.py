"""The manifests as `kubectl apply -k` would send them, and what a test wants to know of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
OVERLAYS = ("single-node", "ha", "development")
COMPONENTS = ("monitoring", "snapshots", "group-snapshots", "tracing")
EVERYTHING = "ha and every component"
BUILDS = (*OVERLAYS, EVERYTHING)
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")
Object = dict[str, Any]


def program() -> str:
    """kustomize as the Makefile builds it. Skips the test without it."""
    built = ROOT / ".tools" / "kustomize"
    found = str(built) if built.exists() else shutil.which("kustomize")
    if found is None:
        pytest.skip("there is no kustomize: `make kustomize` builds it and needs Go")
    return found


@cache
def build(name: str) -> tuple[Object, ...]:
    """All objects of an overlay."""
    if name != EVERYTHING:
        return _built(KUSTOMIZE / "overlays" / name)
    # A kustomization has to lie beside what it names, by a relative path.
    directory = ROOT / ".tools" / "everything"
    directory.mkdir(parents=True, exist_ok=True)
    up = "../../deploy/kustomize"
    components = [f"{up}/components/{component}" for component in COMPONENTS]
    text = yaml.safe_dump({"resources": [f"{up}/overlays/ha"], "components": components})
    (directory / "kustomization.yaml").write_text(text)
    return _built(directory)


def _built(directory: Path) -> tuple[Object, ...]:
    done = subprocess.run([program(), "build", str(directory)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def named(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def one(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Container:
    """One container in its pod."""

    workload: str
    pod: Object
    spec: Object
    init: bool

    @property
    def name(self) -> str:
        return f"{self.workload}/{self.spec['name']}"

    @property
    def security(self) -> Object:
        """As it is in force: the pod's, overridden by its own."""
        return {**self.pod.get("securityContext", {}), **self.spec.get("securityContext", {})}

    @property
    def ours(self) -> bool:
        return str(self.spec["image"]).partition(":")[0] in ("stos", "stos-node")


def containers(objects: tuple[Object, ...]) -> Iterator[Container]:
    for item in of_kind(objects, *WORKLOADS):
        pod = item["spec"]["template"]["spec"]
        for key in ("initContainers", "containers"):
            for spec in pod.get(key, []):
                yield Container(named(item), pod, spec, init=key == "initContainers")


def environment(objects: tuple[Object, ...], container: Container) -> dict[str, str]:
    """What the process will see. What is only known in a cluster stands as a likely word; `$(NAME)` is put in."""
    found: dict[str, str] = {}
    for source in container.spec.get("envFrom", []):
        found |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container.spec.get("env", []):
        value = entry.get("value", "")
        if "valueFrom" in entry:
            value = _likely(entry["valueFrom"])
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        assert "$(" not in value, f"{container.name}: {entry['name']} names what is not set before it"
        found[entry["name"]] = value
    return found


def _likely(source: Object) -> str:
    path = source.get("fieldRef", {}).get("fieldPath", "")
    words = {
        "metadata.name": "certs-0",
        "metadata.namespace": "stos",
        "spec.nodeName": "worker-1",
        "status.podIP": "10.1.2.3",
        "metadata.labels['topology.kubernetes.io/zone']": "",
    }
    if path:
        return words[path]
    assert source == {"configMapKeyRef": {"name": "stos-authority", "key": "cluster"}}
    return "stos-0a1b2c3d"
