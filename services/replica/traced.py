"""One request in many, followed through all nodes that work on it: one trace from the client to each copy's disk.

    frontend      io.write ────────────────────────────── from the client's request to its answer
    primary         primary.write ─────────────────────── from its frame to the answer
    each copy         store.write ─────────────────────── from its frame until it is stored, marks included

Nothing more than a flag travels with such a request, and a number of eight bytes with the write that it becomes: the
trace and its first spans are named by what every node knows, the volume and the frontend's number of the request. A
request that is sent again after a failover keeps its number, so both primaries are found in one trace.

What is followed is forgotten when it is answered or stored; what never is, because a link ended, when others come.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest, xxh3_128_hexdigest

from services.replica.peers import Type
from stoscore import telemetry
from stoscore.units import MS

ONE_IN = 16_384
"""Of a frontend's requests; a normal one is seen beside those that were slow or failed."""
FOLLOWED_MAX = 64
"""At a time, of requests and of writes."""
APART_NS = 10 * MS
"""Who flags all of his requests has no more of them followed."""

_KINDS = {Type.IO_READ: "read", Type.IO_READS: "read", Type.IO_ZERO: "zero", Type.IO_FLUSH: "flush"}
SLOW_NS = 500 * MS
"""Longer than a lease: something was decided meanwhile, and the trace says what."""
K = TypeVar("K")
V = TypeVar("V")


def key_of(volume: bytes, request: int) -> int:
    return int(xxh3_64_intdigest(volume + request.to_bytes(8, "little")))


def frontend_span(volume: bytes, key: int) -> str:
    return _traceparent(volume, key, b"frontend")


def primary_span(volume: bytes, key: int) -> str:
    return _traceparent(volume, key, b"primary")


def _traceparent(volume: bytes, key: int, who: bytes) -> str:
    about = volume + key.to_bytes(8, "little")
    return f"00-{xxh3_128_hexdigest(about)}-{xxh3_64_hexdigest(about + who)}-01"


def sampled(first: int, last: int) -> int:
    """The request to follow among those with these numbers; 0: none."""
    found = last - last % ONE_IN
    return found if found >= first else 0


class _Asked(NamedTuple):
    key: int
    kind: str
    since_ns: int


class _Written(NamedTuple):
    volume: bytes
    key: int
    since_ns: int


class Traced:
    """What one node is asked to follow. Empty nearly always, which is all that the others' requests cost."""

    def __init__(self) -> None:
        self.requests: dict[tuple[bytes, int, int], _Asked] = {}
        """(volume, session, request) -> a request at its primary"""
        self.writes: dict[int, _Written] = {}
        """token -> a write that this copy is to store"""
        self._last_ns = -APART_NS

    def asked(self, volume: bytes, session: int, request: int, kind: Type, token: int, now_ns: int) -> None:
        """A frontend wants this one to be followed; `token` of its payload, if it writes."""
        if now_ns - self._last_ns < APART_NS:
            return
        self._last_ns = now_ns
        key = key_of(volume, request)
        _hold(self.requests, (volume, session, request), _Asked(key, _KINDS.get(kind, "write"), now_ns))
        if token:
            _hold(self.writes, token, _Written(volume, key, now_ns))

    def sent(self, volume: bytes, key: int, token: int, now_ns: int) -> None:
        """The primary wants this write to be followed."""
        if now_ns - self._last_ns >= APART_NS:
            self._last_ns = now_ns
            _hold(self.writes, token, _Written(volume, key, now_ns))

    def stored(self, token: int, began_ns: int, now_ns: int, blocks: int) -> None:
        """Since `began_ns` it was being written; before that it waited."""
        written = self.writes.pop(token, None)
        if written is not None:
            volume, key, since_ns = written
            telemetry.record(
                "store.write",
                now_ns - since_ns,
                parent=primary_span(volume, key),
                volume=volume.hex(),
                blocks=blocks,
                waited_us=(began_ns - since_ns) // 1000,
            )

    def answered(self, volume: bytes, session: int, requests: Iterable[int], errno: int, now_ns: int) -> None:
        for request in requests:
            asked = self.requests.pop((volume, session, request), None)
            if asked is not None:
                telemetry.record(
                    f"primary.{asked.kind}",
                    now_ns - asked.since_ns,
                    parent=frontend_span(volume, asked.key),
                    promised=primary_span(volume, asked.key),
                    error=f"errno {errno}" if errno else "",
                    volume=volume.hex(),
                )


def keep_if_slow(what: str, volume: str, took_ns: int, failure: Exception | None) -> None:
    """Disk work that was slow or failed has a span of its own, whichever requests waited for it."""
    if failure is not None or took_ns >= SLOW_NS:
        telemetry.record(what, took_ns, error=str(failure or ""), volume=volume)


def _hold(held: dict[K, V], name: K, what: V) -> None:
    if len(held) >= FOLLOWED_MAX:
        del held[next(iter(held))]
    held[name] = what
