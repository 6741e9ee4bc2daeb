"""One request in many, followed through all nodes that work on it: one trace from the client to each copy's disk.

    frontend      io.write ────────────────────────────── from the client's request to its answer
    primary         primary.write ─────────────────────── from its frame to the answer
    each copy         store.write ─────────────────────── from its frame until it is stored, marks included

So is a trim, a write of zeros (`store.zero`) and a flush (`store.flush`, until the copy's disk is synced). Nothing more
than a flag travels with such a request, and a key of four bytes with what it becomes: the trace and its first spans are
named by what every node knows, the volume and the frontend's number of the request. A request that is sent again after
a failover keeps its number, so both primaries are found in one trace.

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
KEY_MAX = (1 << 32) - 1
"""As large as the room that every header has for it. It tells apart what one volume has traced lately, and no more."""
K = TypeVar("K")
V = TypeVar("V")
Work = int | tuple[str, bytes, int, int]
"""What a copy is to do: a write is named by its payload's token, anything else by what it is."""


def zeroing(volume: bytes, block: int, count: int) -> Work:
    return ("store.zero", volume, block, count)


def flushing(volume: bytes, ticket: int) -> Work:
    """At a copy that follows."""
    return ("store.flush", volume, ticket, 0)


def syncing(volume: bytes, ticket: int) -> Work:
    """At the primary's own copy, which counts its tickets by itself."""
    return ("store.flush", volume, ticket, 1)


def key_of(volume: bytes, request: int) -> int:
    return int(xxh3_64_intdigest(volume + request.to_bytes(8, "little"))) & KEY_MAX


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


class _Wanted(NamedTuple):
    volume: bytes
    key: int
    since_ns: int


class Traced:
    """What one node is asked to follow. Empty nearly always, which is all that the others' requests cost."""

    def __init__(self) -> None:
        self.requests: dict[tuple[bytes, int, int], _Asked] = {}
        """(volume, session, request) -> a request at its primary"""
        self.work: dict[Work, _Wanted] = {}
        """what this copy is to store or to sync"""
        self._last_ns = -APART_NS

    def asked(self, volume: bytes, session: int, request: int, kind: Type, work: Work, now_ns: int) -> None:
        """A frontend wants this one to be followed; `work`: what it asks of each copy, 0 when that is not known yet."""
        if now_ns - self._last_ns < APART_NS:
            return
        self._last_ns = now_ns
        key = key_of(volume, request)
        _hold(self.requests, (volume, session, request), _Asked(key, _KINDS.get(kind, "write"), now_ns))
        if work:
            _hold(self.work, work, _Wanted(volume, key, now_ns))

    def became(self, volume: bytes, session: int, request: int, work: Work, now_ns: int) -> None:
        """That request, if it is followed, now waits for this."""
        asked = self.requests.get((volume, session, request))
        if asked is not None:
            _hold(self.work, work, _Wanted(volume, asked.key, now_ns))

    def sent(self, volume: bytes, key: int, work: Work, now_ns: int) -> None:
        """The primary wants this to be followed."""
        if now_ns - self._last_ns >= APART_NS:
            self._last_ns = now_ns
            _hold(self.work, work, _Wanted(volume, key, now_ns))

    def key(self, work: Work) -> int:
        """0 when it is not followed."""
        wanted = self.work.get(work)
        return wanted.key if wanted is not None else 0

    def stored(self, work: Work, began_ns: int, now_ns: int, blocks: int) -> None:
        """Since `began_ns` it was being written; before that it waited."""
        wanted = self.work.pop(work, None)
        if wanted is None:
            return
        took_ns, parent, volume = now_ns - wanted.since_ns, primary_span(wanted.volume, wanted.key), wanted.volume.hex()
        waited_us = (began_ns - wanted.since_ns) // 1000
        if isinstance(work, int):
            telemetry.record("store.write", took_ns, parent=parent, volume=volume, blocks=blocks, waited_us=waited_us)
        else:
            telemetry.record("store.zero", took_ns, parent=parent, volume=volume, blocks=blocks, waited_us=waited_us)

    def synced(self, work: Work, now_ns: int) -> None:
        wanted = self.work.pop(work, None)
        if wanted is not None:
            parent = primary_span(wanted.volume, wanted.key)
            telemetry.record("store.flush", now_ns - wanted.since_ns, parent=parent, volume=wanted.volume.hex())

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
