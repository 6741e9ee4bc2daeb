"""Invitations: what a newcomer shows to get an identity, and by which it knows certs before it shows it.

A *join token* is one line of text that a new process is given once. It says where the certs services are, which
root certificates to expect there, which identity it is good for, and a secret. So the newcomer verifies certs before
it says the secret, and certs verifies the newcomer by it. The token is bound to the first key that uses it: repeated
with that key after a lost answer it works again, with any other key it is refused.

A *service account* is what Kubernetes gives to a pod: a token that it renews by itself, in a file. Where certs is and
which roots to expect there, the settings say. certs asks Kubernetes whose the token is, and answers who that is here.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from stoscore.errors import StosError, invalid, unavailable
from stoscore.spiffe import make_uri

if TYPE_CHECKING:
    from stoscore.settings import CommonSettings

TOKEN_PREFIX = "stos-join-1."  # noqa: S105  (what all tokens begin with)
TOKEN_BYTES_MAX = 32_768
MOUNTED_BYTES_MAX = 65_536


class Invitation(Protocol):
    """One way in."""

    @property
    def attestor(self) -> str:
        """The plugin of certs that judges the evidence."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """host:port of the certs services, to be tried in turn."""

    @property
    def cluster(self) -> str:
        """ "" when certs says it."""

    @property
    def uri(self) -> str:
        """The identity that it is good for; "" when certs says it."""

    @property
    def token_id(self) -> str:
        """ "" when it may be used again and again."""

    def roots(self) -> str:
        """PEM of the roots to expect there, as they are now. Raises StosError UNAVAILABLE."""

    def evidence(self) -> dict[str, str]:
        """As it is now. Raises StosError UNAVAILABLE."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What the text of a token says."""

    attestor: ClassVar[str] = "join-token"

    address: str
    """host:port of the certs services, comma-separated"""
    cluster: str
    kind: str
    name: str
    root_pem: str
    token_id: str
    secret: str

    def encode(self) -> str:
        text = json.dumps(asdict(self), separators=(",", ":"))
        return TOKEN_PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"JoinToken({self.kind}/{self.name} of {self.cluster}, id {self.token_id})"

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Raises StosError INVALID_ARGUMENT. The text is a secret and never part of the message."""
        text = text.strip()
        if not text.startswith(TOKEN_PREFIX) or len(text) > TOKEN_BYTES_MAX:
            raise invalid("this is no join token", "get one from `stos certs token`")
        body = text.removeprefix(TOKEN_PREFIX)
        try:
            fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            token = cls(**{key: str(value) for key, value in fields.items()})
            make_uri(token.cluster, token.kind, token.name)
        except (ValueError, TypeError, AttributeError, binascii.Error, StosError):
            raise invalid("the join token is damaged", "copy the whole line again") from None
        return token

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(word.strip() for word in self.address.split(",") if word.strip())

    @property
    def uri(self) -> str:
        return make_uri(self.cluster, self.kind, self.name)

    def roots(self) -> str:
        return self.root_pem

    def evidence(self) -> dict[str, str]:
        return {"token_id": self.token_id, "secret": self.secret}


def read_tokens(path: Path) -> list[JoinToken]:
    """The tokens of a file, one per line. Raises StosError INVALID_ARGUMENT."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise invalid(f"can't read the join token file {path}: {error}") from None
    return [JoinToken.decode(line) for line in lines if line.strip()]


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A pod's own token. Both files change while the pod lives, so they are read at each attempt."""

    attestor: ClassVar[str] = "kubernetes-service-account"
    uri: ClassVar[str] = ""
    token_id: ClassVar[str] = ""

    addresses: tuple[str, ...]
    cluster: str
    root_file: Path
    token_file: Path

    def roots(self) -> str:
        return _mounted(self.root_file)

    def evidence(self) -> dict[str, str]:
        return {"token": _mounted(self.token_file).strip()}


def _mounted(path: Path) -> str:
    """Kubernetes mounts a file some time after the start, or never: then waiting says why."""
    try:
        with path.open("r", encoding="ascii") as file:
            text = file.read(MOUNTED_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise unavailable(f"can't read {path}: {error}") from None
    if not text.strip() or len(text) > MOUNTED_BYTES_MAX:
        raise unavailable(f"{path} is empty, or too large to be what it should be")
    return text


def service_account(settings: CommonSettings) -> ServiceAccount | None:
    """What the settings say of it, if they do."""
    if settings.service_account_token_file is None or settings.enrol_root_file is None:
        return None
    return ServiceAccount(
        tuple(settings.enrol_addresses),
        settings.cluster,
        settings.enrol_root_file,
        settings.service_account_token_file,
    )
