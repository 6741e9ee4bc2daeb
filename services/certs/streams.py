"""The streams: the catalogue's bucket, decisions, audit. certs makes them, since nobody else may make any.

What any identity may write to is kept in a way that it can't use against the others. A stream of events sends no
acknowledgement (the writer could have it sent to any subject). A reporter's audit events have a bounded share, so
that who is stolen can't push the evidence of it out by writing more; and they have a stream of their own, which no
flood of decisions touches. The bucket takes no orders to roll up or purge.
"""

from __future__ import annotations

from typing import Any

from stoscore.bus import Bus
from stoscore.jetstream import BUCKET_STREAM, ensure_stream
from stoscore.subjects import AUDIT, AUDIT_STREAM, CATALOGUE_BUCKET, DECISION, EVENTS, EVENTS_STREAM

MESSAGE_BYTES_MAX = 64 * 1024
AUDIT_BYTES_MAX = 4 * 1024
AUDIT_EACH_MAX = 8192
"""Audit events that are kept of one reporter: 32 MiB at the very most."""
AUDIT_SHARE = 0.5
"""Of the bytes for events."""
DUPLICATE_WINDOW_S = 120


def configurations(events_bytes: int, events_age_s: int, replicas: int) -> list[dict[str, Any]]:
    audit_bytes = int(events_bytes * AUDIT_SHARE)
    decisions = _events(EVENTS_STREAM, DECISION, events_bytes - audit_bytes, events_age_s, replicas)
    audit = _events(AUDIT_STREAM, AUDIT, audit_bytes, events_age_s, replicas)
    return [
        _bucket(replicas),
        decisions | {"max_msg_size": MESSAGE_BYTES_MAX, "max_msgs_per_subject": -1},
        audit | {"max_msg_size": AUDIT_BYTES_MAX, "max_msgs_per_subject": AUDIT_EACH_MAX},
    ]


async def make_streams(bus: Bus, events_bytes: int, events_age_s: int, replicas: int = 1) -> None:
    """Make them, or bring existing ones to this configuration. Raises StosError."""
    for configuration in configurations(events_bytes, events_age_s, replicas):
        await ensure_stream(bus, configuration)


def _bucket(replicas: int) -> dict[str, Any]:
    """The stream below the bucket, as NATS clients expect a key-value bucket to look."""
    return {
        "name": BUCKET_STREAM,
        "description": "stos: volume names and node addresses",
        "subjects": [f"$KV.{CATALOGUE_BUCKET}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "discard": "new",
        "allow_rollup_hdrs": False,
        "allow_direct": False,
        "allow_msg_ttl": True,
        "deny_delete": True,
        "deny_purge": True,
        "duplicate_window": DUPLICATE_WINDOW_S * 1_000_000_000,
    }


def _events(name: str, kind: str, max_bytes: int, max_age_s: int, replicas: int) -> dict[str, Any]:
    """Bounded in age and bytes, oldest dropped."""
    return {
        "name": name,
        "description": f"stos: {kind} events",
        "subjects": [f"{EVENTS}.*.{kind}"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": max_bytes,
        "max_age": max_age_s * 1_000_000_000,
        "max_msgs": -1,
        "discard": "old",
        "no_ack": True,
        "allow_direct": False,
        "deny_delete": True,
        "deny_purge": True,
        "duplicate_window": min(DUPLICATE_WINDOW_S, max_age_s) * 1_000_000_000,
    }
