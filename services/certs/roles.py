"""What each role may say and hear on NATS: enforced by the server, for each identity, as a template.

`{{name()}}` becomes the name in the user's credential, so one template serves all nodes and pins each to its own
subjects. Requests and answers come from the one table (`stoscore.access`); what is told without being asked (events,
the brains' messages, the trust state) is listed here. Three powers are given to nobody, because each was seen to
break the pins:

* *Response permissions.* An identity that hears a message may then publish anything to its reply subject, and a
  node can send such a message to itself: it could vote for others and order as an administrator. Answers have
  their own subjects instead.
* *JetStream's API.* Its answers go to any reply subject, a catalogue entry included. Only svc/nats reads and writes
  the streams, for others who ask it; certs makes them.
* *Consumers.* With one, stored messages are delivered to subjects that their writer may not publish to.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoscore import jetstream, subjects
from stoscore.access import BY, INBOX, KIND, RULES, Rule, inbox_of, payload_max
from stoscore.errors import Code, StosError
from stoscore.jetstream import STREAMS
from stoscore.subjects import AUDIT, CATALOGUE_BUCKET, DECISION, EVENTS, NODE_KEYS

OWN = "{{name()}}"
SUBSCRIPTIONS_MAX = 64
_TRUST = subjects.certs("trust")


@dataclass(frozen=True, slots=True)
class Role:
    """One role: its template of permissions. `kind` is what its identities are in their URI."""

    name: str
    kind: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    subscriptions_max: int
    """of one connection"""
    payload_max: int
    """bytes of one message"""


def _told(role: str) -> tuple[str, ...]:
    """What the role publishes without being asked."""
    own_events = f"{EVENTS}.{subjects.reporter(KIND[role], OWN)}"
    audit = f"{own_events}.{AUDIT}"
    match role:
        case "node":
            return (audit, f"{own_events}.{DECISION}", subjects.brain("*", OWN), subjects.pair("*", OWN))
        case "csi" | "placement":
            return (audit,)
        case "certs":
            return (audit, _TRUST, *_streams("CREATE", "UPDATE"))
        case "nats":
            return (audit, f"$KV.{CATALOGUE_BUCKET}.>", *_streams("INFO", "MSG.GET"))
        case _:
            return ()


def _streams(*verbs: str) -> tuple[str, ...]:
    return tuple(jetstream.call(verb, stream) for verb in verbs for stream in STREAMS)


def _heard(role: str) -> tuple[str, ...]:
    """What the role hears besides requests and its answers."""
    match role:
        case "node":
            return (_TRUST, subjects.brain("*", "*"), subjects.pair(OWN, "*"), f"{NODE_KEYS}.*")
        case "admin" | "operator" | "viewer":
            return (_TRUST, f"{EVENTS}.>")
        case _:
            return (_TRUST,)


def _asked(rule: Rule) -> str:
    """Where requests for this row arrive; on a node's subjects, at the node that they name."""
    words = rule.subject.split(".")
    if words[2] == "node":
        words[3] = OWN
    return f"{'.'.join(words)}.{BY}.*.*"


def _role(name: str) -> Role:
    kind = KIND[name]
    asks = [f"{rule.subject}.{BY}.{name}.{OWN}" for rule in RULES if name in rule.roles]
    answers = [_asked(rule) for rule in RULES if rule.answered_by == name]
    # <inbox>.<session>.<token>.by.<role>.<name>
    answering = [f"{INBOX}.*.*.*.*.{BY}.{name}.{OWN}"] if answers else []
    return Role(
        name,
        kind,
        publish=(*asks, *answering, *_told(name)),
        subscribe=(f"{inbox_of(kind, OWN)}.>", *answers, *_heard(name)),
        subscriptions_max=SUBSCRIPTIONS_MAX,
        payload_max=payload_max(name),
    )


ROLES = {name: _role(name) for name in KIND}
USER_ROLES = tuple(name for name, kind in KIND.items() if kind == "user")


def check_role(kind: str, name: str, role: str) -> None:
    """Raises StosError INVALID_ARGUMENT unless identities of that kind and name have that role."""
    if KIND.get(role) == kind and (kind != "svc" or name.partition("-")[0] == role):
        return
    services = ", ".join(item for item, its_kind in KIND.items() if its_kind == "svc")
    raise StosError(
        Code.INVALID_ARGUMENT,
        f"there is no role {role!r} for {kind}/{name}",
        next_step=f"a user is one of {', '.join(USER_ROLES)}; the name of a svc begins with one of {services}",
    )
