"""The NATS server's configuration: TLS only, client certificates only, credentials only, every write synced.

One text for the embedded cluster and for Kubernetes; only paths and names differ. Two of its lines are there
because of a loss: `sync_interval: always`, without which acknowledged streams were gone after a power cut,
and `handshake_first`, without which the server speaks plain text before TLS begins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NatsServer:
    """What differs from one NATS server to the next."""

    server_name: str
    host: str
    port: int
    store_dir: str
    store_bytes: int
    cert_file: str
    key_file: str
    trust_file: str
    pid_file: str = ""


@dataclass(frozen=True, slots=True)
class NatsTrust:
    """The credentials that the server starts with."""

    operator_jwt: str
    system_key: str
    system_jwt: str
    account_key: str
    account_jwt: str


def _quoted(text: str) -> str:
    """A string of the configuration language; its escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)


def server_conf(server: NatsServer, trust: NatsTrust) -> str:
    """The whole file. There is no monitoring port: it would be plain HTTP."""
    address = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
    pid_line = f"pid_file: {_quoted(server.pid_file)}\n" if server.pid_file else ""
    return f"""\
# Written by the certs service at every start; changes are lost.
server_name: {_quoted(server.server_name)}
listen: {_quoted(address)}
{pid_line}max_payload: 1MB
ping_interval: "10s"
write_deadline: "5s"
lame_duck_duration: "30s"

tls {{
  cert_file: {_quoted(server.cert_file)}
  key_file: {_quoted(server.key_file)}
  ca_file: {_quoted(server.trust_file)}
  verify: true
  handshake_first: true
  min_version: "1.3"
  timeout: 5
}}

jetstream {{
  store_dir: {_quoted(server.store_dir)}
  max_file_store: {server.store_bytes}
  max_memory_store: 0
  sync_interval: always
}}

operator: {trust.operator_jwt}
system_account: {trust.system_key}
resolver: MEMORY
resolver_preload: {{
  {trust.system_key}: {trust.system_jwt}
  {trust.account_key}: {trust.account_jwt}
}}
"""
