"""The NATS server's configuration: TLS only, client certificates only, credentials only, every write synced. Pure.

One text for the embedded cluster and for Kubernetes; only paths and names differ. Some of its lines are there because
of a loss or a hole:

* `sync_interval: always`: without it acknowledged streams were gone after a power cut;
* `handshake_first`: without it the server speaks plain text before TLS begins;
* `resolver: full`: the server keeps the account's statement and takes a newer one while it runs, so that a revoked user
  is shut out within a second;
* `verify_and_map` for the routes: any certificate of the cluster would otherwise make a server of who holds it, and a
  server may say everything. Only who was issued the NATS servers' own host name is let in;
* `debug`: half of what the server refuses is told at that level only (a revoked user, plain text on its port);
* no monitoring port: it would be plain HTTP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from stoscore.certs_messages import NatsServerTrust
from stoscore.limits import MESSAGE_BYTES_MAX

CONNECTIONS_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Files:
    """Where the server finds what it reads, and keeps what it writes."""

    certificate: str
    key: str
    roots: str
    accounts: str
    store: str


@dataclass(frozen=True, slots=True)
class Routes:
    """The other servers of a cluster."""

    cluster: str
    host: str
    port: int
    addresses: tuple[str, ...]
    """host:port of all, this one included"""
    host_name: str
    """what the certificates of NATS servers name, and no others"""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """What differs from one server to the next."""

    name: str
    host: str
    port: int
    files: Files
    routes: Routes | None = None


def server_conf(server: NatsServer, trust: NatsServerTrust) -> str:
    """The whole file."""
    files = server.files
    return f"""\
# Written by `stos serve nats`; changes are lost.
server_name: {_quoted(server.name)}
listen: {_quoted(_address(server.host, server.port))}
logtime: false
debug: true
max_payload: {MESSAGE_BYTES_MAX}
max_connections: {CONNECTIONS_MAX}
ping_interval: "10s"
write_deadline: "5s"
lame_duck_duration: "30s"

tls {{
{_certificate(files)}
  verify: true
  handshake_first: true
  min_version: "1.3"
  timeout: 5
}}

jetstream {{
  store_dir: {_quoted(files.store)}
  max_file_store: {trust.store_bytes}
  max_memory_store: 0
  sync_interval: always
}}
{_routes(server) if server.routes else ""}
operator: {trust.operator_jwt}
system_account: {trust.system_key}
resolver {{
  type: full
  dir: {_quoted(files.accounts)}
  allow_delete: false
  interval: "15s"
}}
resolver_preload: {{
  {trust.system_key}: {trust.system_jwt}
  {trust.account_key}: {trust.account_jwt}
}}
"""


def _certificate(files: Files) -> str:
    return f"""\
  cert_file: {_quoted(files.certificate)}
  key_file: {_quoted(files.key)}
  ca_file: {_quoted(files.roots)}"""


def _routes(server: NatsServer) -> str:
    routes = server.routes
    assert routes is not None
    addresses = "\n".join(f"    {_quoted(f'nats-route://{address}')}" for address in routes.addresses)
    return f"""
cluster {{
  name: {_quoted(routes.cluster)}
  listen: {_quoted(_address(routes.host, routes.port))}
  no_advertise: true
  routes: [
{addresses}
  ]
  authorization {{
    user: {_quoted(routes.host_name)}
    timeout: 5
  }}
  tls {{
{_certificate(server.files)}
    verify_and_map: true
    min_version: "1.3"
    timeout: 5
  }}
}}
"""


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(text: str) -> str:
    """A string of the configuration language; its escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)
