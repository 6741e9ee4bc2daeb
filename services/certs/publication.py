"""What a pod must know before it can enrol, in a ConfigMap: the cluster's name, and the roots to expect at certs.

A newcomer verifies certs before it shows its service-account token. Its roots come from here: whoever may write this
ConfigMap can make newcomers believe in another authority, so nobody but certs may, by its Role. Nothing in it is
secret. Pods of Kubernetes wait by themselves for a ConfigMap that is not there yet, so nothing starts before there is
an authority.

Every instance publishes what the record says and looks again every minute, so what somebody spoilt is made good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.certs import kubernetes_api
from services.certs.kubernetes_api import TIMEOUT_S
from services.certs.record import Record
from services.certs.settings import CertsSettings
from stoscore.telemetry import get_logger

CLUSTER, ROOTS = "cluster", "roots.pem"
ABSENT, CONFLICT = 404, 409

log = get_logger("certs")


class Publication:
    """One ConfigMap. `core` is the client library's CoreV1Api, asked for when it is first needed."""

    def __init__(self, core: Callable[[], Any], namespace: str, name: str):
        self._core = core
        self._namespace = namespace
        self._name = name

    def publish(self, record: Record) -> None:
        """Idempotent. Raises StosError when Kubernetes refuses or does not answer."""
        wanted = {CLUSTER: record.cluster, ROOTS: record.roots_pem}
        try:
            found = self._read()
            if found is None:
                self._core().create_namespaced_config_map(
                    self._namespace, self._body(wanted), _request_timeout=TIMEOUT_S
                )
            elif dict(found.data or {}) != wanted:
                body = self._body(wanted, found.metadata.resource_version)
                self._core().replace_namespaced_config_map(
                    self._name, self._namespace, body, _request_timeout=TIMEOUT_S
                )
            else:
                return
        except Exception as error:
            if kubernetes_api.status_of(error) == CONFLICT:
                return  # another instance was faster; the next look compares again
            raise kubernetes_api.explain(error, f"the ConfigMap {self._name}") from None
        log.info("newcomers are told of the authority", extra={"cluster": record.cluster, "number": record.number})

    def _read(self) -> Any:
        try:
            return self._core().read_namespaced_config_map(self._name, self._namespace, _request_timeout=TIMEOUT_S)
        except Exception as error:
            if kubernetes_api.status_of(error) == ABSENT:
                return None
            raise

    def _body(self, data: dict[str, str], revision: str = "") -> dict[str, Any]:
        labels = {"app.kubernetes.io/managed-by": "stos-certs"}
        metadata = {"name": self._name, "namespace": self._namespace, "labels": labels}
        if revision:
            metadata["resourceVersion"] = revision
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def publication(settings: CertsSettings) -> Publication | None:
    """By the settings; None when nothing is to be published."""
    if not settings.kubernetes_configmap:
        return None

    def core() -> Any:
        return kubernetes_api.connect(settings).core

    return Publication(core, kubernetes_api.namespace(settings), settings.kubernetes_configmap)
