"""Settings of the NATS service (STOS_NATS_SERVER_*; STOS_NATS_URLS is where everybody finds the servers)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from stoscore.settings import ServiceSettings, Words, split_words

SETTINGS = "nats_server"


class NatsSettings(ServiceSettings):
    data_dir: Path = Field(
        default=Path("/var/lib/stos/nats"),
        description="the server's configuration, the account's statement and, below store/, JetStream's streams",
    )
    host: str = Field(default="127.0.0.1", description="address that the server listens on")
    port: int = Field(default=4222, ge=1, le=65535, description="port for clients (TLS with client certificates)")
    cluster_host: str = Field(default="127.0.0.1", description="address that it listens on for the other servers")
    cluster_port: int = Field(default=6222, ge=1, le=65535, description="port for the other servers; used with routes")
    routes: Words = Field(
        default=[],
        max_length=16,
        description="host:port of all servers of the cluster, this one included; by default it is alone. The hosts "
        "must be among STOS_CERTS_NATS_NAMES: the certificates name them",
    )

    @field_validator("routes", mode="before")
    @classmethod
    def _split_routes(cls, value: object) -> object:
        return split_words(value)

    @field_validator("routes")
    @classmethod
    def _only_addresses(cls, routes: list[str]) -> list[str]:
        for route in routes:
            host, separator, port = route.rpartition(":")
            if not separator or not host or not port.isdecimal():
                raise ValueError(f"{route!r} is no address: write host:port")
        return routes

    @model_validator(mode="after")
    def _fits_together(self) -> NatsSettings:
        if self.routes and (self.host, self.port) == (self.cluster_host, self.cluster_port):
            raise ValueError("port and cluster_port are the same")
        return self
