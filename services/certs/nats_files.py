"""The directory that a NATS server starts from: its certificate, the trust, its configuration.

nats/cert.pem key.pem trust.pem      identity svc/nats, renewed in place
nats/server.conf                     complete: `nats-server -c nats/server.conf`
"""

from __future__ import annotations

from pathlib import Path

from services.certs import nats_jwt
from services.certs.authority import Authority
from services.certs.nats_config import NatsServer, NatsTrust, server_conf
from services.certs.roles import ROLES
from stoscore.files import private_directory, write_private
from stoscore.identity import CERT, KEY, TRUST
from stoscore.nkey import public_key

CONFIG = "server.conf"


def write_nats_files(authority: Authority) -> bool:
    """Everything in its newest form. True when something changed that a running server should read."""
    settings = authority.settings
    directory = private_directory(settings.nats_directory)
    certificate = directory / CERT
    before = certificate.read_bytes() if certificate.exists() else b""
    authority.own_identity(directory, "svc", "nats")
    private_directory(settings.store_directory)
    configuration = _configuration(authority, directory).encode()
    path = directory / CONFIG
    same = path.exists() and path.read_bytes() == configuration and certificate.read_bytes() == before
    if not same:
        write_private(path, configuration)
    return not same


def _configuration(authority: Authority, directory: Path) -> str:
    settings, keys = authority.settings, authority.nats_keys
    # One date for all credentials in the file, so that it changes only when its content does.
    made_s = int(authority.root.certificate.not_valid_before_utc.timestamp())
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
        operator_jwt=nats_jwt.operator_jwt(keys, authority.cluster, made_s),
        system_key=public_key(keys.system),
        system_jwt=nats_jwt.system_jwt(keys, made_s),
        account_key=public_key(keys.account),
        account_jwt=nats_jwt.account_jwt(keys, ROLES, settings.nats_store_bytes, made_s),
    )
    return server_conf(server, trust)
