"""The shapes of what is no volume and no node: certs, the embedded cluster, directories, the installation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, RootModel

from stoscore.certs_messages import AuthorityView, IdentityDetail, IdentityView, Revoked, Rotated


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Everybody(AuthorityView):
    """The authority, and every identity of the cluster."""

    identities: list[IdentityView]


class OwnIdentity(Shape):
    """`stos certs show` without a name: an identity of this machine. Times are ISO 8601."""

    uri: str
    role: str
    serial: str
    not_before: str
    not_after: str
    renew_at: str
    trust_number: int
    directory: str


class MadeToken(Shape):
    """`token`: a secret; with --out it is in `file` instead."""

    kind: Literal["node", "svc", "user"]
    name: str
    token: str = ""
    file: str = ""


class BackedUp(Shape):
    file: str
    cluster: str
    keys: int
    identities: int
    trust_number: int


class Restored(Shape):
    cluster: str
    identities: int
    denied: int
    trust_number: int


class Recovered(Shape):
    cluster: str
    trust_number: int
    catalogue: Literal["kept", "new"]


class NodeToken(Shape):
    """`token`: a secret."""

    node: str
    token: str


class OwnProcess(Shape):
    """A process of the embedded cluster. `pid` 0: it was never started."""

    name: str
    group: str
    alive: bool
    pid: int
    log: str


class EmbeddedCluster(Shape):
    dir: str
    nodes: list[str]
    ports: dict[str, int]
    csi: dict[str, str]
    processes: list[OwnProcess]


class PluginRow(Shape):
    """`target`: module:attribute; `origin`: the package that registered it, with its version."""

    group: str
    name: str
    target: str
    origin: str


class Installed(Shape):
    stos: str
    python: str
    platform: str


class BundledFile(Shape):
    """`redacted`: possible secrets that were taken out."""

    file: str
    bytes: int
    redacted: int


class Lacking(Shape):
    what: str
    why: str


class Bundled(Shape):
    name: str
    missing: list[Lacking]
    files: list[BundledFile]


class CheckedStore(Shape):
    """`ok`: there are no `problems`; the numbers are of blocks and regions."""

    directory: str
    ok: bool
    cluster: str
    volume: str
    name: str
    incarnation: str
    kind: Literal["data", "witness"]
    size_blocks: int
    version: int
    unclean: bool
    marked_regions: int
    blocks: int
    unfinished_blocks: int
    bad_blocks: list[int]
    bad_roots: list[int]
    problems: list[str]
    notes: list[str]


class HashedStore(Shape):
    """`digest`: xxh3-64 over the sums of all blocks; `sums`, with --blocks: of each block that is not zeros, in hex."""

    volume: str
    incarnation: str
    size_blocks: int
    blocks: int
    digest: str
    bytes: int
    sums: dict[str, str] = {}


SHAPES: dict[str, type[BaseModel]] = {
    "certs backup": BackedUp,
    "certs ls": Everybody,
    "certs recover": Recovered,
    "certs restore": Restored,
    "certs revoke": Revoked,
    "certs rotate": Rotated,
    "certs show": RootModel[IdentityDetail | OwnIdentity],
    "certs token": RootModel[list[MadeToken]],
    "dev status": EmbeddedCluster,
    "dev up": EmbeddedCluster,
    "node join-token": NodeToken,
    "plugins": RootModel[list[PluginRow]],
    "store check": CheckedStore,
    "store digest": HashedStore,
    "support-bundle": Bundled,
    "version": Installed,
}
