"""What a node that is let in tries on a peer link: volumes that it does not hold and that are not attached to it.

It knows the ids, the incarnations and the epochs of everything.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from services.replica.peers import Type, pack, pack_ranges
from stoscore.units import BLOCK_BYTES, SUM_BYTES
from tests.security.scene import Outcome, Scene
from tests.security.wires import GONE, RawLink

MARK = b"written by an attacker"


def _newest_session() -> int:
    """Newer than any frontend's, and than our own before."""
    return (1 << 62) + time.monotonic_ns()


def _record(scene: Scene, volume: str) -> tuple[bytes, dict[str, Any], str]:
    """(id, record, primary's node)"""
    record = scene.records[volume]
    return bytes.fromhex(record["volume"]), record, str(record["primary"]["node"])


def _opened(link: RawLink, raw: bytes, attach_epoch: int, session: int) -> str:
    """ "" when the session is open, else what was said."""
    link.send(pack(Type.OPEN, volume=raw, attach_epoch=attach_epoch, id=session))
    answer = link.answer({Type.OPENED, Type.REFUSED})
    if answer is None:
        return "silence"
    return "" if answer[0].type == Type.OPENED else f"refused: {answer[1][:120]!r}"


def _read(link: RawLink, raw: bytes, attach_epoch: int, session: int) -> bool:
    fields = {"volume": raw, "attach_epoch": attach_epoch, "x": session, "z": 1}
    link.send(pack(Type.IO_READ, id=7, **fields))
    answer = link.answer({Type.IO_DATA, Type.IO_DONE, Type.REFUSED})
    return answer is not None and answer[0].type == Type.IO_DATA


def _blocks() -> bytes:
    """A block with its checksum."""
    import xxhash

    data = MARK.ljust(BLOCK_BYTES, b"!")
    return xxhash.xxh3_64_intdigest(data).to_bytes(SUM_BYTES, "little") + data


def read_by_link(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """As a frontend that the volume is not attached to. Won when a block arrives."""
    raw, record, primary = _record(scene, volume)
    told = []
    try:
        with RawLink(scene, primary, identity, name) as link:
            for epoch in (record["attach_epoch"], record["attach_epoch"] + 1, 0):
                session = _newest_session()
                told.append(_opened(link, raw, epoch, session))
                if _read(link, raw, epoch, session):
                    return Outcome(True, "a block of the volume arrived")
    except GONE as error:
        told.append(repr(error))
    return Outcome(False, "; ".join(told))


def write_by_link(scene: Scene, identity: Path | None, name: str, volume: str) -> Outcome:
    """As a frontend that the volume is not attached to. Won when the write is confirmed."""
    raw, record, primary = _record(scene, volume)
    told = []
    body = _blocks()
    try:
        with RawLink(scene, primary, identity, name) as link:
            for epoch in (record["attach_epoch"], record["attach_epoch"] + 1):
                session = _newest_session()
                told.append(_opened(link, raw, epoch, session))
                fields = {"volume": raw, "attach_epoch": epoch, "epoch": record["epoch"], "x": session, "z": 1}
                link.send(pack(Type.IO_WRITE, id=8, length=len(body), **fields) + body)
                answer = link.answer({Type.IO_DONE, Type.REFUSED})
                if answer is not None and answer[0].type == Type.IO_DONE and answer[0].y == 0:
                    return Outcome(True, "a write was confirmed")
    except GONE as error:
        told.append(repr(error))
    return Outcome(False, "; ".join(told))


def copy_from(scene: Scene, identity: Path | None, name: str, volume: str, posing_as: str) -> Outcome:
    """As a primary of the volume: ask a copy for its tail and its checksums, and hand it a block. `posing_as`: the
    voter whose incarnation the frames carry. Won when the copy answers."""
    raw, record, primary = _record(scene, volume)
    copies = [voter for voter in record["voters"] if voter["kind"] == "data"]
    target = next((voter for voter in copies if voter["node"] not in (primary, posing_as)), copies[0])
    fields = {
        "volume": raw,
        "sender": int(scene.incarnation(volume, posing_as), 16),
        "target": int(target["incarnation"], 16),
        "generation": record["generation"],
        "epoch": record["epoch"],
    }
    ranges = pack_ranges([(0, 1)])
    try:
        with RawLink(scene, target["node"], identity, name) as link:
            link.send(pack(Type.JOIN, id=1, **fields))
            link.send(pack(Type.DIGEST, id=2, length=len(ranges), **fields) + ranges)
            body = _blocks()
            seq = record["epoch"] << 40 | 1 << 30
            link.send(pack(Type.WRITE, id=seq, z=1, length=len(body), **fields) + body)
            link.send(pack(Type.COPY, id=seq, x=1, y=1, length=len(ranges) + len(body), **fields) + ranges + body)
            answer = link.answer({Type.JOINED, Type.DIGESTS, Type.ACK, Type.COPIED})
    except GONE as error:
        return Outcome(False, repr(error))
    if answer is None:
        return Outcome(False, "silence")
    return Outcome(True, f"the copy on {target['node']} answered {Type(answer[0].type).name}")
