"""A stand-in for the API server of Kubernetes, over real HTTP: Secrets, ConfigMaps and TokenReview, with the rules that
matter.

What it does as the real one does (API conventions, "Concurrency Control and Consistency", and the behaviour of the
registry store): one counter numbers all changes and is each object's resourceVersion; a create with a
resourceVersion is refused, an existing name is 409; a replace that names another resourceVersion than the current one
is 409, of a missing object 404, one that changes nothing keeps the resourceVersion; a delete obeys its preconditions;
lists are filtered by labels and cut into pages; names, sizes and base64 are checked; every answer that is no object
is a Status.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
SECRET_BYTES_MAX = 1 << 20
BEARER = "test-token"
Object = dict[str, Any]


@dataclass
class Account:
    """A token that TokenReview knows."""

    username: str
    audiences: list[str]
    extra: dict[str, list[str]] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class KubernetesApi:
    """The server, in a thread of this process; `kubeconfig` says how to reach it."""

    def __init__(self, directory: Path, namespace: str = "stos"):
        self.namespace = namespace
        self.accounts: dict[str, Account] = {}
        self.secrets: dict[str, Object] = {}
        self.config_maps: dict[str, Object] = {}
        self.knows_audiences = True
        self.broken = False
        """Every request is answered with 503."""
        self.requests: list[str] = []
        self.stopped = False
        self._version = 1000
        self._lock = threading.Lock()
        api = self

        class Handler(_Handler):
            server_api = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._config()))

    def stop(self) -> None:
        self.stopped = True
        self._server.shutdown()
        self._server.server_close()

    def _config(self) -> Object:
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "certs"}}],
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "certs", "user": {"token": BEARER}}],
        }

    def handle(self, method: str, path: str, query: dict[str, list[str]], body: Object) -> tuple[int, Object]:
        words = path.strip("/").split("/")
        with self._lock:
            match words:
                case ["apis", "authentication.k8s.io", "v1", "tokenreviews"] if method == "POST":
                    return 201, self._review(body)
                case ["api", "v1", "namespaces", self.namespace, "secrets"] if method == "GET":
                    return 200, self._list(query)
                case ["api", "v1", "namespaces", self.namespace, "secrets"] if method == "POST":
                    return 201, self._create(body)
                case ["api", "v1", "namespaces", self.namespace, "secrets", name]:
                    verbs = {"GET": self._get, "PUT": self._replace, "DELETE": self._delete}
                    return 200, verbs[method](name, body)
                case ["api", "v1", "namespaces", self.namespace, "configmaps"] if method == "POST":
                    return 201, self._create_config_map(body)
                case ["api", "v1", "namespaces", self.namespace, "configmaps", name] if method in ("GET", "PUT"):
                    return 200, self._config_map(name) if method == "GET" else self._replace_config_map(name, body)
                case ["api", "v1", "namespaces", other, *_]:
                    raise Refusal(403, "Forbidden", f"certs can't use secrets in the namespace {other!r}")
        raise Refusal(404, "NotFound", "the server could not find the requested resource")

    # --- ConfigMaps ---

    def _config_map(self, name: str) -> Object:
        if name not in self.config_maps:
            raise Refusal(404, "NotFound", f'configmaps "{name}" not found')
        return self.config_maps[name]

    def _create_config_map(self, body: Object) -> Object:
        name = body["metadata"]["name"]
        if name in self.config_maps:
            raise Refusal(409, "AlreadyExists", f'configmaps "{name}" already exists')
        return self._store_config_map(name, body)

    def _replace_config_map(self, name: str, body: Object) -> Object:
        wanted = body["metadata"].get("resourceVersion")
        if wanted and wanted != self._config_map(name)["metadata"]["resourceVersion"]:
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on configmaps "{name}"')
        self._config_map(name)
        return self._store_config_map(name, body)

    def _store_config_map(self, name: str, body: Object) -> Object:
        if any(not isinstance(value, str) for value in body.get("data", {}).values()):
            raise Refusal(400, "BadRequest", "ConfigMap in version v1 cannot be handled: data is no string")
        self._version += 1
        metadata = body["metadata"] | {"namespace": self.namespace, "resourceVersion": str(self._version)}
        self.config_maps[name] = {"kind": "ConfigMap", "apiVersion": "v1", "data": body["data"], "metadata": metadata}
        return self.config_maps[name]

    # --- Secrets ---

    def _get(self, name: str, _: Object) -> Object:
        if name not in self.secrets:
            raise Refusal(404, "NotFound", f'secrets "{name}" not found')
        return self.secrets[name]

    def _create(self, body: Object) -> Object:
        name = body["metadata"]["name"]
        if body["metadata"].get("resourceVersion"):
            raise Refusal(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        _validate(body)
        if name in self.secrets:
            raise Refusal(409, "AlreadyExists", f'secrets "{name}" already exists')
        return self._store(name, body, str(uuid.uuid4()))

    def _replace(self, name: str, body: Object) -> Object:
        if body["metadata"]["name"] != name:
            raise Refusal(400, "BadRequest", "the name of the object does not match the name on the URL")
        _validate(body)
        current = self._get(name, body)
        wanted = body["metadata"].get("resourceVersion")
        if wanted and wanted != current["metadata"]["resourceVersion"]:
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on secrets "{name}"')
        same = all(body.get(key) == current.get(key) for key in ("data", "type"))
        if same and body["metadata"].get("labels") == current["metadata"].get("labels"):
            return current
        return self._store(name, body, current["metadata"]["uid"])

    def _delete(self, name: str, options: Object) -> Object:
        current = self._get(name, options)
        for key, wanted in (options.get("preconditions") or {}).items():
            if wanted != current["metadata"][key]:
                raise Refusal(409, "Conflict", f"Precondition failed: {key}")
        del self.secrets[name]
        self._version += 1
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"name": name, "kind": "secrets"}}

    def _store(self, name: str, body: Object, uid: str) -> Object:
        self._version += 1
        metadata = {key: body["metadata"][key] for key in ("name", "labels") if key in body["metadata"]}
        metadata |= {"namespace": self.namespace, "uid": uid, "resourceVersion": str(self._version)}
        stored = {
            "kind": "Secret",
            "apiVersion": "v1",
            "type": body.get("type", "Opaque"),
            "data": body.get("data", {}),
        }
        self.secrets[name] = stored | {"metadata": metadata}
        return self.secrets[name]

    def _list(self, query: dict[str, list[str]]) -> Object:
        wanted = dict(item.split("=", 1) for item in query.get("labelSelector", [""])[0].split(",") if item)
        after = query.get("continue", [""])[0]
        limit = int(query.get("limit", ["0"])[0]) or len(self.secrets) + 1
        names = [
            name
            for name, secret in sorted(self.secrets.items())
            if name > after and wanted.items() <= secret["metadata"].get("labels", {}).items()
        ]
        metadata = {"resourceVersion": str(self._version)}
        if len(names) > limit:
            metadata["continue"] = names[limit - 1]
        items = [self.secrets[name] for name in names[:limit]]
        return {"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items}

    # --- TokenReview ---

    def _review(self, body: Object) -> Object:
        spec = body["spec"]
        account = self.accounts.get(spec["token"])
        audiences = spec.get("audiences") or ["https://kubernetes.default.svc"]
        shared = [audience for audience in audiences if account and audience in account.audiences]
        if account is None or not (shared or not self.knows_audiences):
            status: Object = {"user": {}, "error": "[invalid bearer token, token audiences are invalid]"}
        else:
            user = {"username": account.username, "uid": "1", "groups": ["system:serviceaccounts"]}
            status = {"authenticated": True, "user": user | {"extra": account.extra}}
            if self.knows_audiences:
                status["audiences"] = shared
        return {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": spec, "status": status}


def _validate(body: Object) -> None:
    name, labels = body["metadata"]["name"], body["metadata"].get("labels", {})
    if len(name) > 253 or not SUBDOMAIN.fullmatch(name):
        raise Refusal(422, "Invalid", f'Secret "{name}" is invalid: metadata.name')
    if any(len(value) > 63 or not LABEL_VALUE.fullmatch(value) for value in labels.values()):
        raise Refusal(422, "Invalid", "metadata.labels: Invalid value")
    try:
        size = sum(len(base64.b64decode(value, validate=True)) for value in body.get("data", {}).values())
    except binascii.Error:
        raise Refusal(400, "BadRequest", "illegal base64 data") from None
    if size > SECRET_BYTES_MAX:
        raise Refusal(422, "Invalid", "data: Too long: must have at most 1048576 bytes")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet, or each answer waits 40 ms for a delayed acknowledgement
    server_api: KubernetesApi

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if self.server_api.stopped:
            self.close_connection = True
            return
        url = urlsplit(self.path)
        self.server_api.requests.append(f"{self.command} {url.path}")
        try:
            if self.server_api.broken:
                raise Refusal(503, "ServiceUnavailable", "apiserver is shutting down")
            if self.headers.get("Authorization") != f"Bearer {BEARER}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            body = json.loads(raw) if raw else {}
            code, answer = self.server_api.handle(self.command, url.path, parse_qs(url.query), body)
        except Refusal as refusal:
            code = refusal.code
            answer = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": refusal.message,
                "reason": refusal.reason,
                "code": code,
            }
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""
