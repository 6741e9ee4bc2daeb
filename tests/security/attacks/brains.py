"""Messages of a volume's brain: in another voter's name, as a stranger, from the past, out of order.

A believed `Propose` changes the record of the volume, so the judge looks at the victim's record afterwards: a jump
of its epoch, or a version that went back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.replica.peers import Type, pack
from tests.security.scene import Outcome, Scene
from tests.security.wires import GONE, RawLink, RawNats

JUMP = 1000
"""By so much the epoch of a believed forgery is higher."""
STRANGE = "f" * 16
"""The incarnation of a voter that never was."""


def _voter(model: dict[str, Any]) -> dict[str, Any]:
    return {key: model[key] for key in ("node", "incarnation", "kind")}


def proposal(record: dict[str, Any], sender: dict[str, Any], target: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A brain's Propose from that sender to that voter. `changes` are the record's; `epoch` and `version` stamp it."""
    epoch = changes.pop("epoch", record["epoch"])
    version = changes.pop("version", record["version"])
    stamp = {"generation": record["generation"], "epoch": epoch, "version": version}
    attachment = record["attachment"]
    body = {
        "volume": record["volume"],
        "name": record["name"],
        "size_bytes": record["size_bytes"],
        "replicas": record["replicas"],
        "voters": [_voter(voter) for voter in record["voters"]],
        "in_sync": [_voter(voter) for voter in record["in_sync"]],
        "primary": sender,
        "attachment": attachment and {key: attachment[key] for key in ("node", "attach_epoch")},
        "attach_epoch": record["attach_epoch"],
        "labels": sorted(record["labels"].items()),
        "deleted": False,
    } | changes
    return {
        "volume": record["volume"],
        "sender": sender,
        "target": target,
        "epoch": epoch,
        "slot": {"stamp": stamp, "record": body},
        "committed": stamp,
        "kind": "propose",
    }


def _send(scene: Scene, identity: Path | None, by: str, name: str, messages: list[dict[str, Any]]) -> Outcome:
    """Each to its target, under that name, by link or by bus."""
    told = []
    try:
        if by == "bus":
            with RawNats(scene, identity) as nats:
                for message in messages:
                    nats.publish(f"stos.v1.vol.{message['volume']}.brain.{name}", json.dumps(message).encode())
                nats.flush()
                return Outcome(not nats.errors, f"sent; errors: {nats.errors}")
        for message in messages:
            with RawLink(scene, message["target"]["node"], identity, name) as link:
                body = json.dumps(message).encode()
                volume = bytes.fromhex(message["volume"])
                link.send(pack(Type.BRAIN, volume=volume, length=len(body)) + body)
                told.append(f"sent, link {'stays' if link.is_open() else 'closed'}")
    except GONE as error:
        return Outcome(False, f"{told} {error!r}")
    return Outcome(True, f"{told}")


def forge_brain(scene: Scene, identity: Path | None, name: str, volume: str, posing_as: str, by: str) -> Outcome:
    """A voter's proposal, sent by somebody else, to all other voters."""
    record = scene.records[volume]
    (sender,) = [_voter(voter) for voter in record["voters"] if voter["node"] == posing_as]
    others = [_voter(voter) for voter in record["voters"] if voter["node"] != posing_as]
    messages = [proposal(record, sender, target, epoch=record["epoch"] + JUMP, version=1) for target in others]
    return _send(scene, identity, by, name, messages)


def intrude_as_voter(scene: Scene, identity: Path | None, name: str, volume: str, by: str) -> Outcome:
    """A proposal in our own name that makes us a voter, the primary, the only member in sync and the attached one,
    and deletes the volume on the way."""
    record = scene.records[volume]
    me = {"node": name, "incarnation": STRANGE, "kind": "data"}
    messages = []
    for voter in record["voters"]:
        changes = {
            "voters": [me, _voter(voter)],
            "in_sync": [me],
            "attachment": {"node": name, "attach_epoch": record["attach_epoch"] + 1},
            "attach_epoch": record["attach_epoch"] + 1,
            "deleted": True,
        }
        messages.append(proposal(record, me, _voter(voter), epoch=record["epoch"] + JUMP, version=1, **changes))
    return _send(scene, identity, by, name, messages)


def unseat(scene: Scene, identity: Path | None, name: str, volume: str, by: str) -> Outcome:
    """Votes and refusals of a stranger with a far higher epoch: the leader would step down for them."""
    record = scene.records[volume]
    me = {"node": name, "incarnation": STRANGE, "kind": "data"}
    epoch = record["epoch"] + JUMP
    stamp = {"generation": record["generation"], "epoch": epoch, "version": 1}
    messages = []
    for voter in record["voters"]:
        head = {"volume": record["volume"], "sender": me, "target": _voter(voter), "epoch": epoch}
        messages.append(head | {"kind": "refused", "slot": None})
        messages.append(head | {"kind": "vote", "stamp": stamp, "unclean": False})
    return _send(scene, identity, by, name, messages)


def force_election(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """A voter of the volume asks for votes in a far higher epoch: whoever hears it has to look."""
    record = scene.records[volume]
    (me,) = [_voter(voter) for voter in record["voters"] if voter["node"] == name]
    epoch = record["epoch"] + JUMP
    messages = [
        {"volume": record["volume"], "sender": me, "target": _voter(voter), "epoch": epoch}
        | {"kind": "refused", "slot": None}
        for voter in record["voters"]
        if voter["node"] != name
    ]
    return _send(scene, identity, "bus", name, messages)


def bury(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """A voter of the volume proposes, and calls committed, the record that deletes it."""
    record = scene.records[volume]
    (me,) = [_voter(voter) for voter in record["voters"] if voter["node"] == name]
    others = [_voter(voter) for voter in record["voters"] if voter["node"] != name]
    messages = [
        proposal(record, me, target, epoch=record["epoch"] + JUMP, version=1, deleted=True, attachment=None)
        for target in others
    ]
    return _send(scene, identity, "bus", name, messages)


def replay_brain(scene: Scene, identity: Path | None, volume: str, then: dict[str, Any]) -> Outcome:
    """The leader's own proposals from before (`then`: the record as it was), out of order, with the leader's own
    stolen identity: nothing but their age speaks against them."""
    now = scene.records[volume]
    sender = _voter(then["primary"])
    messages = []
    for voter in now["voters"]:
        if voter["node"] == sender["node"]:
            continue
        target = _voter(voter)
        messages += [
            proposal(now, sender, target),
            proposal(then, sender, target, epoch=then["epoch"] - 1),
            proposal(then, sender, target),
            proposal(then, sender, target, version=max(1, then["version"] - 1)),
        ]
    return _send(scene, identity, "bus", sender["node"], messages)
