"""The directory that a NATS server starts from, brought up to date from the identity.

    server.conf     complete: `nats-server -c server.conf`
    roots.pem       whom it trusts: all roots of the cluster's trust state, while they are rotated too
    accounts/       the account's statement, which the server replaces when certs tells it a newer one
    store/          JetStream's streams

Certificate and key stay where the identity has them: a private key has one place.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from services.nats.account_roles import AccountRoles
from services.nats.configuration import Files, NatsServer, Routes, server_conf
from services.nats.settings import NatsSettings
from stoscore.certs_messages import NatsServerTrust
from stoscore.errors import precondition
from stoscore.files import private_directory, write_private
from stoscore.identity import CERT, KEY, NATS_HOST_NAME, Identity
from stoscore.identity_files import NATS_SERVER

CONFIG, ROOTS, ACCOUNTS, STORE = "server.conf", "roots.pem", "accounts", "store"


class ServerFiles:
    """One server's directory."""

    def __init__(self, settings: NatsSettings, identity: Identity):
        self._settings = settings
        self._identity = identity
        self._directory = private_directory(settings.data_dir.absolute())
        self._shown = 0
        for name in (ACCOUNTS, STORE):
            private_directory(self._directory / name)

    @property
    def config(self) -> Path:
        return self._directory / CONFIG

    def account_roles(self) -> AccountRoles:
        return AccountRoles(self._directory / ACCOUNTS, self._trust().account_jwt)

    def operator(self) -> str:
        """Who signed all that this server is to believe. It changes only when the authority was lost and made anew;
        a running server can't follow that."""
        return self._trust().operator_jwt

    def forget_accounts(self) -> None:
        """The statements of an operator that is gone: the server would go on with them and believe none."""
        for path in (self._directory / ACCOUNTS).iterdir():
            path.unlink()

    def write(self) -> bool:
        """Everything in its newest form. True when a running server should read its files again. Raises StosError
        when the identity is not a NATS server's, or the disk refuses."""
        serial = self._identity.certificate.serial_number
        written = [
            self._write(ROOTS, self._identity.trust_pem),
            self._write(CONFIG, server_conf(self._server(), self._trust())),
            serial != self._shown,
        ]
        self._shown = serial
        return any(written)

    def _write(self, name: str, text: str) -> bool:
        path, content = self._directory / name, text.encode()
        if path.exists() and path.read_bytes() == content:
            return False
        write_private(path, content)
        return True

    def _trust(self) -> NatsServerTrust:
        """What certs gave this server with its certificate."""
        path = self._identity.directory / NATS_SERVER
        try:
            return NatsServerTrust.model_validate_json(path.read_bytes(), strict=True)
        except (OSError, ValidationError) as error:
            what = error.strerror if isinstance(error, OSError) else f"{error.error_count()} errors"
            raise precondition(
                f"{path} can't be used: {what}", "enrol this server again with a token of `stos certs token`"
            ) from None

    def _server(self) -> NatsServer:
        settings, identity, directory = self._settings, self._identity, self._directory
        files = Files(
            certificate=str(identity.directory.absolute() / CERT),
            key=str(identity.directory.absolute() / KEY),
            roots=str(directory / ROOTS),
            accounts=str(directory / ACCOUNTS),
            store=str(directory / STORE),
        )
        routes = Routes(
            identity.cluster, settings.cluster_host, settings.cluster_port, tuple(settings.routes), NATS_HOST_NAME
        )
        return NatsServer(identity.name, settings.host, settings.port, files, routes if settings.routes else None)
