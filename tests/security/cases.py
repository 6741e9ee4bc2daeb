"""The attacks that must fail: with which arms, against which defence, and what the audit has to say of it.

A case without a weakening does not exist: an attack that nobody has seen succeed proves nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from stoscore.access import KIND, RULES
from tests.security.attacks.brains import JUMP
from tests.security.attacks.nats import FORGED_NUMBER
from tests.security.scene import Scene
from tests.security.stage import GHOST, LEAVER, READER, SINGLE, VICTIM, Stage
from tests.security.weakenings import STRANGER

_ENOUGH = {
    "link-|certificate-with-|tricks-in-greetings": ("certs", "nats", "n1"),
    "nats-": ("certs", "nats"),
    "enrolment-|renewal-|a-token-|a-key-|another-name-|an-enormous-|malformed-|administration-": ("certs",),
}
"""What the beginning of a case's name says of where it takes place, for clusters that start in seconds."""
Arm = Callable[[Stage], Awaitable[Path | None]]
Arguments = Callable[[Stage, Scene], Awaitable[dict[str, Any]]]
Judge = Callable[[Stage, Scene], Awaitable[bool]]


def given(**arguments: Any) -> Arguments:
    """The same for every cluster."""

    async def make(stage: Stage, scene: Scene) -> dict[str, Any]:
        return arguments

    return make


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    attack: str
    """room.function"""
    arm: Arm
    arguments: Arguments
    weakened: Mapping[str, str]
    """Who is started without which defence, for the attack to succeed: nodes, certs or nats -> weakening."""
    audit: Mapping[str, str]
    """Field -> pattern of an event that the failed attack leaves."""
    judge: Judge | None = None
    """Looks at the victim whether the attack succeeded, where the attacker can't know."""
    wrecks: bool = False
    """When it succeeds, there is nothing left to attack."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The groups without which it can't succeed; () is the whole cluster, with volumes."""
        return next((groups for names, groups in _ENOUGH.items() if re.match(names, self.name)), ())

    def __str__(self) -> str:
        return self.name


# ---- arms -------------------------------------------------------------------------------------------


async def nobody(stage: Stage) -> Path | None:
    return None


async def node(stage: Stage) -> Path | None:
    """A node that was enrolled and holds nothing."""
    return await stage.arms.enrolled("node", STRANGER)


def a(kind: str, name: str, role: str = "") -> Arm:
    async def arm(stage: Stage) -> Path | None:
        return await stage.arms.enrolled(kind, name, role)

    return arm


async def foreign(stage: Stage) -> Path | None:
    return await stage.arms.foreign("node", STRANGER, (await stage.scene()).cluster)


def issued(ago: timedelta) -> Arm:
    async def arm(stage: Stage) -> Path | None:
        name = f"{'old' if ago > timedelta(0) else 'new'}-{STRANGER}"
        return stage.arms.insider.issued(stage.arms.directory / name, "node", STRANGER, ago)

    return arm


expired = issued(timedelta(days=5))
not_yet = issued(timedelta(days=-1))


def crafted(names: list[x509.GeneralName] | None, common_name: str = "x") -> Arm:
    async def arm(stage: Stage) -> Path | None:
        return stage.arms.insider.crafted(stage.arms.directory / "crafted", names, common_name)

    return arm


async def revoked(stage: Stage) -> Path | None:
    return await stage.arms.revoked("node", STRANGER + "-revoked")


async def stolen_primary(stage: Stage) -> Path | None:
    record = (await stage.scene()).records[VICTIM]
    return stage.arms.stolen(record["primary"]["node"])


def leaving(who: str, **arguments: Any) -> Arguments:
    """Whoever attacks is revoked as soon as he is in."""

    async def make(stage: Stage, scene: Scene) -> dict[str, Any]:
        kind, name = who.split("/")
        inside, revoked = (stage.arms.directory / f"{name}-{word}" for word in ("inside", "revoked"))
        stage.later(_revoke_when(stage, inside, kind, name, revoked))
        return arguments | {"inside": str(inside), "revoked": str(revoked)}

    return make


async def _revoke_when(stage: Stage, inside: Path, kind: str, name: str, revoked: Path) -> None:
    while not inside.exists():
        await asyncio.sleep(0.05)
    await stage.arms.revoke(kind, name)
    revoked.touch()


# ---- judges -----------------------------------------------------------------------------------------


def epoch_jumped(volume: str) -> Judge:
    """The volume believed a forgery, or is gone."""

    async def judge(stage: Stage, before: Scene) -> bool:
        now = None
        for _ in range(15):
            now = await stage.record_now(volume)
            if now is not None and int(now["epoch"]) >= int(before.records[volume]["epoch"]) + JUMP // 2:
                return True
            await asyncio.sleep(0.1)
        return now is None

    return judge


# ---- who gets in at all -----------------------------------------------------------------------------

LINK = given(to="n1", name=STRANGER)
STRANGERS_LINK = {"who": r"^127\.0\.0\.1$", "action": r"^link\.open$", "outcome": "refused"}
STRANGERS_NATS = {"who": r"127\.0\.0\.1", "action": r"^nats\.connect$", "outcome": "refused"}
DOORS = (
    Case(
        "link-without-certificate", "doors.enter_link", nobody, LINK,
        {"nodes": "admit-without-certificate"}, STRANGERS_LINK | {"reason": "certificate"},
    ),
    Case(
        "link-of-another-cluster", "doors.enter_link", foreign, LINK,
        {"nodes": "trust-a-foreign-root"}, STRANGERS_LINK | {"reason": "certificate"},
    ),
    Case(
        "link-expired", "doors.enter_link", expired, LINK,
        {"nodes": "ignore-time"}, STRANGERS_LINK | {"reason": "expired"},
    ),
    Case(
        "link-not-yet-valid", "doors.enter_link", not_yet, LINK,
        {"nodes": "ignore-time"}, STRANGERS_LINK | {"reason": "not yet valid"},
    ),
    Case(
        "link-revoked", "doors.enter_link", revoked, given(to="n1", name=f"{STRANGER}-revoked"),
        {"nodes": "ignore-revocation"}, {"action": r"^link\.open$", "reason": f"{STRANGER}-revoked is revoked"},
    ),
    Case(
        "link-kept-by-the-revoked", "doors.outstay_link", a("node", "n9-leaver"),
        leaving("node/n9-leaver", to="n1", name="n9-leaver"),
        {"nodes": "ignore-revocation"}, {"who": "^node/n9-leaver$", "action": r"^link\.keep$", "reason": "revoked"},
    ),
    Case(
        "link-as-a-service", "doors.enter_link", a("svc", "csi-eve"), given(to="n1", name="csi-eve"),
        {"nodes": "take-any-kind"}, {"who": "csi-eve", "action": r"^link\.open$", "reason": "no node"},
    ),
    Case(
        "link-as-a-user", "doors.enter_link", a("user", "eve", "viewer"), given(to="n1", name="eve"),
        {"nodes": "take-any-kind"}, {"who": "eve", "action": r"^link\.open$", "reason": "no node"},
    ),
    Case(
        "link-in-another-name", "doors.enter_link", node, given(to="n1", name="n2"),
        {"nodes": "take-any-name"}, {"who": STRANGER, "action": r"^link\.open$", "reason": "n2"},
    ),
    Case(
        "link-with-old-tls", "doors.downgrade", node, given(door="n1"),
        {"nodes": "take-old-tls"}, STRANGERS_LINK | {"reason": "version|protocol"},
    ),
    Case(
        "link-in-plain-text", "doors.speak_plainly", nobody, given(door="n1"),
        {"nodes": "speak-plainly"}, STRANGERS_LINK,
    ),
    Case(
        "nats-without-certificate", "doors.enter_nats", a("node", f"{STRANGER}-bare"), given(certificate=False),
        {"nats": "ask-for-no-certificate"}, STRANGERS_NATS | {"reason": "certificate"},
    ),
    Case(
        "nats-without-credential", "doors.enter_nats", node, given(credential=False),
        {"nats": "ask-for-no-credential"}, STRANGERS_NATS | {"reason": "authentication"},
    ),
    Case(
        "nats-of-another-cluster", "doors.enter_nats", foreign, given(),
        {"nats": "let-a-foreign-root-in"}, STRANGERS_NATS | {"reason": "certificate|authority"},
    ),
    Case(
        "nats-expired", "doors.enter_nats", expired, given(),
        {"nats": "ask-for-no-certificate+ask-for-no-credential"}, STRANGERS_NATS | {"reason": "expired"},
    ),
    Case(
        "nats-not-yet-valid", "doors.enter_nats", not_yet, given(),
        {"nats": "ask-for-no-certificate+ask-for-no-credential"}, STRANGERS_NATS | {"reason": "not yet valid|expired"},
    ),
    Case(
        "nats-revoked", "doors.enter_nats", revoked, given(),
        {"certs": "revoke-no-credential"}, {"who": STRANGER + "|127", "action": r"^nats\.connect$"},
    ),
    Case(
        "nats-kept-by-the-revoked", "doors.outstay_nats", a("user", "bus-leaver", "viewer"),
        leaving("user/bus-leaver"),
        {"certs": "revoke-no-credential"}, {"who": "^viewer/bus-leaver$", "action": r"^nats\.connect$"},
    ),
    Case(
        "nats-with-old-tls", "doors.downgrade", node, given(door="nats"),
        {"nats": "take-old-tls-from-clients"}, STRANGERS_NATS | {"reason": "version|protocol"},
    ),
    Case(
        "nats-in-plain-text", "doors.speak_plainly", nobody, given(door="nats"),
        {"nats": "speak-plainly-first"}, STRANGERS_NATS | {"reason": "TLS"},
    ),
)  # fmt: skip
STRANGERS_NBD = {"who": r"^127\.0\.0\.1$", "action": r"^nbd\.open$", "outcome": "refused"}


async def ghost(stage: Stage) -> Path | None:
    return await stage.arms.revoked("user", GHOST, "viewer")


async def foreign_reader(stage: Stage) -> Path | None:
    return await stage.arms.foreign("user", READER, (await stage.scene()).cluster, "viewer")


async def expired_reader(stage: Stage) -> Path | None:
    directory = stage.arms.directory / f"old-{READER}"
    return stage.arms.insider.issued(directory, "user", READER, timedelta(days=5), "viewer")


async def neighbour(stage: Stage) -> Path | None:
    """A user who may use another volume that is exported from the same node."""
    arm = await stage.arms.enrolled("user", "neighbour", "viewer")
    await stage.export_to("user/neighbour")
    return arm


def _export(name: str, arm: Arm, weakened: str, audit: dict[str, str], **arguments: Any) -> Case:
    given_to = given(name=VICTIM, **arguments)
    return Case(f"export-{name}", "doors.use_export", arm, given_to, {"nodes": weakened}, audit)


EXPORTS = (
    _export(
        "without-certificate", nobody, "admit-without-certificate+export-to-anybody", STRANGERS_NBD,
    ),
    _export("to-another-cluster", foreign_reader, "trust-a-foreign-root", STRANGERS_NBD | {"reason": "certificate"}),
    _export("to-the-expired", expired_reader, "ignore-time", STRANGERS_NBD | {"reason": "expired"}),
    # Refused at the door, or, where the word of the revocation comes a moment later, turned out.
    _export("to-the-revoked", ghost, "ignore-revocation", {"action": r"^nbd\.(open|keep)$", "reason": "revoked"}),
    _export(
        "to-who-is-not-named", a("user", "eve", "viewer"), "export-to-anybody",
        {"who": "^user/eve$", "action": r"^nbd\.open$", "outcome": "refused"},
    ),
    _export(
        "to-who-is-named-at-another", neighbour, "export-to-anybody",
        {"who": "^user/neighbour$", "action": r"^nbd\.open$", "outcome": "refused"},
    ),
    Case(
        "export-kept-by-the-revoked", "doors.outstay_export", a("user", LEAVER, "viewer"),
        leaving(f"user/{LEAVER}", name=VICTIM),
        {"nodes": "ignore-revocation"}, {"who": f"^user/{LEAVER}$", "action": r"^nbd\.keep$", "reason": "revoked"},
    ),
    _export("with-old-tls", a("user", READER, "viewer"), "take-old-tls", STRANGERS_NBD, old=True),
    Case(
        "export-in-plain-text", "doors.use_export_plainly", nobody, given(name=VICTIM),
        {"nodes": "export-plainly"}, STRANGERS_NBD,
    ),
)  # fmt: skip


# ---- names in certificates --------------------------------------------------------------------------


def _uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def _odd_names(cluster: str) -> dict[str, list[x509.GeneralName] | None]:
    """Certificates that our own issuer signed, with names that some reader might take for the stranger's."""
    good = f"spiffe://{cluster}/node/{STRANGER}"
    return {
        "no-names": None,
        "a-common-name-only": [x509.DNSName(STRANGER)],
        "a-host-name": [x509.DNSName("nats.stos.internal"), x509.DNSName(good.replace("/", "."))],
        "two-nodes": [_uri(good), _uri(f"spiffe://{cluster}/node/n1")],
        "the-same-twice": [_uri(good), _uri(good)],
        "many": [_uri(f"spiffe://{cluster}/node/x{number}") for number in range(200)] + [_uri(good)],
        "another-domain": [_uri(f"spiffe://{cluster}x/node/{STRANGER}")],
        "a-domain-inside": [_uri(f"spiffe://evil/{cluster}/node/{STRANGER}")],
        "user-info": [_uri(f"spiffe://{cluster}@evil/node/{STRANGER}")],
        "another-scheme": [_uri(f"https://{cluster}/node/{STRANGER}")],
        "upper-case": [_uri(f"spiffe://{cluster}/node/{STRANGER.upper()}")],
        "a-nul": [_uri(f"{good}\0.evil")],
        "a-path-back": [_uri(f"spiffe://{cluster}/node/n1/../{STRANGER}")],
        "percent": [_uri(f"spiffe://{cluster}/node/n%39")],
        "a-slash-behind": [_uri(f"{good}/")],
        "a-query": [_uri(f"{good}?x=1")],
        "a-fragment": [_uri(f"{good}#x")],
        "a-line-behind": [_uri(f"{good}\n")],
    }


def odd_certificate(what: str) -> Arm:
    async def arm(stage: Stage) -> Path | None:
        names = _odd_names((await stage.scene()).cluster)[what]
        return stage.arms.insider.crafted(stage.arms.directory / f"crafted-{what}", names, STRANGER)

    return arm


NAMES = tuple(
    Case(
        f"certificate-with-{what}", "doors.enter_link", odd_certificate(what), LINK,
        {"nodes": "read-names-loosely"}, {"who": "127|n9", "action": r"^link\.open$", "outcome": "refused"},
    )
    for what in _odd_names("x")
)  # fmt: skip


# ---- in another's name on the bus -------------------------------------------------------------------

WHO = {
    "admin": "admin",
    "operator": "oscar",
    "viewer": "eve",
    "node": "n1",
    "csi": "csi-controller",
    "placement": "placement-1",
    "certs": "certs-1",
    "nats": "nats",
}
"""One name of each role."""


def _subjects(scene: Scene, roles: str = "") -> list[tuple[str, Any]]:
    """(subject, rule) with names filled in."""
    volume = scene.volume(VICTIM)
    found = []
    for rule in RULES:
        words = rule.subject.split(".")
        if words[2] == "node":
            words[3] = "n1"
        found.append((".".join(volume if word == "*" else word for word in words), rule))
    return found


async def as_others(stage: Stage, scene: Scene) -> dict[str, Any]:
    """Every request there is, in the name of everybody else."""
    names = [f"by.{role}.{name}" for role, name in WHO.items()]
    return {"subjects": [f"{subject}.{name}" for subject, _ in _subjects(scene) for name in names]}


def not_for(role: str, name: str) -> Arguments:
    """Every request that the role may not make, in its own name."""

    async def make(stage: Stage, scene: Scene) -> dict[str, Any]:
        mine = f"by.{role}.{name}"
        return {"subjects": [f"{subject}.{mine}" for subject, rule in _subjects(scene) if role not in rule.roles]}

    return make


async def told_by_others(stage: Stage, scene: Scene) -> dict[str, Any]:
    """What others say without being asked, their answers, and orders to the server itself."""
    volume = scene.volume(VICTIM)
    streams = ("KV_stos-catalogue", "stos-events", "stos-audit")
    verbs = ("CREATE", "UPDATE", "DELETE", "PURGE", "SNAPSHOT", "RESTORE", "MSG.DELETE", "MSG.GET", "INFO")
    orders = [f"$JS.API.STREAM.{verb}.{stream}" for verb in verbs for stream in streams]
    orders += [f"$JS.API.CONSUMER.{verb}.{stream}" for verb in ("CREATE", "DURABLE.CREATE") for stream in streams]
    orders += [f"$JS.API.DIRECT.GET.{stream}" for stream in streams]
    return {
        "subjects": [
            f"stos.v1.vol.{volume}.brain.n1",
            "stos.v1.events.n1.decision",
            "stos.v1.events.n1.audit",
            "stos.v1.events.svc:certs-1.audit",
            "stos.v1.certs.trust",
            "_INBOX.user.admin.session.token",
            "_INBOX.user.admin.session.token.by.node.n1",
            f"_INBOX.node.n1.session.token.by.node.{STRANGER}.by.node.n1",
            "$KV.stos-catalogue.node.n1",
            f"$KV.stos-catalogue.node.{STRANGER}",
            "$KV.stos-catalogue.name.victim",
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.CLAIMS.UPDATE",
            "$SYS.REQ.ACCOUNT.PING.CONNZ",
            "$JS.API.INFO",
            "$JS.API.STREAM.CREATE.mine",
            *orders,
        ]
    }


async def heard_by_others(stage: Stage, scene: Scene) -> dict[str, Any]:
    """What others hear: requests to them, answers to them, everything."""
    return {
        "subjects": [
            ">",
            "*.>",
            "stos.>",
            "stos.v1.>",
            "stos.v1.node.>",
            "stos.v1.node.n1.>",
            "stos.v1.node.*.create.by.*.*",
            "stos.v1.bid.>",
            "stos.v1.placement.>",
            "stos.v1.placement.rank.by.*.*",
            "stos.v1.catalogue.>",
            "stos.v1.certs.>",
            "stos.v1.certs.token.by.*.*",
            "stos.v1.events.>",
            "_INBOX.>",
            "_INBOX.user.admin.>",
            "_INBOX.node.n1.>",
            "_INBOX.*.*.*.*.by.*.*",
            f"_INBOX.svc.{STRANGER}.>",
            "$KV.>",
            "$KV.stos-catalogue.name.>",
            "$SYS.>",
            "$JS.>",
        ]
    }


REFUSED_PUBLISH = {"action": r"^nats\.publish$", "outcome": "refused"}
OPEN = {"certs": "open-templates"}


def _may_not_ask(role: str, kind: str, name: str) -> Case:
    given_role = role if kind == "user" else ""
    return Case(
        f"{role}-asks-what-it-may-not", "nats.publish", a(kind, name, given_role), not_for(role, name),
        OPEN, REFUSED_PUBLISH | {"who": f"^{role}/{name}$"},
    )  # fmt: skip


def _deletes(role: str, kind: str, name: str) -> Case:
    """To the end: the server passes it on, and the node does it."""

    async def arguments(stage: Stage, scene: Scene) -> dict[str, Any]:
        record = await stage.volume(f"spare-{role}")
        subject = f"stos.v1.node.{record['primary']['node']}.vol.{record['volume']}.delete"
        return {"subjects": [subject], "payload": '{"v":1}', "who": [role, kind, name]}

    return Case(
        f"{role}-deletes-a-volume", "nats.request", a(kind, name, role if kind == "user" else ""), arguments,
        OPEN | {"nodes": "answer-anybody"}, REFUSED_PUBLISH | {"who": f"^{role}/{name}$", "target": "delete"},
    )  # fmt: skip


async def trust_was_forged(stage: Stage, before: Scene) -> bool:
    """A node goes by what the stranger said."""
    for _ in range(50):
        if f"trust state {FORGED_NUMBER} is in use" in stage.cluster.layout.log("n1").read_text():
            return True
        await asyncio.sleep(0.1)
    return False


async def another_address(stage: Stage, scene: Scene) -> dict[str, Any]:
    entry = '{"v":1,"node":"n1","zone":"z","address":"127.0.0.1:1"}'
    return {"subjects": ["stos.v1.catalogue.announce"], "payload": entry, "who": ["node", "node", STRANGER]}


BUS = (
    Case(
        "node-asks-as-others", "nats.publish", node, as_others,
        OPEN, REFUSED_PUBLISH | {"who": f"^node/{STRANGER}$", "target": r"\.by\.(admin|csi)\."},
    ),
    Case(
        "node-tells-as-others", "nats.publish", node, told_by_others,
        OPEN, REFUSED_PUBLISH | {"who": f"^node/{STRANGER}$", "target": r"brain\.n1|events|trust|_INBOX|JS|SYS|KV"},
    ),
    Case(
        "node-listens-as-others", "nats.subscribe", node, heard_by_others,
        OPEN, {"who": f"^node/{STRANGER}$", "action": r"^nats\.subscribe$", "outcome": "refused"},
    ),
    _may_not_ask("node", "node", STRANGER),
    _may_not_ask("viewer", "user", "eve"),
    _may_not_ask("operator", "user", "oscar"),
    _may_not_ask("csi", "svc", "csi-eve"),
    _may_not_ask("placement", "svc", "placement-eve"),
    _deletes("node", "node", STRANGER),
    _deletes("viewer", "user", "eve"),
    _deletes("placement", "svc", "placement-eve"),
    Case(
        "node-says-whom-to-trust", "nats.forge_trust", node, given(),
        OPEN | {"nodes": "trust-any-signer"}, REFUSED_PUBLISH | {"who": f"^node/{STRANGER}$", "target": "trust"},
        trust_was_forged,
    ),
    Case(
        "node-announces-for-another", "nats.request", node, another_address,
        {"nats": "announce-anybody"},
        {"who": f"^node/{STRANGER}$", "action": "announce", "outcome": "refused", "reason": "n1"},
    ),
)  # fmt: skip
assert set(WHO) == set(KIND)


# ---- volumes ----------------------------------------------------------------------------------------


async def posing(stage: Stage, scene: Scene) -> dict[str, Any]:
    """As the primary's copy of the victim's volume."""
    primary = scene.records[VICTIM]["primary"]["node"]
    return {"name": STRANGER, "volume": VICTIM, "posing_as": primary}


def posing_by(way: str) -> Arguments:
    async def make(stage: Stage, scene: Scene) -> dict[str, Any]:
        return (await posing(stage, scene)) | {"by": way}

    return make


async def the_past(stage: Stage, scene: Scene) -> dict[str, Any]:
    """A record from before the last change of the victim's volume, as the leader proposed it."""
    record = scene.records[VICTIM]
    assert record["version"] > 2, "the volume has a past"
    then = record | {"version": record["version"] - 1, "attachment": None, "attach_epoch": 0}
    return {"volume": VICTIM, "then": then}


async def went_back(stage: Stage, before: Scene) -> bool:
    """A copy has an older record than the volume had before."""
    record = before.records[VICTIM]
    versions = [
        (await stage.record_at(voter["node"], record["volume"])).version
        for voter in record["voters"]
        if voter["node"] != record["primary"]["node"]
    ]
    return min(versions) < record["version"]


def _by_node(action: str, **more: str) -> dict[str, str]:
    return {"who": f"^node/{STRANGER}$", "action": action, "outcome": "refused"} | more


VOLUMES = (
    Case(
        "read-a-volume-of-others", "links.read_by_link", node, given(name=STRANGER, volume=VICTIM),
        {"nodes": "serve-any-session"}, _by_node(r"^link\.(open|io_read)$"),
    ),
    Case(
        "write-a-volume-of-others", "links.write_by_link", node, given(name=STRANGER, volume=VICTIM),
        {"nodes": "serve-any-session"}, _by_node(r"^link\.(open|io_write)$"),
    ),
    Case(
        "copy-from-a-volume-of-others", "links.copy_from", node, posing,
        {"nodes": "believe-any-member+follow-anybody"}, _by_node(r"^link\.(join|digest|write|copy)$"),
    ),
    Case(
        "vote-for-another-by-link", "brains.forge_brain", node, posing_by("link"),
        {"nodes": "hear-any-brain"}, _by_node(r"^link\.brain$", reason="name"), epoch_jumped(VICTIM),
    ),
    Case(
        "vote-for-another-by-bus", "brains.forge_brain", node, posing_by("bus"),
        {"nodes": "hear-any-brain"}, _by_node("brain$", reason="name"), epoch_jumped(VICTIM),
    ),
    Case(
        "become-a-voter-by-link", "brains.intrude_as_voter", node, given(name=STRANGER, volume=SINGLE, by="link"),
        {"nodes": "hear-any-brain"}, _by_node(r"^link\.brain$", reason="member"), epoch_jumped(SINGLE),
        wrecks=True,
    ),
    Case(
        "become-a-voter-by-bus", "brains.intrude_as_voter", node, given(name=STRANGER, volume=SINGLE, by="bus"),
        {"nodes": "hear-any-brain"}, _by_node("brain$", reason="member"), epoch_jumped(SINGLE),
        wrecks=True,
    ),
    Case(
        "unseat-a-leader", "brains.unseat", node, given(name=STRANGER, volume=VICTIM, by="bus"),
        {"nodes": "hear-any-brain"}, _by_node("brain$", reason="member"), epoch_jumped(VICTIM),
    ),
    Case(
        "repeat-what-a-leader-said", "brains.replay_brain", stolen_primary, the_past,
        {"nodes": "go-back"}, {}, went_back,
    ),
)  # fmt: skip


# ---- enrolment --------------------------------------------------------------------------------------


async def captured_token(stage: Stage, scene: Scene) -> dict[str, Any]:
    """One that its owner has used."""
    token = await stage.arms.token("node", "n8")
    await stage.arms.use(token)
    return {"token": token.encode()}


async def open_token(stage: Stage, scene: Scene) -> dict[str, Any]:
    """One that nobody has used."""
    return {"token": (await stage.arms.token("node", "n7")).encode()}


async def certificate_of_a_node(stage: Stage, scene: Scene) -> dict[str, Any]:
    return {"certificate": (await stage.arms.enrolled("node", "n6") / "cert.pem").read_text()}


async def open_token_and_certificate(stage: Stage, scene: Scene) -> dict[str, Any]:
    return await open_token(stage, scene) | await certificate_of_a_node(stage, scene)


REFUSED_ENROL = {"who": r"127\.0\.0\.1", "action": r"^certs\.enrol$", "outcome": "refused"}
ENROLMENT = (
    Case(
        "a-token-twice", "enrolment.use_token", nobody, captured_token,
        {"certs": "take-tokens-again"}, REFUSED_ENROL | {"reason": "n8 was used before"},
    ),
    Case(
        "a-token-guessed", "enrolment.guess_token", nobody, open_token,
        {"certs": "take-any-secret"}, REFUSED_ENROL | {"reason": "unknown"},
    ),
    Case(
        "another-name-than-the-tokens", "enrolment.ask_for_another_name", nobody, open_token,
        {"certs": "believe-requested-names"}, {"who": "node/n7|127", "action": "enrol"},
    ),
    Case(
        "a-key-that-is-not-ours", "enrolment.certify_a_key_that_is_not_ours", nobody, open_token_and_certificate,
        {"certs": "believe-requested-keys"}, REFUSED_ENROL | {"reason": "not signed by its own key"},
    ),
    Case(
        "renewal-by-anothers-certificate", "enrolment.renew_by_somebody_elses_certificate", nobody,
        certificate_of_a_node, {"certs": "take-any-proof"}, REFUSED_ENROL | {"reason": "proof"},
    ),
    Case(
        "renewal-of-the-revoked", "enrolment.renew", revoked, given(),
        {"certs": "renew-the-revoked"}, REFUSED_ENROL | {"reason": "revoked"},
    ),
    Case(
        "renewal-of-the-expired", "enrolment.renew", expired, given(),
        {"certs": "renew-the-expired"}, REFUSED_ENROL | {"reason": "expired"},
    ),
    Case(
        "renewal-with-two-names", "enrolment.renew", odd_certificate("two-nodes"), given(),
        {"certs": "renew-the-first-name"}, REFUSED_ENROL | {"reason": "2 identities"},
    ),
    Case(
        "an-enormous-request", "enrolment.swamp", nobody, given(size_bytes=8 << 20),
        {"certs": "read-requests-of-any-size"}, {},
    ),
    Case(
        "malformed-requests", "enrolment.mumble", nobody, open_token,
        {"certs": "read-requests-loosely"}, REFUSED_ENROL,
    ),
    Case(
        "administration-at-the-door", "enrolment.administer", nobody, given(),
        {"certs": "administer-at-the-door"}, {},
    ),
    Case(
        "enrolment-with-old-tls", "doors.downgrade", nobody, given(door="certs-1"),
        {"certs": "take-old-tls-at-the-door"}, {},
    ),
    Case(
        "enrolment-in-plain-text", "doors.speak_plainly", nobody, given(door="certs-1"),
        {"certs": "open-the-door-plainly"}, {},
    ),
)  # fmt: skip


# ---- tricks in names --------------------------------------------------------------------------------

CSI = a("svc", "csi-eve")
TRICKS = (
    Case(
        "tricks-in-requests", "names.tricky_requests", CSI, given(name="csi-eve", volume=VICTIM),
        {"nodes": "read-loosely"}, {"who": "^csi/csi-eve$"},
    ),
    Case(
        "tricks-in-subjects", "names.tricky_subjects", CSI, given(name="csi-eve", volume=VICTIM),
        OPEN | {"nodes": "answer-anywhere"}, {"who": "^csi/csi-eve$"},
    ),
    Case(
        "tricks-in-greetings", "names.tricky_greetings", node, given(name=STRANGER, to="n1"),
        {"nodes": "take-any-name"}, {"who": STRANGER, "action": r"^link\.open$"},
    ),
)  # fmt: skip

CASES = (*DOORS, *EXPORTS, *NAMES, *BUS, *VOLUMES, *ENROLMENT, *TRICKS)
assert len({case.name for case in CASES}) == len(CASES)
