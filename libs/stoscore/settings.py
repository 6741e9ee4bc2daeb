"""Settings: one typed class per service, from one file and the environment, refused when not understood.

A setting that is misspelt and silently ignored is found out during the first outage. So every `STOS_*`
variable and every key of the file must be known, and a bad one stops the service with one line that names
it. The environment wins over the file:

    STOS_CONFIG=/etc/stos/stos.toml     a table per service: [common], [replica], [certs], …
    STOS_NATS_URLS=tls://nats:4222      a common setting
    STOS_REPLICA_PORT=7001              a setting of the replica service
"""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stoscore.errors import StosError, invalid
from stoscore.units import GIB, MIB

CONFIG_VARIABLE = "STOS_CONFIG"
COMMON = "common"
SERVICES = ("certs", "csi", "holder", "nats_server", "placement", "replica")
"""Services whose variables share the STOS_ prefix with the common settings."""
_NOT_SETTINGS = (CONFIG_VARIABLE, "STOS_DIR")
_NOT_SERVICES = ("STOS_DEMO_", "STOS_DEV_", "STOS_TEST_", "STOS_BENCH_")
"""Variables of commands and tools, which no service reads."""

Words = list[str]
"""A list that the environment writes as comma-separated words."""


class ServiceSettings(BaseModel):
    """The base of every service's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    service: ClassVar[str] = ""


class CommonSettings(ServiceSettings):
    """What every process needs: who it is, where the bus is, how it reports."""

    identity_dir: Path = Field(
        default=Path("/var/lib/stos/identity"),
        description="directory with this process's key, certificate and NATS credentials; with several "
        "services in one process each has its own directory below it",
    )
    join_token_file: Path | None = Field(
        default=None,
        description="file with one-time join tokens (one per line), used while there is no good identity: none, "
        "expired, revoked, or of an authority that was lost and made anew",
    )
    service_account_token_file: Path | None = Field(
        default=None,
        description="file with the pod's Kubernetes service-account token, instead of join tokens; needs "
        "enrol_addresses, enrol_root_file and cluster",
    )
    enrol_addresses: Words = Field(
        default=[], max_length=16, description="host:port of the certs services, with a service-account token"
    )
    enrol_root_file: Path | None = Field(
        default=None, description="PEM file with the roots to expect there, with a service-account token"
    )
    nats_urls: Words = Field(
        default=["tls://127.0.0.1:4222"],
        min_length=1,
        max_length=16,
        description="NATS servers, comma-separated; always TLS with client certificates",
    )
    cluster: str = Field(
        default="",
        max_length=63,
        description="when set, an identity of another cluster is refused; by default the identity says which",
    )
    health_dir: Path | None = Field(
        default=None,
        description="directory for the signs of life that probes look at: alive, touched every second, and ready; by "
        "default none are shown",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe level that is logged"
    )
    log_format: Literal["json", "plain"] = Field(default="json", description="json for collectors, plain for people")
    otel_exporter: Literal["none", "console", "otlp"] = Field(
        default="none", description="where spans go besides the process's own store; trace ids are made in any case"
    )
    otel_endpoint: str = Field(
        default="http://127.0.0.1:4317", description="OTLP collector (gRPC), used with otel_exporter=otlp"
    )

    trace_dir: Path | None = Field(
        default=None, description="directory of this process's recent spans; default: traces in identity_dir"
    )
    trace_bytes: int = Field(
        default=16 * MIB, ge=0, le=GIB, description="bytes of recent spans kept there for `stos trace`; 0: none"
    )

    metrics_listen: str = Field(
        default="",
        pattern=r"^(.+:[0-9]{1,5})?$",
        description="host:port where Prometheus reads metrics, over TLS with a client certificate of a user; "
        "default: nowhere",
    )

    @field_validator("nats_urls", "enrol_addresses", mode="before")
    @classmethod
    def _split_urls(cls, value: object) -> object:
        return split_words(value)

    @field_validator("nats_urls")
    @classmethod
    def _only_tls(cls, urls: list[str]) -> list[str]:
        for url in urls:
            scheme, separator, rest = url.partition("://")
            if separator and (scheme not in ("tls", "nats") or not rest):
                raise ValueError(f"{url!r} is no NATS address: write tls://host:port")
        return urls

    @model_validator(mode="after")
    def _service_account_is_whole(self) -> CommonSettings:
        if self.service_account_token_file is not None:
            for field in ("enrol_addresses", "enrol_root_file", "cluster"):
                if not getattr(self, field):
                    raise ValueError(f"service_account_token_file needs {field} as well")
        return self


def split_words(value: object) -> object:
    """ "a, b" -> ["a", "b"]; anything else unchanged, for validators of `Words` fields."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


S = TypeVar("S", bound=ServiceSettings)
_loaded: dict[str, ServiceSettings] = {}


def load(cls: type[S], service: str) -> S:
    """The settings of one service ("common" for the shared ones). Raises StosError INVALID_ARGUMENT
    with one line that names the variable or key and what it should be."""
    prefix = _prefix(service)
    variables = _variables(cls, service, prefix)
    values = _from_file(cls, service)
    try:
        settings = cls(**values | {field: os.environ[variable] for field, variable in variables.items()})
    except ValidationError as error:
        raise _explain(error, prefix, variables, values) from None
    _loaded[service] = settings
    return settings


def in_use() -> dict[str, str]:
    """What this process runs with, defaults included: "replica.port" -> "7001". No setting is a secret: those are in
    files, and the settings say where."""
    return {
        f"{service}.{name}": _shown(getattr(settings, name))
        for service, settings in sorted(_loaded.items())
        for name in sorted(type(settings).model_fields)
    }


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)


def _prefix(service: str) -> str:
    return "STOS_" if service == COMMON else f"STOS_{service.upper()}_"


def _variables(cls: type[ServiceSettings], service: str, prefix: str) -> dict[str, str]:
    """Field -> variable for all that are set and belong to this class; an unknown one is an error."""
    foreign = _NOT_SERVICES + tuple(_prefix(name) for name in SERVICES if name != service)
    found: dict[str, str] = {}
    for variable, value in sorted(os.environ.items()):
        upper = variable.upper()
        if not upper.startswith(prefix) or upper in _NOT_SETTINGS:
            continue
        if service == COMMON and upper.startswith(foreign):
            continue
        field = upper.removeprefix(prefix).lower()
        if field not in cls.model_fields:
            raise invalid(f"unknown setting {variable}", _known(cls, prefix, variable))
        if value:
            found[field] = variable
    return found


def _from_file(cls: type[ServiceSettings], service: str) -> dict[str, Any]:
    """The service's table of the file named by STOS_CONFIG."""
    name = os.environ.get(CONFIG_VARIABLE)
    if not name:
        return {}
    try:
        tables = tomllib.loads(Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise invalid(f"can't read the settings file {name}: {error}") from None
    for table in tables:
        if table not in (COMMON, *SERVICES, service):
            raise invalid(f"unknown table [{table}] in {name}", f"known: {', '.join((COMMON, *SERVICES))}")
    values = tables.get(service, {})
    if not isinstance(values, dict):
        raise invalid(f"{service} in {name} must be a table: [{service}]")
    for key in values:
        if key not in cls.model_fields:
            raise invalid(f"unknown setting {key} in [{service}] of {name}", _known(cls, "", key))
    return dict(values)


def _known(cls: type[ServiceSettings], prefix: str, given: str) -> str:
    """What was probably meant, else all there is."""
    fields = sorted(cls.model_fields)
    names = [f"{prefix}{field.upper()}" for field in fields] if prefix else fields
    close = get_close_matches(given.upper().removeprefix(prefix).lower(), fields, n=1)
    if close:
        return f"did you mean {names[fields.index(close[0])]}?"
    return f"known: {', '.join(names)}"


def _explain(error: ValidationError, prefix: str, variables: dict[str, str], values: dict[str, Any]) -> StosError:
    """All that is wrong on one line, each with the place where it was set."""
    parts = []
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0]) if problem["loc"] else ""
        source = variables.get(field) or (f"{field} in the settings file" if field in values else "")
        shown = source or f"{prefix}{field.upper()}"
        given = f"={problem['input']!r}" if source else ""
        parts.append(f"{shown}{given}: {problem['msg'].removeprefix('Value error, ')}")
    return invalid("; ".join(parts).replace("\n", " "))
