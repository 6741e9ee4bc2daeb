"""What goes into a support bundle, part by part: each asks, and adds what it got."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial

from services.cli import doctor, events, trace, views
from services.cli.asking import ask_all, of_each_role
from services.cli.bundle import Bundle
from services.cli.checks import examine
from services.cli.cluster import Session
from services.cli.roster import call_roll
from stoscore import subjects
from stoscore.certs_messages import IdentityPage, ListIdentities
from stoscore.errors import StosError
from stoscore.messages import Capacity, CapacityRequest
from stoscore.process_messages import MetricModel, MetricsPage, MetricsRequest, SettingsPage, SettingsRequest

Gather = Callable[[], Awaitable[None]]
EVENTS_MAX = 100_000
"""of each kind; the newest"""


def parts(session: Session, bundle: Bundle, since_unix_ms: int, traces: int) -> dict[str, Gather]:
    """What it is called -> the work."""
    return {
        "nodes": partial(_nodes, session, bundle),
        "volumes": partial(_volumes, session, bundle),
        "identities": partial(_identities, session, bundle),
        "placement's capacity": partial(_capacity, session, bundle),
        "settings": partial(_settings, session, bundle),
        "metrics": partial(_metrics, session, bundle),
        "decisions": partial(_events, session, bundle, events.Kind.DECISION, since_unix_ms),
        "audit": partial(_events, session, bundle, events.Kind.AUDIT, since_unix_ms),
        "traces": partial(_traces, session, bundle, since_unix_ms, traces),
        "doctor": partial(_doctor, session, bundle),
    }


async def _nodes(session: Session, bundle: Bundle) -> None:
    """Each node's status as it tells it, with the record that each of its voters has stored."""
    entries = await session.catalogue.nodes()
    bundle.add_json("nodes.json", [entry.model_dump(mode="json") for entry in entries])
    for node, status in (await call_roll(session.bus, entries)).items():
        if isinstance(status, StosError):
            bundle.lacks(f"node {node}", str(status))
        else:
            bundle.add_json(f"nodes/{node}.json", status.model_dump(mode="json"))


async def _volumes(session: Session, bundle: Bundle) -> None:
    found = await session.volumes.list()
    bundle.add_json("volumes.json", [views.volume(entry, status) for entry, status in found])
    bundle.add_json("catalogue.json", [entry.model_dump(mode="json") for entry, _ in found])


async def _identities(session: Session, bundle: Bundle) -> None:
    found, after = [], ""
    while True:
        page = await session.bus.request(subjects.certs("ls"), ListIdentities(after=after), IdentityPage)
        found += [one.model_dump(mode="json") for one in page.identities]
        if not page.more or not page.identities:
            break
        after = f"{page.identities[-1].kind}/{page.identities[-1].name}"
    bundle.add_json("identities.json", {"authority": page.authority.model_dump(mode="json"), "identities": found})


async def _capacity(session: Session, bundle: Bundle) -> None:
    request = CapacityRequest(copies=1)
    found = await session.bus.request(subjects.placement("capacity"), request, Capacity, timeout_s=10.0)
    bundle.add_json("capacity.json", found.model_dump(mode="json"))


async def _settings(session: Session, bundle: Bundle) -> None:
    pages = await ask_all(session.bus, "settings", SettingsRequest(), SettingsPage)
    for process, page in sorted(pages.items()):
        bundle.add_json(f"settings/{process.replace('/', '-')}.json", page.settings)
    await _name_silent(session, bundle, set(pages), "settings")


async def _metrics(session: Session, bundle: Bundle) -> None:
    samples: dict[str, list[MetricModel]] = {}
    after = 0
    while True:
        pages = await ask_all(session.bus, "metrics", MetricsRequest(after=after), MetricsPage)
        for process, page in pages.items():
            samples.setdefault(process, []).extend(page.samples)
        after = max((page.next for page in pages.values()), default=0)
        if not after:
            break
    for process, told in sorted(samples.items()):
        rows = [one.model_dump(mode="json", exclude={"v"}) for one in told]
        bundle.add_json(f"metrics/{process.replace('/', '-')}.json", rows)
    await _name_silent(session, bundle, set(samples), "metrics")


async def _name_silent(session: Session, bundle: Bundle, answered: set[str], what: str) -> None:
    for entry in await session.catalogue.nodes():
        if f"node/{entry.node}" not in answered:
            bundle.lacks(f"{what} of node {entry.node}", "did not answer")


async def _events(session: Session, bundle: Bundle, kind: events.Kind, since_unix_ms: int) -> None:
    found = await events.past(session, [kind], since_unix_ms, "")
    if len(found) > EVENTS_MAX:
        bundle.lacks(f"{len(found) - EVENTS_MAX} older events ({kind.value})", "too many")
    lines = [json.dumps(events.document(event)) for event in found[-EVENTS_MAX:]]
    bundle.add(f"events/{kind.value}.jsonl", "".join(f"{line}\n" for line in lines))


async def _traces(session: Session, bundle: Bundle, since_unix_ms: int, newest: int) -> None:
    """What failed comes first: it is what somebody will look for."""
    found = await trace.summaries_of_all(session, since_unix_ms)
    bundle.add_json("traces.json", found)
    wanted = sorted(found, key=lambda view: not view["errors"])[:newest]
    request = MetricsRequest(prefixes=["stos.build"])
    known = of_each_role(await ask_all(session.bus, "metrics", request, MetricsPage))
    for view in wanted:
        told, _ = await trace.spans_of(session, view["trace_id"], known)
        bundle.add_json(f"traces/{view['trace_id']}.json", [trace.document(item) for item in told])


async def _doctor(session: Session, bundle: Bundle) -> None:
    bundle.add_json("doctor.json", [asdict(finding) for finding in examine(await doctor.gather(session))])
