"""Settings of the certs service (STOS_CERTS_*)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from stoscore.settings import ServiceSettings, Words, split_words

DAY_S = 86_400
UNIX_PATH_BYTES_MAX = 107
"""What the kernel's sockaddr_un holds, without its terminating zero."""
_ACCOUNT = re.compile(
    r"(?P<namespace>[a-z0-9][-a-z0-9]{0,62})/(?P<account>[a-z0-9][-.a-z0-9]{0,252})="
    r"(?P<kind>node|svc)/(?P<name>(?:[-a-z0-9]|\{node\}|\{pod\}){1,63})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class AccountRule:
    """Pods of a service account of Kubernetes become this identity."""

    namespace: str
    account: str
    kind: str
    name: str
    """with {node} and {pod} for what the token is bound to"""


def parse_accounts(rules: list[str]) -> list[AccountRule]:
    """Raises ValueError for one that is not NAMESPACE/ACCOUNT=KIND/NAME."""
    found = []
    for text in rules:
        match = _ACCOUNT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not NAMESPACE/ACCOUNT=KIND/NAME with kind node or svc")
        rule = AccountRule(**match.groupdict())
        if rule.kind == "node" and "{node}" not in rule.name:
            raise ValueError(f"{text!r}: all nodes would be one; write {{node}} in the name")
        if rule.kind == "svc" and rule.name.partition("-")[0] == "certs":
            raise ValueError(f"{text!r}: certs issues its own identities, to itself only")
        found.append(rule)
    if len({(rule.namespace, rule.account) for rule in found}) < len(found):
        raise ValueError("a service account is named twice")
    return found


class CertsSettings(ServiceSettings):
    data_dir: Path = Field(
        default=Path("/var/lib/stos/certs"),
        description="directory of this service; several instances on one machine share it",
    )
    name: str = Field(
        default="certs",
        pattern=r"^certs(-[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?)?$",
        description="name of this instance, as in its identity svc/<name>: certs, or certs-<something>",
    )
    vault: str = Field(
        default="directory",
        description="where keys and ledger are kept: directory (data_dir/vault) or kubernetes (Secrets), or a plugin",
    )
    kek_file: Path | None = Field(
        default=None,
        description="file with the key-encryption key that all private keys are sealed with; by default data_dir/kek, "
        "made at the first start (vault=kubernetes: a Secret of its own)",
    )
    kubernetes_namespace: str = Field(
        default="", max_length=63, description="namespace of the Secrets; by default the pod's own"
    )
    kubernetes_prefix: str = Field(
        default="stos-certs",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$",
        description="what the Secrets' names begin with",
    )
    kubeconfig: Path | None = Field(
        default=None, description="file that says how to reach the Kubernetes API; by default as a pod does"
    )
    kubernetes_audience: str = Field(
        default="stos-certs",
        min_length=1,
        max_length=256,
        description="audience that service-account tokens must be made for",
    )
    kubernetes_accounts: Words = Field(
        default=[],
        max_length=64,
        description="who may enrol with a service-account token, comma-separated NAMESPACE/ACCOUNT=KIND/NAME; "
        "{node} in NAME is the pod's node, {pod} the pod",
    )
    kubernetes_configmap: str = Field(
        default="",
        pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$",
        description="ConfigMap where pods that enrol find the cluster's name and roots; by default none is written",
    )
    cluster: str = Field(
        default="stos",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$",
        description="name of a new cluster; random letters are added, so that no two clusters are called alike",
    )
    host: str = Field(default="127.0.0.1", description="address that the enrolment service listens on")
    port: int = Field(default=7443, ge=1, le=65535, description="port of the enrolment service (gRPC over TLS)")
    advertise: Words = Field(
        default=[],
        max_length=8,
        description="host:port of every instance, comma-separated, as join tokens name them; by default the address "
        "listened on",
    )
    admin_socket: Path | None = Field(
        default=None, description="Unix socket of the administration (0600); by default data_dir/<name>/admin.sock"
    )
    certificate_life_s: int = Field(
        default=4 * DAY_S,
        ge=4,
        le=30 * DAY_S,
        description="life of a certificate and NATS credential; renewed after a quarter of it, so that this "
        "service may be away for the other three",
    )
    nats_names: Words = Field(
        default=[],
        max_length=16,
        description="more host names or addresses for the NATS servers' certificates: those of their routes",
    )
    nats_store_bytes: int = Field(
        default=1 << 30, ge=16 << 20, description="bytes that JetStream may use on each server (catalogue and events)"
    )
    events_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="bytes of events that are kept, oldest dropped first"
    )
    events_age_s: int = Field(default=7 * DAY_S, ge=60, description="how long an event is kept")

    stream_replicas: int = Field(
        default=1, ge=1, le=5, description="NATS servers that keep each stream; at most as many as there are"
    )

    @field_validator("nats_names", "advertise", "kubernetes_accounts", mode="before")
    @classmethod
    def _split_words(cls, value: object) -> object:
        return split_words(value)

    @field_validator("advertise")
    @classmethod
    def _addresses(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address!r} is no host:port")
        return addresses

    @field_validator("kubernetes_accounts")
    @classmethod
    def _accounts(cls, rules: list[str]) -> list[str]:
        parse_accounts(rules)
        return rules

    @model_validator(mode="after")
    def _fits_together(self) -> CertsSettings:
        if self.events_bytes >= self.nats_store_bytes:
            raise ValueError("events_bytes must be below nats_store_bytes, or the catalogue has no room")
        if len(str(self.socket_path).encode()) > UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"the path of the Unix socket is longer than {UNIX_PATH_BYTES_MAX} bytes: {self.socket_path}"
            )
        return self

    @property
    def socket_path(self) -> Path:
        return self.admin_socket or self.instance_dir / "admin.sock"

    @property
    def addresses(self) -> list[str]:
        """Of all instances."""
        return self.advertise or [f"{self.host}:{self.port}"]

    @property
    def instance_dir(self) -> Path:
        """What belongs to this instance alone: its own identity, its lock."""
        return self.data_dir.absolute() / self.name

    @property
    def vault_dir(self) -> Path:
        return self.data_dir.absolute() / "vault"

    @property
    def kek_path(self) -> Path | None:
        """None: it is kept in a Secret."""
        if self.kek_file is None and self.vault == "kubernetes":
            return None
        return self.kek_file or self.data_dir.absolute() / "kek"
