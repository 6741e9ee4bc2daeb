"""What each role may say and hear on NATS: enforced by the server, for each identity, as a template.

`{{name()}}` becomes the name in the user's credential, so one template serves all nodes and pins each to its
own subjects. Nobody may create streams but certs, and nobody but an administrator may create consumers: with
one, a role could have stored messages delivered to subjects that it may not publish to.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoscore.errors import Code, StosError
from stoscore.subjects import BID, CATALOGUE_BUCKET, EVENTS_STREAM, PREFIX

OWN = "{{name()}}"
KEYS = f"$KV.{CATALOGUE_BUCKET}"
BUCKET_STREAM = f"KV_{CATALOGUE_BUCKET}"

_READ_CATALOGUE = (
    f"$JS.API.STREAM.INFO.{BUCKET_STREAM}",
    f"$JS.API.STREAM.MSG.GET.{BUCKET_STREAM}",
    f"$JS.API.DIRECT.GET.{BUCKET_STREAM}",
    f"$JS.API.DIRECT.GET.{BUCKET_STREAM}.>",
)
_EVERYBODY = (f"{PREFIX}.certs.renew", f"{PREFIX}.events.{OWN}.>", *_READ_CATALOGUE)
_COMMAND = (f"{PREFIX}.node.>", f"{PREFIX}.placement.>", BID, f"{KEYS}.name.*", f"{KEYS}.name.>", f"{KEYS}.id.*")
_READ_EVENTS = (
    f"$JS.API.STREAM.INFO.{EVENTS_STREAM}",
    f"$JS.API.STREAM.MSG.GET.{EVENTS_STREAM}",
    f"$JS.API.DIRECT.GET.{EVENTS_STREAM}",
    f"$JS.API.DIRECT.GET.{EVENTS_STREAM}.>",
    f"$JS.API.CONSUMER.CREATE.{EVENTS_STREAM}.>",
    f"$JS.API.CONSUMER.INFO.{EVENTS_STREAM}.>",
    f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.>",
    f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.>",
    f"$JS.ACK.{EVENTS_STREAM}.>",
    f"$JS.FC.{EVENTS_STREAM}.>",
)


@dataclass(frozen=True, slots=True)
class Role:
    """One role: its template of permissions. `kind` is what its identities are in their URI."""

    name: str
    kind: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    @property
    def inbox(self) -> str:
        """Answers, for this identity alone."""
        return f"_INBOX_{self.kind}_{OWN}.>"


ROLES = {
    role.name: role
    for role in (
        Role(
            "node",
            "node",
            (
                *_EVERYBODY,
                f"{PREFIX}.vol.*.brain.{OWN}",
                f"{PREFIX}.pair.*.beat.{OWN}",
                f"{PREFIX}.placement.>",
                *(f"{PREFIX}.node.*.{verb}" for verb in ("create", "remove", "describe")),
                f"{KEYS}.node.{OWN}",
            ),
            (f"{PREFIX}.node.{OWN}.>", BID, f"{PREFIX}.vol.*.brain.*", f"{PREFIX}.pair.{OWN}.beat.*", f"{KEYS}.node.>"),
        ),
        Role("csi", "svc", (*_EVERYBODY, *_COMMAND), (f"{KEYS}.node.>",)),
        Role("placement", "svc", (*_EVERYBODY, BID), (f"{PREFIX}.placement.>", f"{KEYS}.node.>")),
        Role(
            "certs",
            "svc",
            (
                *_EVERYBODY,
                *(
                    f"$JS.API.STREAM.{verb}.{stream}"
                    for verb in ("CREATE", "UPDATE", "INFO")
                    for stream in (BUCKET_STREAM, EVENTS_STREAM)
                ),
            ),
            (f"{PREFIX}.certs.>",),
        ),
        Role(
            "user",
            "user",
            (*_EVERYBODY, *_COMMAND, *_READ_EVENTS),
            (f"{PREFIX}.events.>", f"{KEYS}.node.>"),
        ),
    )
}

NATS_SERVER = "nats"
"""The role of NATS servers: a certificate and no NATS user."""


def check_role(kind: str, name: str, role: str) -> None:
    """Raises StosError INVALID_ARGUMENT unless identities of that kind and name exist."""
    known = role == NATS_SERVER and kind == "svc"
    if not known and (role not in ROLES or ROLES[role].kind != kind):
        services = sorted(item.name for item in ROLES.values() if item.kind == "svc")
        raise StosError(
            Code.INVALID_ARGUMENT,
            f"there is no role for {kind}/{name}",
            next_step=f"kinds: node, user, or svc with a name that begins with {', '.join(services)} or nats",
        )
