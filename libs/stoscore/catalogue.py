"""The catalogue: from a volume's name to its id and first voters, and from a node to its address.

It helps to find things. The truth about a volume is its voters' record; a lost catalogue loses no data.
It lives in a JetStream key-value bucket, so other NATS tools can read it:

    name.<volume name>   the entry (`CatalogueEntry`), created by compare-and-set before any replica is made
    id.<volume id>       the name, so that there is one place only for each fact
    node.<node>          where that node's peer link listens (`NodeEntry`); only that node may write it

Everything is done with requests. JetStream consumers, the usual way to list and watch a bucket, would let
whoever may create one replay stored messages to any subject, so most roles may not create any.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from stoscore.bus import Bus
from stoscore.envelope import decode_request
from stoscore.errors import Code, StosError, not_found, unavailable
from stoscore.messages import CatalogueEntry, NodeEntry
from stoscore.nats_session import STATUS, Msg
from stoscore.subjects import CATALOGUE_BUCKET
from stoscore.telemetry import get_logger

STREAM = f"KV_{CATALOGUE_BUCKET}"
KEYS = f"$KV.{CATALOGUE_BUCKET}"
NODE_KEYS = f"{KEYS}.node.>"
BATCH = 512
"""Keys read with one request; the server refuses more than 1,024."""
CONFLICTS_MAX = 8
REMOVED_KEPT = "1h"
"""How long the mark of a removed key stays, for clients that watch the bucket."""
WRONG_LAST_SEQUENCE = 10071
NOTHING_FOUND = 10037
STREAM_EXISTS = 10058
END_OF_BATCH, NO_MESSAGES = "204", "404"

Entries = list[CatalogueEntry]
Nodes = list[NodeEntry]
Contents = list[bytes]
Subjects = list[str]

log = get_logger("catalogue")


def bucket_config(replicas: int = 1) -> dict[str, Any]:
    """The stream below the bucket, as every NATS client expects a key-value bucket to look."""
    return {
        "name": STREAM,
        "description": "stos: volume names and node addresses",
        "subjects": [f"{KEYS}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": 64 * 1024,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "deny_delete": True,
        "duplicate_window": 120 * 1_000_000_000,
    }


async def ensure_stream(bus: Bus, config: dict[str, Any]) -> None:
    """Make the stream, or bring an existing one to this configuration. Raises StosError."""
    name = config["name"]
    try:
        await _api(bus, f"STREAM.CREATE.{name}", config)
    except StosError as error:
        if error.details.get("err_code") != STREAM_EXISTS:
            raise
        await _api(bus, f"STREAM.UPDATE.{name}", config)


class Catalogue:
    """All calls raise StosError UNAVAILABLE when NATS or the bucket is not there."""

    def __init__(self, bus: Bus):
        self._bus = bus

    # --- volumes ---

    async def create(self, entry: CatalogueEntry) -> CatalogueEntry:
        """Claim the name. Raises ALREADY_EXISTS with details={"entry": …} when it is taken; an entry that a
        crash left without its id is completed on the way."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read(entry.name)
            if existing is not None:
                await self._put(f"id.{existing.volume}", existing.name.encode(), None)
                raise StosError(
                    Code.ALREADY_EXISTS,
                    f"the name {entry.name!r} is in use by volume {existing.volume}",
                    details={"entry": existing.model_dump(mode="json")},
                )
            if await self._put(f"name.{entry.name}", entry.model_dump_json().encode(), sequence):
                await self._put(f"id.{entry.volume}", entry.name.encode(), None)
                return entry
        raise _contended(entry.name)

    async def update(self, entry: CatalogueEntry) -> None:
        """Replace the entry of the same volume. Raises NOT_FOUND when the name is free or another's."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read(entry.name)
            if existing is None or existing.volume != entry.volume:
                raise _no_volume(entry.name)
            if existing == entry:
                return
            if await self._put(f"name.{entry.name}", entry.model_dump_json().encode(), sequence):
                return
        raise _contended(entry.name)

    async def remove(self, entry: CatalogueEntry) -> None:
        """Forget the volume. Idempotent; a name that belongs to another volume by now stays."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read(entry.name)
            if existing is None or existing.volume != entry.volume:
                break
            if await self._purge(f"name.{entry.name}", sequence):
                break
        else:
            raise _contended(entry.name)
        await self._purge(f"id.{entry.volume}", None)

    async def by_name(self, name: str) -> CatalogueEntry:
        """Raises NOT_FOUND."""
        entry, _ = await self._read(name)
        if entry is None:
            raise _no_volume(name)
        return entry

    async def by_id(self, volume: str) -> CatalogueEntry:
        """Raises NOT_FOUND."""
        data, _ = await self._get(f"id.{volume}")
        entry, _ = await self._read(data.decode()) if data else (None, 0)
        if entry is None or entry.volume != volume:
            raise _no_volume(volume)
        return entry

    async def list(self) -> Entries:
        """All volumes, sorted by name."""
        entries = [_entry(data) for data in await self._all("name.>")]
        return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.name)

    # --- nodes ---

    async def put_node(self, entry: NodeEntry) -> None:
        await self._put(f"node.{entry.node}", entry.model_dump_json().encode(), None)

    async def nodes(self) -> Nodes:
        """All nodes that ever told their address, sorted."""
        entries = [_node_entry(data) for data in await self._all("node.>")]
        return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.node)

    async def watch_nodes(self, callback: Callable[[NodeEntry], None]) -> None:
        """Every known node now and after each reconnection, and every change as it is written. A change may
        be told twice or, rarely, late; addresses are hints, the peer's certificate decides."""

        def changed(subject: str, data: bytes, headers: dict[str, str]) -> None:
            entry = None if "KV-Operation" in headers else _node_entry(data)
            if entry is not None and subject == f"{KEYS}.node.{entry.node}":
                callback(entry)

        async def tell_all() -> None:
            for entry in await self.nodes():
                callback(entry)

        await self._bus.subscribe(NODE_KEYS, changed)
        self._bus.on_connected.append(tell_all)
        if self._bus.connected:
            await tell_all()

    # --- keys ---

    async def _read(self, name: str) -> tuple[CatalogueEntry | None, int]:
        data, sequence = await self._get(f"name.{name}")
        return (_entry(data) if data else None), sequence

    async def _get(self, key: str) -> tuple[bytes, int]:
        """Content and sequence number of a key; (b"", number) when it is free. From the stream's leader, so
        that a compare-and-set that follows does not fail on a stale read."""
        try:
            answer = await _api(self._bus, f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": f"{KEYS}.{key}"})
        except StosError as error:
            if error.details.get("err_code") == NOTHING_FOUND:
                return b"", 0
            raise
        message = answer["message"]
        removed = b"KV-Operation:" in base64.b64decode(message.get("hdrs", ""))
        return b"" if removed else base64.b64decode(message.get("data", "")), int(message["seq"])

    async def _put(self, key: str, data: bytes, expected: int | None) -> bool:
        """False when the key changed since it had the expected sequence number."""
        headers = {} if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        return await self._store(key, data, headers)

    async def _purge(self, key: str, expected: int | None) -> bool:
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": REMOVED_KEPT}
        if expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        return await self._store(key, b"", headers)

    async def _store(self, key: str, data: bytes, headers: dict[str, str]) -> bool:
        try:
            _checked(await self._bus.call(f"{KEYS}.{key}", data, headers=headers))
        except StosError as error:
            if error.details.get("err_code") == WRONG_LAST_SEQUENCE:
                return False
            raise _explained(error) from None
        return True

    async def _all(self, keys: str) -> Contents:
        """The contents of all keys that match, in batches."""
        subjects: Subjects = []
        while True:
            request = {"subjects_filter": f"{KEYS}.{keys}", "offset": len(subjects)}
            answer = await _api(self._bus, f"STREAM.INFO.{STREAM}", request)
            page = answer["state"].get("subjects") or {}
            subjects += page
            if not page or len(subjects) >= int(answer.get("total", 0)):
                break
        contents: Contents = []
        for start in range(0, len(subjects), BATCH):
            request = {"multi_last": subjects[start : start + BATCH]}
            found = await self._bus.collect(f"$JS.API.DIRECT.GET.{STREAM}", json.dumps(request).encode(), _ends_batch)
            status = found[-1].headers.get(STATUS, "")
            if status not in (END_OF_BATCH, NO_MESSAGES):
                raise unavailable(f"JetStream refused to list: {status}")
            contents += [msg.data for msg in found[:-1] if "KV-Operation" not in msg.headers]
        return contents


def _ends_batch(msg: Msg) -> bool:
    return not msg.data and STATUS in msg.headers


async def _api(bus: Bus, verb: str, request: dict[str, Any]) -> dict[str, Any]:
    """One call of the JetStream API."""
    try:
        return _checked(await bus.call(f"$JS.API.{verb}", json.dumps(request).encode()))
    except StosError as error:
        raise _explained(error) from None


def _checked(msg: Msg) -> dict[str, Any]:
    try:
        answer = json.loads(msg.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise StosError(Code.INTERNAL, f"unreadable answer of JetStream: {msg.data[:60]!r}")
    error = answer.get("error")
    if error:
        raise StosError(
            Code.UNAVAILABLE,
            f"JetStream refused: {error.get('description', error)}",
            details={"err_code": error.get("err_code", 0)},
        )
    return answer


def _explained(error: StosError) -> StosError:
    if error.details.get("no_responders"):
        return unavailable("the catalogue is not there", "the certs service makes it when it reaches NATS")
    return error


def _entry(data: bytes) -> CatalogueEntry | None:
    try:
        return decode_request(CatalogueEntry, data)
    except StosError as error:
        log.error("unreadable catalogue entry: %s", error)
        return None


def _node_entry(data: bytes) -> NodeEntry | None:
    try:
        return decode_request(NodeEntry, data)
    except StosError as error:
        log.error("unreadable node entry: %s", error)
        return None


def _no_volume(name: str) -> StosError:
    return not_found(f"there is no volume {name!r}", "see `stos volume ls`")


def _contended(name: str) -> StosError:
    return StosError(Code.ABORTED, f"the catalogue entry of {name!r} keeps changing", next_step="try again")
