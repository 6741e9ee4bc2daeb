"""The settings of the csi service (environment STOS_CSI_*, or the table [csi] of the settings file)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stoscore.limits import valid_node_name
from stoscore.settings import ServiceSettings, Words, split_words

SOCKET_BYTES_MAX = 107
"""sun_path of unix(7), less its final NUL."""


class CsiSettings(ServiceSettings):
    """Where the service listens and what it may use on its node."""

    service: ClassVar[str] = "csi"

    mode: Literal["controller", "node", "all"] = Field(
        default="all",
        description="which half this process serves: one controller per cluster, one node per machine",
    )
    controller_socket: Path = Field(
        default=Path("/run/stos/csi-controller.sock"),
        description="Unix socket of the Identity and Controller services",
    )
    node_socket: Path = Field(
        default=Path("/run/stos/csi-node.sock"), description="Unix socket of the Identity and Node services"
    )
    node: str = Field(default="", description="id of the stos node on this machine; needed to serve the node half")
    zone: str = Field(
        default="", max_length=63, description="this node's zone as told to the scheduler; empty for none"
    )
    state_dir: Path = Field(
        default=Path("/run/stos/csi"),
        description="where attachers keep what is attached; may be lost at a reboot, as attachments are",
    )
    attachers: Words = Field(
        default=["fuse", "kernel-nbd"],
        min_length=1,
        description="attacher plugins by preference; the first one that this node can use is taken",
    )
    request_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="seconds for a request to the cluster when the caller sets no deadline",
    )
    max_volumes_per_node: int = Field(
        default=128,
        ge=0,
        le=4096,
        description="volumes that a node may have attached, the same in every instance; 0 for any number. Each "
        "one of the fuse attacher costs a process of some 30 MB",
    )
    format_timeout_s: float = Field(
        default=600.0, gt=0, le=7200, description="seconds for mkfs: its time grows with the volume"
    )
    stop_timeout_s: float = Field(
        default=20.0,
        ge=0,
        le=600,
        description="seconds that operations under way get to end when the service stops",
    )

    @field_validator("attachers", mode="before")
    @classmethod
    def _split_attachers(cls, value: object) -> object:
        return split_words(value)

    @field_validator("controller_socket", "node_socket")
    @classmethod
    def _short_enough(cls, path: Path) -> Path:
        if not path.is_absolute() or len(str(path).encode()) > SOCKET_BYTES_MAX:
            raise ValueError(f"must be an absolute path of at most {SOCKET_BYTES_MAX} bytes")
        return path

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path

    @model_validator(mode="after")
    def _node_is_named(self) -> CsiSettings:
        if self.serves_node and not valid_node_name(self.node):
            raise ValueError(f"node is {self.node!r}: set it to this machine's stos node id, or mode to controller")
        if self.mode == "all" and self.controller_socket == self.node_socket:
            raise ValueError("controller_socket and node_socket must differ")
        return self

    @property
    def serves_controller(self) -> bool:
        return self.mode in ("controller", "all")

    @property
    def serves_node(self) -> bool:
        return self.mode in ("node", "all")
