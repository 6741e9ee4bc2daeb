"""The real certificate authority, in this process and without a bus."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.vault import open_vault
from stoscore.certs_messages import Denied, SignedTrust, TrustState
from stoscore.identity import Identity
from stoscore.trust import sign_trust


class LocalAuthority:
    """Certificates exactly as certs issues them."""

    def __init__(self, directory: Path):
        self.directory = directory
        settings = CertsSettings(data_dir=directory / "certs", admin_socket=directory / "admin.sock", port=1)
        self._vault = open_vault(settings)
        self._authority = Authority(settings, self._vault, lambda: datetime.now(UTC))
        self._authority.own = self.identity("svc", "certs")

    def identity(self, kind: str, name: str) -> Identity:
        directory = self.directory / f"{kind}-{name}"
        return self._authority.own_identity(directory, kind, name, "viewer" if kind == "user" else "")

    def revoked(self, kind: str, name: str, *, like: Identity) -> SignedTrust:
        """certs' word that the identity's certificates, as they are now, are good no more."""
        denied = Denied(kind=kind, name=name, issued_before_s=1 << 40, expires_s=1 << 40, reason="stolen")
        state = TrustState(cluster=like.cluster, number=1 << 40, roots_pem=like.trust_pem, denied=[denied])
        return sign_trust(self.identity("svc", "certs"), state)

    def close(self) -> None:
        self._vault.close()
