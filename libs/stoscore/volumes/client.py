"""`Volumes`: what the command line and the CSI service may do with volumes.

A volume is named by its id or, where people type it, by its name. Every call is idempotent and has a
deadline; a StosError says whose fault a failure is and what to do next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, invalid, not_found, precondition
from stoscore.limits import REPLICAS_MAX, VOLUME_BYTES_MAX, valid_node_name
from stoscore.messages import (
    Apart,
    Attached,
    AttachedCount,
    AttachmentModel,
    AttachVolume,
    Capacity,
    CatalogueEntry,
    CloseFrontend,
    CountAttached,
    DetachVolume,
    Empty,
    ExpandVolume,
    FailureMode,
    FrontendOpened,
    Moved,
    MoveVolume,
    OnUnavailable,
    OpenFrontend,
    Overridden,
    OverrideVolume,
    PolicySet,
    RecordModel,
    RemoteExport,
    ReplicaStatus,
    SetPolicy,
    VolumeExpanded,
)
from stoscore.units import format_size
from stoscore.volumes.creation import Creation
from stoscore.volumes.deadline import Deadline, retry
from stoscore.volumes.deletion import Deletion
from stoscore.volumes.finding import find_entry, find_ready
from stoscore.volumes.groups import Groups
from stoscore.volumes.naming import SourceSpec, check_spec, round_size
from stoscore.volumes.nodes import Nodes
from stoscore.volumes.origin import Origins
from stoscore.volumes.override import Intent, note_generation
from stoscore.volumes.primary import DESCRIBE_S, Replicas
from stoscore.volumes.snapshots import Snapshots
from stoscore.volumes.stepping import Stepping
from stoscore.volumes.stillness import Stillness
from stoscore.volumes.survey import Survey, generation_of

GET_S = 2.0
"""How long a listing waits for a volume's primary before it shows the volume without one."""
OVERRIDE_S = 45.0
"""A voter listens for the others for two leases, of up to 10 s, before it goes on alone; after a start it is silent for
another one first."""
SURVEY_S = 3.0
"""How long an override waits for every node's answer: one that is only slow would count as silent."""
NOTE_S = 10.0
"""An override that has happened is told to the catalogue, though the caller's time is over."""
Rows = list[tuple[CatalogueEntry, Survey]]


class Volumes:
    """The volumes of one cluster, seen through its bus and catalogue."""

    def __init__(self, bus: Bus, catalogue: Catalogue):
        self._catalogue = catalogue
        self._nodes = Nodes(bus)
        self._replicas = replicas = Replicas(bus, catalogue)
        stepping, stillness = Stepping(bus, replicas), Stillness(bus, replicas)
        self.snapshots = Snapshots(catalogue, replicas, stepping, stillness)
        self.groups = Groups(catalogue, self.snapshots, stepping, stillness)
        origins = Origins(self.snapshots)
        self._creation = Creation(bus, catalogue, replicas, origins)
        self._deletion = Deletion(bus, catalogue, replicas, origins, self._creation)

    async def create(
        self,
        name: str,
        size_bytes: int,
        *,
        replicas: int = 2,
        zones: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        failure_mode: FailureMode = "alwayson",
        on_unavailable: OnUnavailable = "suspend",
        near: str | None = None,
        source: SourceSpec | None = None,
        timeout_s: float = 30.0,
    ) -> ReplicaStatus:
        """A new volume, or the one that was made with that name, size, policy and source: its primary's status. The
        size is rounded up to a whole MiB. `near`: the node that is to have a copy, if it can. Goes on with a create
        that was interrupted."""
        spec = check_spec(name, size_bytes, replicas, zones, labels, failure_mode, on_unavailable, source)
        return await self._creation.create(spec, Deadline.after(timeout_s), near=near)

    async def get(self, name_or_id: str, *, timeout_s: float = GET_S) -> tuple[CatalogueEntry, ReplicaStatus | None]:
        """The entry and the primary's status; None while nobody serves. Raises NOT_FOUND."""
        deadline = Deadline.after(timeout_s)
        entry = await self._entry(name_or_id, deadline)
        return entry, await self._status(entry, deadline)

    async def page(self, after: str, limit: int, *, timeout_s: float = GET_S) -> tuple[Rows, str]:
        """Up to `limit` volumes whose names come after that one, each with what its nodes say of it, and the name to
        go on after; "" at the end. Its cost does not grow with the number of volumes that there are."""
        entries, following = await retry(Deadline.after(timeout_s), lambda _: self._catalogue.page(after, limit))
        surveys = await self._replicas.survey_many(entries, timeout_s=min(timeout_s, DESCRIBE_S))
        return [(entry, surveys[entry.volume]) for entry in entries], following

    async def list(self, *, timeout_s: float = GET_S) -> list[tuple[CatalogueEntry, ReplicaStatus | None]]:
        """All volumes by name, each as `get` gives it; those that nobody serves are listed too."""
        entries = await retry(Deadline.after(timeout_s), lambda _: self._catalogue.list())
        served = await self._replicas.served(entries, timeout_s=min(timeout_s, DESCRIBE_S))
        return [(entry, served.get(entry.volume)) for entry in sorted(entries, key=lambda entry: entry.name)]

    async def attached_to(self, node: str, *, timeout_s: float = GET_S) -> int:
        """How many volumes that node uses, as far as their leaders can be asked."""
        known = await retry(Deadline.after(timeout_s), lambda _: self._catalogue.nodes())

        async def count(asked: str) -> int:
            try:
                found = await self._nodes.once(asked, "attached", CountAttached(node=node), AttachedCount, DESCRIBE_S)
            except StosError:
                return 0  # what it led is led by another now, or is not in use
            return found.volumes

        return sum(await asyncio.gather(*(count(entry.node) for entry in known)))

    async def capacity(
        self, replicas: int, *, zones: Sequence[str] = (), apart: Apart = "", timeout_s: float = 30.0
    ) -> Capacity:
        """How much room there is for volumes with that many replicas."""
        return await self._creation.capacity(replicas, zones, apart, Deadline.after(timeout_s))

    async def survey(self, name_or_id: str) -> tuple[CatalogueEntry, Survey]:
        """The entry and what each of the volume's nodes says of it."""
        entry = await self._entry(name_or_id, Deadline.after(GET_S))
        return entry, await self._replicas.survey(entry)

    async def attach(self, volume: str, node: str, *, force: str = "", timeout_s: float = 30.0) -> Attached:
        """Make `node` the one that may do I/O; the same again gives the same attach epoch. `force`: fence the node
        that holds the attachment though it lives, for this reason. Raises NOT_FOUND for an unknown node or volume,
        FAILED_PRECONDITION when it is attached elsewhere."""
        deadline = Deadline.after(timeout_s)
        entry = await self._ready(volume, deadline)
        await self._check_node(node, deadline)
        message = AttachVolume(node=node, force=force)
        return await self._replicas.ask(entry, "attach", message, Attached, deadline)

    async def move_primary(self, volume: str, to: str | None = None, *, timeout_s: float = 30.0) -> ReplicaStatus:
        """Hand the volume over to the copy on node `to`, or to whichever can take it: the status of the primary that
        serves then. Raises NOT_FOUND, FAILED_PRECONDITION with what stands against it."""
        deadline = Deadline.after(timeout_s)
        entry = await self._ready(volume, deadline)
        before = await self._replicas.find(entry, deadline)
        if before.node == to:
            raise precondition(f"node {to} is already the primary of volume {entry.name}", "nothing is left to do")
        message = MoveVolume(to=to, away_from=before.node)
        moved = await self._replicas.ask(entry, "move", message, Moved, deadline)
        if to not in (None, moved.node):
            raise StosError(
                Code.ABORTED,
                f"node {moved.node} became the primary of volume {entry.name} meanwhile",
                next_step="repeat the command",
            )
        return await self._replicas.find(entry, deadline, first=moved.node)

    async def override(
        self, volume: str, on: str, lost: Sequence[str], reason: str, *, accept_loss: bool, timeout_s: float = 60.0
    ) -> ReplicaStatus:
        """The majority of the volume's voters is lost for good: go on with the copy on node `on` alone. Nobody is
        attached then. Raises NOT_FOUND, FAILED_PRECONDITION with what stands against it. Repeated after it went
        through, it only sees to it that the catalogue knows of that."""
        deadline = Deadline.after(timeout_s)
        entry = await self._ready(volume, deadline)
        known = await retry(deadline, lambda _: self._catalogue.nodes())
        survey = await self._replicas.survey(entry, [on, *(node.node for node in known)], timeout_s=SURVEY_S)
        chosen = survey.statuses.get(on)
        if chosen is not None and generation_of(chosen) > entry.generation:
            entry = await note_generation(self._catalogue, entry, generation_of(chosen), deadline)
        intent = Intent(entry, survey, on, tuple(lost), accept_loss)
        intent.check()
        message = OverrideVolume(
            lost=intent.lost_voters, reason=reason, accept_loss=accept_loss, above=intent.generation
        )
        verb = f"vol.{entry.volume}.override"
        begun = await self._nodes.once(on, verb, message, Overridden, deadline.try_s(OVERRIDE_S))
        noting = Deadline.after(max(NOTE_S, deadline.left_s))
        entry = await note_generation(self._catalogue, entry, begun.record.generation, noting)
        return await self._replicas.find(entry, deadline, first=on)

    async def set_policy(
        self,
        volume: str,
        *,
        replicas: int | None = None,
        failure_mode: FailureMode | None = None,
        on_unavailable: OnUnavailable | None = None,
        timeout_s: float = 30.0,
    ) -> RecordModel:
        """Change what is named, in use or not: the record with it, as soon as it is agreed on. Copies are made or
        removed afterwards. Raises INVALID_ARGUMENT for what does not fit together."""
        if replicas is not None and not 0 <= replicas <= REPLICAS_MAX:
            raise invalid(f"{replicas} replicas are not possible", f"choose 0 to {REPLICAS_MAX}")
        deadline = Deadline.after(timeout_s)
        entry = await self._ready(volume, deadline)
        message = SetPolicy(replicas=replicas, failure_mode=failure_mode, on_unavailable=on_unavailable)
        answer = await self._replicas.ask(entry, "policy", message, PolicySet, deadline)
        return answer.record

    async def expand(self, volume: str, size_bytes: int, *, timeout_s: float = 30.0) -> RecordModel:
        """At least that size, rounded up to a whole MiB, in use or not: the record with it, as soon as it is agreed on.
        A frontend that is open learns it when it is opened again. Raises OUT_OF_RANGE, RESOURCE_EXHAUSTED."""
        if not 0 < size_bytes <= VOLUME_BYTES_MAX:
            raise StosError(
                Code.OUT_OF_RANGE,
                f"a volume of {size_bytes} bytes is not possible",
                next_step=f"choose a size of at most {format_size(VOLUME_BYTES_MAX)}",
            )
        deadline = Deadline.after(timeout_s)
        entry = await self._ready(volume, deadline)
        message = ExpandVolume(size_bytes=round_size(size_bytes))
        answer = await self._replicas.ask(entry, "expand", message, VolumeExpanded, deadline)
        return answer.record

    async def detach(self, volume: str, node: str | None = None, *, timeout_s: float = 30.0) -> None:
        """End the attachment, only that of `node` if one is named."""
        deadline = Deadline.after(timeout_s)
        entry = await self._entry(volume, deadline)
        if entry.state == "ready":
            await self._replicas.ask(entry, "detach", DetachVolume(node=node), Empty, deadline)

    async def delete(self, name_or_id: str, *, timeout_s: float = 30.0) -> bool:
        """Delete the volume; False when there was none. Raises FAILED_PRECONDITION while it is attached."""
        deadline = Deadline.after(timeout_s)
        try:
            entry = await self._entry(name_or_id, deadline)
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return False
            raise
        await self._deletion.delete(entry, deadline)
        return True

    async def open_frontend(
        self, volume: str, node: str, *, attached: Attached | None = None, timeout_s: float = 30.0
    ) -> FrontendOpened:
        """Serve the volume over NBD on the node that it is attached to. `attached` saves asking for the
        record again. Raises FAILED_PRECONDITION when it is not attached to that node."""
        deadline = Deadline.after(timeout_s)
        record = attached.record if attached is not None else await self._record(volume, deadline)
        attachment = record.attachment
        if attachment is None or attachment.node != node:
            raise precondition(
                f"the volume is attached to {attachment.node if attachment else 'no node'}, not to {node}",
                "attach it to that node first",
            )
        return await self._open(record, attachment, None, deadline)

    async def export(
        self, volume: str, listen: str, clients: Sequence[str], *, timeout_s: float = 30.0
    ) -> FrontendOpened:
        """Offer the volume over TCP with TLS as well, at `listen` (host:port) of the node where it is used, to the
        named clients (user/eve) and nobody else. The same again changes nothing, other clients are put in force at
        once. Raises FAILED_PRECONDITION when the volume is used nowhere, or the address can't be had."""
        deadline = Deadline.after(timeout_s)
        try:
            remote = RemoteExport(address=listen, clients=sorted(set(clients)))
        except ValidationError:
            raise invalid(
                f"{', '.join(clients) or 'nobody'} at {listen[:80]!r} is no export",
                "name 1 to 64 clients as user/NAME, node/NAME or svc/NAME, and an address as host:port",
            ) from None
        record = await self._record(volume, deadline)
        if record.attachment is None:
            raise precondition(f"volume {record.name} is used nowhere", "open it first: `stos volume connect`")
        return await self._open(record, record.attachment, remote, deadline)

    async def unexport(self, volume: str, *, timeout_s: float = 30.0) -> str | None:
        """End that; the volume stays in use. The node, or None when the volume is used nowhere. Idempotent."""
        deadline = Deadline.after(timeout_s)
        record = await self._record(volume, deadline)
        if record.attachment is None:
            return None
        request = CloseFrontend(volume=record.volume, remote_only=True)
        await self._nodes.ask(record.attachment.node, "close", request, Empty, deadline)
        return record.attachment.node

    async def _record(self, volume: str, deadline: Deadline) -> RecordModel:
        """The volume's record as its primary has it."""
        entry = await self._ready(volume, deadline)
        status = await self._replicas.find(entry, deadline)
        if status.record is None:
            raise precondition(f"volume {entry.name} has no record yet", "repeat its create command")
        return status.record

    async def _open(
        self, record: RecordModel, attachment: AttachmentModel, remote: RemoteExport | None, deadline: Deadline
    ) -> FrontendOpened:
        request = OpenFrontend(
            volume=record.volume,
            name=record.name,
            size_bytes=record.size_bytes,
            attach_epoch=attachment.attach_epoch,
            voters=record.voters,
            remote=remote,
        )
        return await self._nodes.ask(attachment.node, "open", request, FrontendOpened, deadline)

    async def close_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> None:
        """Stop serving the volume on that node. Idempotent."""
        deadline = Deadline.after(timeout_s)
        entry = await self._entry(volume, deadline)
        await self._nodes.ask(node, "close", CloseFrontend(volume=entry.volume), Empty, deadline)

    async def _entry(self, name_or_id: str, deadline: Deadline) -> CatalogueEntry:
        return await find_entry(self._catalogue, name_or_id, deadline)

    async def _ready(self, name_or_id: str, deadline: Deadline) -> CatalogueEntry:
        return await find_ready(self._catalogue, name_or_id, deadline)

    async def _status(self, entry: CatalogueEntry, deadline: Deadline) -> ReplicaStatus | None:
        try:
            return await self._replicas.find(entry, deadline)
        except StosError as error:
            if error.code in (Code.UNAVAILABLE, Code.NOT_FOUND):
                return None
            raise

    async def _check_node(self, node: str, deadline: Deadline) -> None:
        """An attachment to a node that does not exist could never be used nor seen to be dead."""
        if not valid_node_name(node):
            raise invalid(f"{node!r} is no possible node name", "see `stos node ls`")
        known = {entry.node for entry in await retry(deadline, lambda _: self._catalogue.nodes())}
        if node not in known:
            raise not_found(f"there is no node {node}", f"there are: {', '.join(sorted(known)) or 'none'}")
