"""The directory that a NATS server starts from: its certificate, the trust, its configuration.

nats/cert.pem key.pem trust.pem      identity svc/nats, renewed in place
nats/server.conf                     complete: `nats-server -c nats/server.conf`
"""

from __future__ import annotations

from pathlib import Path

from stoscore.files import private_directory, write_private
from stoscore.identity import CERT, KEY, TRUST
from stoscore.nkey import public_key

from services.certs import nats_jwt
from services.certs.authority import Authority
from services.certs.nats_config import NatsServer, NatsTrust, server_conf
from services.certs.roles import ROLES

CONFIG = "server.conf"


def write_nats_files(authority: Authority) -> Path:
    """Everything in its newest form; returns the configuration's path."""
    settings = authority.settings
    directory = private_directory(settings.nats_directory)
    authority.own_identity(directory, "svc", "nats")
    private_directory(settings.store_directory)
    keys, now_s = authority.nats_keys, int(authority.now().timestamp())
    server = NatsServer(
        server_name=settings.nats_server_name,
        host=settings.nats_host,
        port=settings.nats_port,
        store_dir=str(settings.store_directory),
        store_bytes=settings.nats_store_bytes,
        cert_file=str(directory / CERT),
        key_file=str(directory / KEY),
        trust_file=str(directory / TRUST),
    )
    trust = NatsTrust(
        operator_jwt=nats_jwt.operator_jwt(keys, authority.cluster, now_s),
        system_key=public_key(keys.system),
        system_jwt=nats_jwt.system_jwt(keys, now_s),
        account_key=public_key(keys.account),
        account_jwt=nats_jwt.account_jwt(keys, ROLES, settings.nats_store_bytes, now_s),
    )
    path = directory / CONFIG
    write_private(path, server_conf(server, trust).encode())
    return path
