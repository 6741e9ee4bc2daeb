"""The identities that an attacker may hold. Each is a directory as `stoscore.identity` lays it out."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path

from services.dev.cluster import Cluster
from stoscore.certs_messages import Revoked, RevokeIdentity
from stoscore.enrolment import JoinToken, admin_call, enrol, issue_token
from stoscore.files import private_directory
from tests.security.insider import Insider
from tests.support.ca import TestAuthority

ROOT_FILE = "foreign-root.pem"


class Arms:
    """Makes them; each only once."""

    def __init__(self, cluster: Cluster, directory: Path):
        self._cluster = cluster
        self.directory = private_directory(directory)
        self.foreign_authority = TestAuthority("foreign")
        (directory / ROOT_FILE).write_text(self.foreign_authority.root_pem)

    async def token(self, kind: str, name: str, role: str = "") -> JoinToken:
        """A join token, as an administrator makes it."""
        return JoinToken.decode(await issue_token(self._cluster.layout.certs_admin_socket, kind, name, role=role))

    async def enrolled(self, kind: str, name: str, role: str = "") -> Path:
        """A real identity of that kind, through the front door."""
        directory = self.directory / f"{kind}-{name}"
        if not directory.exists():
            await enrol(directory, await self.token(kind, name, role))
        return directory

    async def use(self, token: JoinToken) -> Path:
        """As the newcomer that it was made for."""
        directory = self.directory / f"used-{token.token_id}"
        await enrol(directory, token)
        return directory

    def stolen(self, member: str) -> Path:
        """A copy of what a running member of the cluster has on its disk."""
        directory = self.directory / f"stolen-{member}"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self._cluster.layout.identity(member), directory)
        return directory

    @cached_property
    def insider(self) -> Insider:
        return Insider(self._cluster.layout)

    async def foreign(self, kind: str, name: str, cluster: str, role: str = "") -> Path:
        """Of another authority that calls its cluster and the identity just like ours. Beside its certificate is a
        good NATS credential of ours, so that only the certificate speaks against it."""
        ours = await self.enrolled(kind, name, role)
        made = self.foreign_authority.issue_files(self.directory / "foreign", [f"spiffe://{cluster}/{kind}/{name}"])
        for file in ("nats.jwt", "nats.seed"):
            shutil.copy(ours / file, made / file)
        return made

    async def revoked(self, kind: str, name: str, role: str = "") -> Path:
        """Enrolled, and revoked since: when this returns, certs has said so."""
        directory = self.directory / f"{kind}-{name}"
        if not directory.exists():
            await self.enrolled(kind, name, role)
            await self.revoke(kind, name)
        return directory

    async def revoke(self, kind: str, name: str) -> None:
        await admin_call(
            self._cluster.layout.certs_admin_socket, "revoke", RevokeIdentity(kind=kind, name=name), Revoked
        )
