"""Which role a signing key stands for: as the account's statement says that the server itself has.

The log names the key that signed a user's credential, and the role is what that key stands for. The server keeps the
statement in a file and replaces it when certs tells a newer one; it is read again when a key is unknown.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


class AccountRoles:
    """Looks in the directory where the server keeps the account's statement, else in what it was started with."""

    def __init__(self, directory: Path, first: str):
        self._directory = directory
        self._roles = roles_of(first)
        self._seen = 0

    def role_of(self, key: str) -> str:
        """ "" for a key of no role."""
        if key not in self._roles and self._changed():
            for path in sorted(self._directory.glob("*.jwt")):
                self._roles |= roles_of(path.read_text("ascii", "replace"))
        return self._roles.get(key, "")

    def _changed(self) -> bool:
        """A statement was written since the last look."""
        try:
            newest = max((path.stat().st_mtime_ns for path in self._directory.glob("*.jwt")), default=0)
        except OSError:
            return False
        changed, self._seen = newest != self._seen, newest
        return changed


def roles_of(account_jwt: str) -> dict[str, str]:
    """Signing key -> role. Nothing for what is no statement about an account."""
    try:
        body = account_jwt.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        keys = claims["nats"].get("signing_keys") or []
        return {str(key["key"]): str(key["role"]) for key in keys if isinstance(key, dict)}
    except (IndexError, KeyError, ValueError, TypeError, AttributeError):
        return {}
