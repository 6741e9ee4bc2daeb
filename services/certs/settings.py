"""Settings of the certs service (STOS_CERTS_*)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from stoscore.settings import ServiceSettings, Words, split_words

DAY_S = 86_400
UNIX_PATH_BYTES_MAX = 107
"""What the kernel's sockaddr_un holds, without its terminating zero."""


class CertsSettings(ServiceSettings):
    data_dir: Path = Field(
        default=Path("/var/lib/stos/certs"),
        description="CA keys, NATS keys, open join tokens and, below nats/, the NATS server's configuration",
    )
    cluster: str = Field(
        default="stos",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$",
        description="name of a new cluster; random letters are added, so that no two clusters are called alike",
    )
    host: str = Field(default="127.0.0.1", description="address that the enrolment service listens on")
    port: int = Field(default=7443, ge=1, le=65535, description="port of the enrolment service (gRPC over TLS)")
    advertise: str = Field(
        default="", description="host:port that join tokens name; by default the address listened on"
    )
    admin_socket: Path | None = Field(
        default=None, description="Unix socket of the administration (0600); by default data_dir/admin.sock"
    )
    certificate_life_s: int = Field(
        default=4 * DAY_S,
        ge=4,
        le=30 * DAY_S,
        description="life of a certificate and NATS credential; renewed after a quarter of it, so that this "
        "service may be away for the other three",
    )
    nats_host: str = Field(default="127.0.0.1", description="address that the NATS server listens on")
    nats_port: int = Field(default=4222, ge=1, le=65535, description="port of the NATS server")
    nats_names: Words = Field(
        default=[], max_length=16, description="more host names for the NATS server's certificate"
    )
    nats_server_name: str = Field(
        default="stos-nats", pattern=r"^[-A-Za-z0-9_.]{1,64}$", description="server_name of the NATS server"
    )
    nats_store_dir: Path | None = Field(
        default=None, description="directory below which JetStream keeps its files; by default data_dir/nats/store"
    )
    nats_store_bytes: int = Field(
        default=1 << 30, ge=16 << 20, description="bytes that JetStream may use (catalogue and events)"
    )
    events_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="bytes of events that are kept, oldest dropped first"
    )
    events_age_s: int = Field(default=7 * DAY_S, ge=60, description="how long an event is kept")

    @field_validator("nats_names", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return split_words(value)

    @model_validator(mode="after")
    def _fits_together(self) -> CertsSettings:
        if self.events_bytes >= self.nats_store_bytes:
            raise ValueError("events_bytes must be below nats_store_bytes, or the catalogue has no room")
        if len(str(self.socket_path).encode()) > UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"the path of the Unix socket is longer than {UNIX_PATH_BYTES_MAX} bytes: {self.socket_path}"
            )
        if (self.host, self.port) == (self.nats_host, self.nats_port):
            raise ValueError("port and nats_port are the same")
        return self

    @property
    def socket_path(self) -> Path:
        return self.admin_socket or self.data_dir.absolute() / "admin.sock"

    @property
    def address(self) -> str:
        return self.advertise or f"{self.host}:{self.port}"

    @property
    def nats_directory(self) -> Path:
        return self.data_dir.absolute() / "nats"

    @property
    def store_directory(self) -> Path:
        return self.nats_store_dir or self.nats_directory / "store"
