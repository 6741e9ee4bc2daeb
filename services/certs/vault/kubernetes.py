"""A vault in the Secrets of a Kubernetes namespace; the API server's resourceVersion is the compare-and-set.

Entry `identities/node/n1` is the Secret `<prefix>.identities.node.n1`, which holds the content under the key
`entry`. (Slashes become dots, which no entry's name has, so that two entries never meet in one Secret.) A Secret is
created with POST, which fails when it exists, replaced with PUT and the resourceVersion that was read, which fails
when another one was stored meanwhile, and removed with the same version as its precondition.

certs needs the verbs get, list, create, update and delete on secrets of that namespace, and nothing else of it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from services.certs import kubernetes_api
from services.certs.kubernetes_api import TIMEOUT_S
from services.certs.vault import NEW, Conflict, Entry, check_name, check_size
from stoscore.errors import precondition

if TYPE_CHECKING:
    from services.certs.settings import CertsSettings

KEY = "entry"
PREFIX_LABEL, SECTION_LABEL = "stos.io/vault", "stos.io/section"
PAGE = 200
ABSENT, CONFLICT = 404, 409


class KubernetesVault:
    """Implements `Vault`. `core` is the client library's CoreV1Api, asked for when it is first needed."""

    poll_s = 2.0

    def __init__(self, core: Callable[[], Any], namespace: str, prefix: str):
        self._core = core
        self._namespace = namespace
        self._prefix = prefix

    def get(self, name: str) -> Entry | None:
        secret = self._name(name)
        with self._refused(name, absent=True) as refused:
            found = self._core().read_namespaced_secret(secret, self._namespace, _request_timeout=TIMEOUT_S)
        return None if refused else self._entry(found)

    def put(self, name: str, data: bytes, revision: str) -> Entry:
        body = self._body(name, check_size(name, data), revision)
        with self._refused(name, conflict=True) as refused:
            if revision == NEW:
                stored = self._core().create_namespaced_secret(self._namespace, body, _request_timeout=TIMEOUT_S)
            else:
                stored = self._core().replace_namespaced_secret(
                    self._name(name), self._namespace, body, _request_timeout=TIMEOUT_S
                )
        if refused:
            raise Conflict(name)
        return self._entry(stored)

    def delete(self, name: str, revision: str) -> None:
        if revision == NEW:
            raise Conflict(name)
        options = {"preconditions": {"resourceVersion": revision}}
        with self._refused(name, conflict=True) as refused:
            self._core().delete_namespaced_secret(
                self._name(name), self._namespace, body=options, _request_timeout=TIMEOUT_S
            )
        if refused:
            raise Conflict(name)

    def below(self, prefix: str) -> list[Entry]:
        section = check_name(prefix).partition("/")[0]
        selector = f"{PREFIX_LABEL}={self._prefix},{SECTION_LABEL}={section}"
        found = [self._entry(secret) for secret in self._pages(selector)]
        return sorted((entry for entry in found if entry.name.startswith(f"{prefix}/")), key=lambda entry: entry.name)

    def _pages(self, selector: str) -> Iterator[Any]:
        after = None
        while True:
            with self._refused(selector):
                page = self._core().list_namespaced_secret(
                    self._namespace, label_selector=selector, limit=PAGE, _continue=after, _request_timeout=TIMEOUT_S
                )
            yield from page.items
            after = page.metadata._continue
            if not after:
                return

    def close(self) -> None:
        """Connections end with the process."""

    # --- names and forms ---

    def _name(self, name: str) -> str:
        return f"{self._prefix}.{check_name(name).replace('/', '.')}"

    def _body(self, name: str, data: bytes, revision: str) -> dict[str, Any]:
        labels = {
            "app.kubernetes.io/managed-by": "stos-certs",
            PREFIX_LABEL: self._prefix,
            SECTION_LABEL: name.partition("/")[0],
        }
        metadata: dict[str, Any] = {"name": self._name(name), "namespace": self._namespace, "labels": labels}
        if revision != NEW:
            metadata["resourceVersion"] = revision
        content = base64.b64encode(data).decode("ascii")
        return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": {KEY: content}}

    def _entry(self, secret: Any) -> Entry:
        name = secret.metadata.name.removeprefix(f"{self._prefix}.").replace(".", "/")
        try:
            data = base64.b64decode((secret.data or {})[KEY], validate=True)
        except (KeyError, binascii.Error):
            raise precondition(
                f"the Secret {secret.metadata.name} is damaged: it has no readable key {KEY!r}",
                "restore it from a backup: see docs/runbooks/ca-lost.md",
            ) from None
        return Entry(name, data, secret.metadata.resource_version)

    @contextmanager
    def _refused(self, what: str, *, absent: bool = False, conflict: bool = False) -> Iterator[list[int]]:
        """Collects the one refusal that means something to the caller; every other failure becomes a StosError."""
        seen: list[int] = []
        try:
            yield seen
        except Exception as error:
            status = kubernetes_api.status_of(error)
            # A Secret that is gone is as much another state as one that changed.
            if (absent and status == ABSENT) or (conflict and status in (ABSENT, CONFLICT)):
                seen.append(status)
                return
            raise kubernetes_api.explain(error, f"the Secret of {what}") from None


def vault(settings: CertsSettings) -> KubernetesVault:
    """The entry point `kubernetes`."""

    def core() -> Any:
        return kubernetes_api.connect(settings).core

    return KubernetesVault(core, kubernetes_api.namespace(settings), settings.kubernetes_prefix)
