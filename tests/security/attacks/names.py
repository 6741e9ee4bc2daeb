"""Path, wildcard and look-alike tricks in every field that names something, by somebody who may ask: a service with
csi's role. Whoever reads such a name as a path, a subject or a key does something that nobody meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.security.attacks.nats import answer_of
from tests.security.scene import Outcome, Scene
from tests.security.wires import GONE, RawLink, RawNats

TRICKS = (
    "..", ".", "../../../tmp/pwned", "/etc/passwd", "a/b", "a\\b", "%2e%2e%2f", "*", ">", "a.*", "a.>", "a..b", ".a",
    "a.", "a b", "a\tb", "a\r\nPUB x 0\r\n", "a\0b", "", " ", "-rf", "--help", "$(id)", "`id`", "{{name()}}",
    "a" * 5000, "\u0430dmin", "n1\u200b", "\uff4e1", "\udcff",
)  # fmt: skip
GOOD_ID = "0123456789abcdef" * 2
_REFUSED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION", "PERMISSION_DENIED"})


def tricky_requests(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """Every name in every request that csi may make. Won when one is answered with anything but a refusal that says
    what is wrong, or when the server is brought to say something else than it was told."""
    wrong = []
    tried = 0
    with RawNats(scene, identity) as nats:
        for subject, body in _requests(scene, volume):
            tried += 1
            try:
                answer = answer_of(nats, subject, json.dumps(body), ("csi", "svc", name))
            except GONE as error:
                return Outcome(True, f"{subject} {str(body)[:200]}: the connection ended: {error!r}")
            code = answer.get("error", {}).get("code", "") if answer else "no answer"
            if code not in _REFUSED:
                wrong.append(f"{subject} {str(body)[:160]}: {str(answer)[:160]}")
    return Outcome(bool(wrong), "; ".join(wrong[:5]) or f"all {tried} were refused with a reason")


def _requests(scene: Scene, volume: str) -> Iterator[tuple[str, dict[str, Any]]]:
    record = scene.records[volume]
    node = record["primary"]["node"]
    for field, subject, body in _templates(scene, node, record):
        for trick in TRICKS:
            yield subject, _with(body, field, trick)


def _templates(scene: Scene, node: str, record: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(field, subject, a good request)"""
    here = f"stos.v1.node.{node}"
    create = {"v": 1, "volume": GOOD_ID, "name": "tricky", "size_bytes": 1 << 20, "kind": "data"}
    yield from (("volume", f"{here}.create", create), ("name", f"{here}.create", create))
    yield "kind", f"{here}.create", create
    opened = {"v": 1, "volume": GOOD_ID, "name": "tricky", "size_bytes": 1 << 20, "attach_epoch": 1, "voters": []}
    yield from (("volume", f"{here}.open", opened), ("name", f"{here}.open", opened))
    yield "volume", f"{here}.close", {"v": 1, "volume": GOOD_ID}
    yield "volume", f"{here}.describe", {"v": 1, "volume": GOOD_ID}
    remove = {"v": 1, "volume": GOOD_ID, "incarnation": "0" * 16}
    yield from (("volume", f"{here}.remove", remove), ("incarnation", f"{here}.remove", remove))
    found = {"v": 1, "record": record}
    yield from ((f"record.{field}", f"{here}.found", found) for field in ("volume", "name"))
    yield "record.primary.node", f"{here}.found", found
    yield "node", f"{here}.vol.{record['volume']}.attach", {"v": 1, "node": node}
    entry = {
        "v": 1, "volume": GOOD_ID, "name": "tricky", "size_bytes": 1 << 20, "replicas": 0, "nodes": [node],
        "witness_nodes": [], "labels": {}, "state": "creating",
    }  # fmt: skip
    yield from ((field, "stos.v1.catalogue.create", entry) for field in ("volume", "name", "state"))
    yield "name", "stos.v1.catalogue.by-name", {"v": 1, "name": "tricky"}
    yield "volume", "stos.v1.catalogue.by-id", {"v": 1, "volume": GOOD_ID}


def _with(body: dict[str, Any], path: str, value: str) -> dict[str, Any]:
    """The body with another value at a dotted path."""
    head, _, rest = path.partition(".")
    return body | {head: _with(body[head] or {}, rest, value) if rest else value}


def tricky_subjects(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """Wildcards and separators in the subjects of requests that csi may make: an order to one node that reaches all,
    or to one volume that reaches every. Won when anybody answers."""
    volume_id = scene.volume(volume)
    by = f"by.csi.{name}"
    subjects = [
        f"stos.v1.node.*.vol.{volume_id}.describe.{by}",
        f"stos.v1.node.>.{by}",
        f"stos.v1.node.n1.vol.*.describe.{by}",
        f"stos.v1.node.n1.vol.>.{by}",
        f"stos.v1.node..vol.{volume_id}.describe.{by}",
        f"stos.v1.*.n1.status.{by}",
        f"stos.v1.node.n1.*.{by}",
        f"stos.v1.node.n1.vol.../../{volume_id}.describe.{by}",
        f"stos.v1.node.n1.vol.{volume_id}/../x.describe.{by}",
        "stos.v1.node.n1.status.by.csi.*",
        "stos.v1.node.n1.status.by.*.*",
        f"stos.v1.node.n1.status.by.*.{name}",
        "stos.v1.node.n1.status.by.csi.>",
        f"stos.v1.node.n1.status.{by}.{by}",
        f"stos.v1.node.n1.status.by.admin.admin.{by}",
    ]
    told = []
    for subject in subjects:
        try:
            with RawNats(scene, identity) as nats:
                answer = answer_of(nats, subject, "{}", ("csi", "svc", name), whole=True, seconds=1.0)
        except GONE as error:
            told.append(repr(error))
            continue
        if answer.get("ok") is True:
            return Outcome(True, f"{subject}: {str(answer)[:200]}")
        told.append(f"{subject}: {str(answer.get('error', answer))[:80]}")
    return Outcome(False, "; ".join(told))


def tricky_greetings(scene: Scene, identity: Path | None, name: str, to: str) -> Outcome:
    """Another spelling of a node's name in the greeting of a link. Won when we are welcomed under one."""
    told = []
    for trick in (*TRICKS[:-1], f"{name}\0", f"{name} ", f"../{name}", f"{name}/..", name.upper(), "n1", "n2"):
        try:
            with RawLink(scene, to, identity, trick):
                return Outcome(True, f"welcomed as {trick!r}")
        except GONE as error:
            told.append(repr(error)[:60])
    return Outcome(False, f"{len(told)} refused, for example {told[0]}")
