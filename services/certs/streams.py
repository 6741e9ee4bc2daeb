"""The stream that keeps every node's events for `stos events`: bounded in age and bytes, oldest dropped."""

from __future__ import annotations

from typing import Any

from stoscore.subjects import EVENTS_STREAM, PREFIX


def events_config(max_bytes: int, max_age_s: int, replicas: int = 1) -> dict[str, Any]:
    return {
        "name": EVENTS_STREAM,
        "description": "stos: decisions and their reasons",
        "subjects": [f"{PREFIX}.events.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": max_bytes,
        "max_age": max_age_s * 1_000_000_000,
        "max_msg_size": 64 * 1024,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "discard": "old",
        "allow_direct": True,
        "duplicate_window": min(120, max_age_s) * 1_000_000_000,
    }
