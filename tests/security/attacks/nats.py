"""What an identity that NATS lets in tries to say, to hear and to have answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stoscore.certs_messages import TrustState
from stoscore.identity import Identity
from stoscore.trust import sign_trust
from tests.security.scene import Outcome, Scene
from tests.security.wires import GONE, RawNats

FORGED_NUMBER = 1 << 40
"""Newer than anything that certs will say."""


def _first(names: list[str], allowed: Iterator[str]) -> Outcome:
    """The first that is allowed ends the attack: what comes after it would do harm."""
    name = next(allowed, None)
    return Outcome(name is not None, f"allowed: {name}" if name is not None else f"all {len(names)} were refused")


def publish(scene: Scene, identity: Path | None, subjects: list[str], payload: str = "{}") -> Outcome:
    """Won when the server passes any of them on."""
    with RawNats(scene, identity) as nats:
        return _first(subjects, (one for one in subjects if nats.may_publish(one, payload.encode())))


def subscribe(scene: Scene, identity: Path | None, subjects: list[str]) -> Outcome:
    """Won when the server takes any of the subscriptions."""
    with RawNats(scene, identity) as nats:
        return _first(subjects, (one for number, one in enumerate(subjects, 1) if nats.may_subscribe(one, number)))


Who = tuple[str, str, str]
"""role, kind, name"""


def answer_of(
    nats: RawNats, subject: str, payload: str, who: Who, *, whole: bool = False, seconds: float = 2.0
) -> dict[str, Any]:
    """The answer to a request as that caller; {} when there is none, "refused" when the server passes it on to nobody.
    `whole`: the subject is sent as it is."""
    role, kind, name = who
    to = subject if whole else f"{subject}.by.{role}.{name}"
    before = len(nats.errors)
    raw = nats.request(to, payload.encode(), f"_INBOX.{kind}.{name}.raw", seconds)
    if len(nats.errors) > before:
        return {"refused": nats.errors[-1]}
    try:
        answer = json.loads(raw)
    except ValueError:
        return {"unreadable": repr(raw[:200])} if raw else {}
    return answer if isinstance(answer, dict) else {"unreadable": repr(answer)[:200]}


def request(scene: Scene, identity: Path | None, subjects: list[str], payload: str, who: list[str]) -> Outcome:
    """Won when any of the requests is answered with a result."""
    role, kind, name = who
    told = []
    with RawNats(scene, identity) as nats:
        for subject in subjects:
            try:
                answer = answer_of(nats, subject, payload, (role, kind, name))
            except GONE as error:
                answer = {"gone": repr(error)}
            told.append(f"{subject}: {str(answer)[:160]}")
            if answer.get("ok") is True:
                return Outcome(True, told[-1])
    return Outcome(False, "; ".join(told))


def forge_trust(scene: Scene, identity: Path | None) -> Outcome:
    """Say whom to trust, in certs' place, signed with our own key. Whether it was believed, the judge sees."""
    assert identity is not None
    state = TrustState(cluster=scene.cluster, number=FORGED_NUMBER, roots_pem=scene.trust_pem)
    signed = sign_trust(Identity(identity), state)
    with RawNats(scene, identity) as nats:
        for _ in range(3):
            nats.publish("stos.v1.certs.trust", signed.model_dump_json().encode())
        nats.flush()
        return Outcome(not nats.errors, f"{nats.errors}")
