"""Who may ask what: the one table from which both sides of the bus are made.

From it come the permissions that the NATS server enforces (`services/certs/roles.py` turns it into templates) and
the second look that the answering side takes (`stoscore.bus_answering`). A subject without a row is refused at
both, so a new verb can't be reachable by forgetting to protect it.

A request to the subject `S` is published on `S.by.<role>.<name>`. The server lets an identity publish there with
its own role and name only, so the caller is proven by where the message arrived, and by nothing that the caller
wrote into it. An answer goes to `<reply>.by.<role>.<name>` in the same way: a node that knows where another's
answer is awaited can still only answer in its own name.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoscore.limits import MESSAGE_BYTES_MAX
from stoscore.subjects import PREFIX
from stoscore.units import KIB

KIND = {
    "admin": "user",
    "operator": "user",
    "viewer": "user",
    "node": "node",
    "csi": "svc",
    "placement": "svc",
    "certs": "svc",
    "nats": "svc",
}
"""Every role, and what the identities that have it are in their certificate: spiffe://<cluster>/<kind>/<name>."""
INBOX = "_INBOX"
BY = "by"
ANSWER_BYTES_MAX = MESSAGE_BYTES_MAX
ASK_BYTES_MAX = 64 * KIB


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, or answers, as the NATS server has proved it."""

    role: str
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"

    @property
    def kind(self) -> str:
        """user, node or svc."""
        return KIND[self.role]

    @property
    def inbox(self) -> str:
        """Where this identity alone hears answers."""
        return inbox_of(self.kind, self.name)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: who may ask on a subject (`*` is any one word), and who answers there."""

    subject: str
    roles: frozenset[str]
    answered_by: str
    """The role; on a node's subjects only the node that the subject names."""
    privileged: bool
    """It changes something that outlives the request: every use is an audit event."""
    why: str

    @property
    def action(self) -> str:
        """The subject without names: node.create, vol.attach, certs.renew."""
        return ".".join([word for word in self.subject.split(".")[2:] if word != "*"][-2:])


def _rules(answered_by: str, area: str, *rows: tuple[str, str, bool, str]) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{PREFIX}.{area}{verb}", frozenset(roles.split()), answered_by, privileged, why)
        for verb, roles, privileged, why in rows
    )


READ, CHANGE = False, True
_OPERATE = "admin operator csi"
_LOOK = "admin operator viewer"
_ALL = " ".join(KIND)
OBSERVED = ("node", "csi", "placement", "certs", "nats")
"""Roles whose processes tell of themselves when somebody looks."""

RULES = (
    *_rules(
        "node",
        "node.*.",
        ("create", f"{_OPERATE} node", CHANGE, "makes an empty replica; nodes ask where a copy is to be rebuilt"),
        ("found", _OPERATE, CHANGE, "hands a new volume its first record; a voter that has one keeps its own"),
        ("remove", f"{_OPERATE} node", CHANGE, "drops a replica that was never founded"),
        ("open", _OPERATE, CHANGE, "serves a volume over NBD on that node"),
        ("close", _OPERATE, CHANGE, "ends that"),
        ("describe", f"{_LOOK} csi node", READ, "what one voter knows of a volume"),
        ("describe-all", f"{_LOOK} csi", READ, "the same of many volumes at once"),
        ("attached", f"{_LOOK} csi", READ, "how many of its volumes a node uses"),
        ("status", f"{_LOOK} csi", READ, "the node's space, replicas and frontends"),
    ),
    *_rules(
        "node",
        "node.*.vol.*.",
        ("describe", f"{_LOOK} csi", READ, "the primary's word on its volume"),
        ("attach", _OPERATE, CHANGE, "gives the volume to one node"),
        ("detach", _OPERATE, CHANGE, "takes it back"),
        ("delete", _OPERATE, CHANGE, "commits the tombstone: the data is gone"),
        ("move", _OPERATE, CHANGE, "hands the volume over to another copy"),
        ("override", "admin", CHANGE, "goes on with one copy of a volume whose majority is lost"),
        ("expand", _OPERATE, CHANGE, "makes the volume larger"),
        ("snapshot", _OPERATE, CHANGE, "keeps what the volume holds now, under a name"),
        ("step", _OPERATE, CHANGE, "takes a snapshot in step with those of other volumes"),
        ("unsnapshot", _OPERATE, CHANGE, "forgets a snapshot: its data is gone"),
        ("policy", _OPERATE, CHANGE, "changes copies, failure mode and what happens below it"),
    ),
    *_rules(
        "csi",
        "csi.*.",
        ("freeze", _OPERATE, CHANGE, "holds a mounted file system still for a snapshot, for two seconds at most"),
        ("thaw", _OPERATE, CHANGE, "ends that"),
    ),
    *_rules("node", "", ("bid", "placement", READ, "only placement gathers bids")),
    *_rules(
        "placement",
        "placement.",
        ("rank", f"{_OPERATE} node", READ, "where copies would go; the asker decides"),
        ("explain", f"{_LOOK} csi node", READ, "the same, told in full"),
        ("capacity", f"{_LOOK} csi", READ, "how much room there is"),
    ),
    *_rules(
        "nats",
        "catalogue.",
        ("create", _OPERATE, CHANGE, "claims a name"),
        ("update", _OPERATE, CHANGE, "changes a volume's entry"),
        ("remove", _OPERATE, CHANGE, "forgets a name"),
        ("by-name", f"{_LOOK} csi node", READ, "finds a volume"),
        ("by-id", f"{_LOOK} csi node", READ, "finds a volume"),
        ("list", f"{_LOOK} csi node", READ, "all volumes"),
        ("claim-snapshot", _OPERATE, CHANGE, "gives a snapshot's name to one volume"),
        ("release-snapshot", _OPERATE, CHANGE, "takes it back"),
        ("snapshot", f"{_LOOK} csi", READ, "whose a snapshot's name is"),
        ("claim-group", _OPERATE, CHANGE, "says how far the snapshot of a group is"),
        ("release-group", _OPERATE, CHANGE, "forgets it"),
        ("group", f"{_LOOK} csi node", READ, "which volumes a group's snapshot is of"),
        ("nodes", f"{_LOOK} csi node", READ, "all nodes' addresses"),
        ("announce", "node", READ, "a node's own address, and nobody else's"),
    ),
    *_rules("nats", "history.", ("read", _LOOK, READ, "past events")),
    *_rules(
        "certs",
        "certs.",
        ("renew", _ALL, READ, "a new certificate for who holds a valid one, for itself only"),
        ("trust", _ALL, READ, "whom the cluster trusts now"),
        ("ls", _LOOK, READ, "all identities"),
        ("show", _LOOK, READ, "one identity"),
        ("token", "admin", CHANGE, "lets somebody in"),
        ("revoke", "admin", CHANGE, "shuts somebody out"),
        ("rotate", "admin", CHANGE, "replaces the authority"),
    ),
    *(
        rule
        for role in OBSERVED
        for rule in _rules(
            role,
            f"observe.{role}.",
            ("traces", _LOOK, READ, "the traces of which a process keeps spans"),
            ("spans", _LOOK, READ, "the spans of one trace that a process keeps"),
            ("metrics", _LOOK, READ, "what a process has counted"),
            ("settings", _LOOK, READ, "what a process runs with"),
        )
    ),
)


def rule_for(subject: str) -> Rule | None:
    """The row of a subject; None when nobody may ask there. The subject may have wildcards where the row has."""
    words = subject.split(".")
    return next((rule for rule in RULES if _covers(rule.subject.split("."), words)), None)


def _covers(pattern: list[str], words: list[str]) -> bool:
    return len(pattern) == len(words) and all(
        expected in ("*", word) for expected, word in zip(pattern, words, strict=True)
    )


def may_answer(subject: str, rule: Rule, caller: Caller) -> bool:
    """Whether an answer of that caller to a request on that subject counts."""
    if caller.role != rule.answered_by:
        return False
    words = subject.split(".")
    return words[2] != "node" or caller.name == words[3]


def payload_max(role: str) -> int:
    """Bytes of one message of that role, which the server enforces by ending the connection. Who only asks sends
    small messages; what is answered may be long."""
    return ANSWER_BYTES_MAX if any(rule.answered_by == role for rule in RULES) else ASK_BYTES_MAX


# ---- words of a subject ------------------------------------------------------------------------------


def inbox_of(kind: str, name: str) -> str:
    """Answers to one identity arrive below this; the server lets nobody else listen there."""
    return f"{INBOX}.{kind}.{name}"


def addressed(subject: str, caller: Caller) -> str:
    """Where that caller publishes a request, or an answer, for the subject."""
    return f"{subject}.{BY}.{caller.role}.{caller.name}"


def signed_by(subject: str) -> tuple[str, Caller | None]:
    """The subject without its last three words, and the caller that they name; None when it has no such end."""
    plain, _, name = subject.rpartition(".")
    plain, _, role = plain.rpartition(".")
    plain, _, by = plain.rpartition(".")
    if by != BY or role not in KIND or not name or not plain:
        return subject, None
    return plain, Caller(role, name)
