"""The API server of Kubernetes: how certs reaches it, and what its refusals mean.

The client library costs half a second to import, so only who runs in Kubernetes pays. Its calls block; they are
made in threads.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoscore.errors import Code, StosError, precondition, unavailable

if TYPE_CHECKING:
    from services.certs.settings import CertsSettings

TIMEOUT_S = (3.0, 10.0)
"""To connect, and to wait for an answer."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_lock = threading.Lock()
_connections: dict[str, Connection] = {}


@dataclass(frozen=True, slots=True)
class Connection:
    """The two APIs that certs uses: CoreV1Api, AuthenticationV1Api."""

    core: Any
    authentication: Any


def connect(settings: CertsSettings) -> Connection:
    """By the kubeconfig file of the settings, else as a pod of the cluster. Raises StosError
    FAILED_PRECONDITION when neither is there."""
    key = str(settings.kubeconfig or "")
    with _lock:
        if key not in _connections:
            _connections[key] = _connect(settings.kubeconfig)
        return _connections[key]


def _connect(kubeconfig: Path | None) -> Connection:
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException
    from urllib3.util.retry import Retry

    configuration = client.Configuration()
    try:
        if kubeconfig is not None:
            config.load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError, ValueError) as error:
        raise precondition(
            f"can't reach the Kubernetes API: {error}",
            "run certs as a pod with a service account, or set STOS_CERTS_KUBECONFIG",
        ) from None
    # What was sent is repeated only when it changes nothing: a change would be refused as one that came second.
    configuration.retries = Retry(2, allowed_methods=frozenset({"GET"}), backoff_factor=0.1)
    api = client.ApiClient(configuration)
    return Connection(client.CoreV1Api(api), client.AuthenticationV1Api(api))


def namespace(settings: CertsSettings) -> str:
    """The settings', else the pod's own."""
    if settings.kubernetes_namespace:
        return settings.kubernetes_namespace
    try:
        return NAMESPACE_FILE.read_text("ascii").strip()
    except (OSError, ValueError):
        raise precondition("no namespace is known for the vault", "set STOS_CERTS_KUBERNETES_NAMESPACE") from None


def status_of(error: Exception) -> int:
    """The HTTP status of a refusal by the API server, 0 for any other failure."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def explain(error: Exception, what: str) -> StosError:
    """What a failed call means for the caller. What is no failure of the call is raised as it is."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    if isinstance(error, StosError):
        return error
    if isinstance(error, ApiException):
        said = f"{error.status} {error.reason}"
        if error.status in (401, 403):
            return StosError(
                Code.PERMISSION_DENIED,
                f"Kubernetes refuses {what}: {said}",
                next_step="has the service account of certs its Role? see deploy/kustomize",
            )
        if error.status in (400, 413, 422):
            return precondition(f"Kubernetes refuses {what}: {said}")
        return unavailable(f"Kubernetes fails at {what}: {said}")
    if isinstance(error, (HTTPError, OSError)):
        return unavailable(f"the Kubernetes API does not answer ({type(error).__name__}) for {what}")
    raise error
