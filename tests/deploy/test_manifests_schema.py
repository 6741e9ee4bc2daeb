"""Every field of every object is one that Kubernetes has, with a value of its type, and none that it needs is missing.

By a real API server where the machine has one (STOS_E2E_KUBECONFIG: a dry run of what `kubectl apply` would do), and
always by the API's own schemas, which the client library carries as generated models.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any

import pytest
from kubernetes import client

from tests.support.manifests import BUILDS, Object, build, named

EXTENSIONS = {
    # Kinds of others: their schema lies in the cluster. Fields that we use, and no others.
    "ServiceMonitor": {"selector": {"matchLabels"}, "endpoints": {"port", "path", "interval", "scheme"}},
    "PrometheusRule": {"groups": {"name", "interval", "rules"}},
    "PodMonitor": {"selector": {"matchLabels"}, "podMetricsEndpoints": {"port", "path", "interval", "scheme"}},
    "VolumeSnapshotClass": {},
    "VolumeGroupSnapshotClass": {},
}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
IN_MODELS = {"bool": bool, "str": str, "int": int, "float": (int, float), "datetime": datetime, "object": object}


def model_of(item: Object) -> Any:
    """The generated class: apps/v1 StatefulSet -> V1StatefulSet."""
    version = item["apiVersion"].rpartition("/")[2]
    return getattr(client, f"{version.capitalize()}{item['kind']}")


def problems(value: Any, kind: str, path: str) -> list[str]:
    """What the schema of that type has against the value."""
    if (inner := re.fullmatch(r"List\[(.+)\]", kind)) is not None:
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [problem for index, one in enumerate(value) for problem in problems(one, inner[1], f"{path}[{index}]")]
    if (inner := re.fullmatch(r"Dict\[str, (.+)\]", kind)) is not None:
        if not isinstance(value, dict):
            return [f"{path} is no map"]
        return [problem for key, one in value.items() for problem in problems(one, inner[1], f"{path}.{key}")]
    if kind in IN_MODELS:
        wrong = not isinstance(value, IN_MODELS[kind]) or (isinstance(value, bool) and kind in ("int", "float"))
        if kind == "str" and wrong and isinstance(value, int) and QUANTITY.fullmatch(str(value)):
            return []
        return [f"{path} is {value!r}, not of type {kind}"] if wrong else []
    return _object_problems(value, getattr(client, kind), path)


def _object_problems(value: Any, model: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path} is {value!r}, not an object"]
    fields = {model.attribute_map[attribute]: kind for attribute, kind in model.openapi_types.items()}
    found = [f"{path}.{key} is no field of {model.__name__}" for key in value if key not in fields]
    for key, one in value.items():
        if key in fields and one is not None:
            found += problems(one, fields[key], f"{path}.{key}")
    for attribute, field in model.model_fields.items():
        if field.is_required() and value.get(model.attribute_map[attribute]) is None:
            found.append(f"{path}.{model.attribute_map[attribute]} is missing")
    return found


@pytest.mark.parametrize("name", BUILDS)
def test_every_object_fits_its_schema(name: str) -> None:
    found: list[str] = []
    for item in build(name):
        if item["kind"] in EXTENSIONS:
            found += extension_problems(item)
        else:
            found += problems(item, model_of(item).__name__, named(item))
    assert not found, "\n".join(found)


def extension_problems(item: Object) -> list[str]:
    found = []
    for field, known in EXTENSIONS[item["kind"]].items():
        parts = item["spec"][field]
        for part in parts if isinstance(parts, list) else [parts]:
            found += [f"{named(item)}.spec.{field}.{key} is not known" for key in part if key not in known]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replcias": 2}, "replcias is no field of V1DeploymentSpec"),
        ({"replicas": "2"}, "not of type int"),
        ({"selector": None}, "selector is missing"),
        ({"template": {"spec": {"containers": [{"image": "x"}]}}}, "name is missing"),
        ({"template": {"spec": {"containers": [{"name": "x", "args": "serve"}]}}}, "args is no list"),
    ],
)
def test_the_check_finds_what_is_wrong(change: Object, said: str) -> None:
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "x"}]}}}
    item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec | change}
    assert any(said in problem for problem in problems(item, "V1Deployment", "d"))


def test_nothing_is_there_twice() -> None:
    for name in BUILDS:
        names = [(item["apiVersion"], named(item), item["metadata"].get("namespace")) for item in build(name)]
        assert len(names) == len(set(names))


@pytest.mark.skipif("STOS_E2E_KUBECONFIG" not in os.environ, reason="no STOS_E2E_KUBECONFIG: by the schemas alone")
@pytest.mark.parametrize("name", ["single-node", "ha", "development"])
def test_a_real_api_server_takes_every_object(name: str) -> None:
    """A dry run: defaults and validation are the server's, nothing is kept but the namespace that the rest needs."""
    from kubernetes import config
    from kubernetes.dynamic import DynamicClient

    api = DynamicClient(config.new_client_from_config(os.environ["STOS_E2E_KUBECONFIG"]))
    for item in build(name):
        resource = api.resources.get(api_version=item["apiVersion"], kind=item["kind"])
        dry = [] if item["kind"] == "Namespace" else ["All"]
        resource.server_side_apply(
            body=item,
            namespace=item["metadata"].get("namespace"),
            field_manager="stos-tests",
            **({"dry_run": "All"} if dry else {}),
        )
