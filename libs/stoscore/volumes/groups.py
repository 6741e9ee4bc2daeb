"""A snapshot of a group of volumes: one moment for all of them, complete or not there (`stepping` tells how).

    claim taking <attempt> ──> snapshots "<name>-<attempt>" of each volume ──> claim ready <attempt>
                                        └── a failure: drop them, release

What makes it complete is one compare-and-set in the catalogue. Each attempt has names of its own: whoever takes over
from one that died has nothing to do with what that one's requests still do. What no claim names is of no group; it is
dropped by the next attempt, or by its volume's primary when nobody comes (`services/replica/abandoned.py`).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext

from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, invalid, not_found
from stoscore.limits import GROUP_VOLUMES_MAX
from stoscore.messages import CatalogueEntry, GroupClaim, SnapshotView
from stoscore.volumes.deadline import WORTH_RETRYING, Deadline, all_of
from stoscore.volumes.finding import find_ready
from stoscore.volumes.naming import check_snapshot_name
from stoscore.volumes.snapshots import Snapshots
from stoscore.volumes.stepping import Stepping
from stoscore.volumes.stillness import Stillness

ATTEMPTS = 3
_READABLE_CHARS = 47
_CLEAN_UP_S = 10.0


def group_id(claim: GroupClaim) -> str:
    return f"{claim.name}.{claim.attempt}"


def parts_of(group: str) -> tuple[str, str]:
    """(name, attempt) of a group's id."""
    name, _, attempt = group.partition(".")
    return name, attempt


def member_name(claim: GroupClaim) -> str:
    """Of the snapshots that an attempt takes."""
    return f"{claim.name[:_READABLE_CHARS].rstrip('-')}-{claim.attempt}"


class CompleteGroups:
    """Which groups snapshots may be counted to: each name is asked for once."""

    def __init__(self, find: Callable[[str], Awaitable[GroupClaim | None]]):
        """`find`: the claim of a name."""
        self._find = find
        self._claims: dict[str, GroupClaim | None] = {}

    async def has(self, group: str) -> bool:
        """The group of that id was complete once: its snapshots are of it until they are dropped."""
        name, _ = parts_of(group)
        if name not in self._claims:
            self._claims[name] = await self._find(name)
        claim = self._claims[name]
        return claim is not None and claim.stage != "taking" and group_id(claim) == group


class Groups:
    """Every call may be repeated, by anybody."""

    def __init__(self, catalogue: Catalogue, snapshots: Snapshots, stepping: Stepping, stillness: Stillness):
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._stepping = stepping
        self._stillness = stillness

    async def take(
        self, name: str, volumes: Sequence[str], *, timeout_s: float = 30.0
    ) -> tuple[GroupClaim, tuple[SnapshotView, ...]]:
        """Raises ALREADY_EXISTS when the group of that name is of other volumes, ABORTED while one is being deleted or
        taken by somebody else, NOT_FOUND for an unknown volume."""
        check_snapshot_name(name)
        deadline = Deadline.after(timeout_s)
        entries = await all_of(*(find_ready(self._catalogue, volume, deadline) for volume in volumes))
        entries = sorted({entry.volume: entry for entry in entries}.values(), key=lambda entry: entry.volume)
        if not 1 <= len(entries) <= GROUP_VOLUMES_MAX:
            raise invalid(f"a group of {len(entries)} volumes is not possible", f"name 1 to {GROUP_VOLUMES_MAX}")
        for left in reversed(range(ATTEMPTS)):
            claim = GroupClaim(
                name=name,
                attempt=secrets.token_hex(8),
                volumes=tuple(entry.volume for entry in entries),
                created_ms=time.time_ns() // 1_000_000,
            )
            try:
                known = await self._catalogue.claim_group(claim) or await self._attempt(claim, entries, deadline)
            except StosError as error:
                if error.code not in WORTH_RETRYING | {Code.ABORTED} or not left or deadline.passed:
                    raise
                # Another group may want the same volumes, and be refused for the same reason.
                await asyncio.sleep(min(random.uniform(0.1, 0.5), deadline.left_s))  # noqa: S311  (who waits how long decides nothing)
                continue
            if known.volumes != claim.volumes:
                raise StosError(
                    Code.ALREADY_EXISTS,
                    f"the group snapshot {name} is of other volumes: {', '.join(known.volumes)}",
                    next_step="use another name",
                )
            if known.stage == "dropping":
                raise StosError(Code.ABORTED, f"the group snapshot {name} is being deleted", next_step="ask again")
            return known, await self.of(known, timeout_s=deadline.try_s())
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, claim: GroupClaim, entries: Sequence[CatalogueEntry], deadline: Deadline) -> GroupClaim:
        try:
            await self._drop_others(claim, deadline)
            quiet = await self._stillness.find(entries, deadline) or nullcontext
            await self._stepping.take(entries, member_name(claim), deadline, group=group_id(claim), quiet=quiet)
            ready = claim.model_copy(update={"stage": "ready"})
            if await self._catalogue.claim_group(ready) is not None:
                raise StosError(Code.ABORTED, f"the group snapshot {claim.name} is taken by somebody else")
            return ready
        except BaseException:
            await self._clean_up(claim)
            raise

    async def _clean_up(self, claim: GroupClaim) -> None:
        """As far as it goes. A failure whose answer was lost may have been a success: what is complete stays."""
        try:
            known = await self._catalogue.group(claim.name)
            if known is not None and known.attempt == claim.attempt and known.stage != "taking":
                return
            await self._drop_all(claim, _CLEAN_UP_S)
            await self._catalogue.release_group(claim)
        except StosError:
            return

    async def drop(self, name: str, attempt: str, *, timeout_s: float = 30.0) -> None:
        """It is gone with all its snapshots, or was not there."""
        known = await self._catalogue.group(name)
        if known is None or known.attempt != attempt:
            return
        dropping = known.model_copy(update={"stage": "dropping"})
        if await self._catalogue.claim_group(dropping) is not None:
            return  # somebody else has ended this deletion, and the name is another's
        await self._drop_all(known, timeout_s)
        await self._catalogue.release_group(dropping)

    async def find(self, name: str) -> GroupClaim | None:
        """However far it is."""
        check_snapshot_name(name)
        return await self._catalogue.group(name)

    async def get(self, name: str, attempt: str = "") -> GroupClaim:
        """A complete one. Raises NOT_FOUND."""
        known = await self.find(name)
        if known is None or known.stage != "ready" or attempt not in ("", known.attempt):
            raise not_found(f"there is no group snapshot {name}")
        return known

    async def of(self, claim: GroupClaim, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]:
        """Its snapshots. Raises NOT_FOUND when one is gone."""
        get, name = self._snapshots.get, member_name(claim)
        return tuple(await all_of(*(get(volume, name, timeout_s=timeout_s) for volume in claim.volumes)))

    async def _drop_all(self, claim: GroupClaim, timeout_s: float) -> None:
        async def drop(volume: str) -> None:
            try:
                await self._snapshots.drop(volume, member_name(claim), timeout_s=timeout_s)
            except StosError as error:
                if error.code is not Code.NOT_FOUND:
                    raise

        await all_of(*(drop(volume) for volume in claim.volumes))

    async def _drop_others(self, claim: GroupClaim, deadline: Deadline) -> None:
        """What earlier attempts left, whose claim this one has replaced."""

        async def look(volume: str) -> None:
            for view in await self._snapshots.of(volume, timeout_s=deadline.try_s()):
                if parts_of(view.group)[0] == claim.name and view.group != group_id(claim):
                    await self._snapshots.drop(
                        volume, view.snapshot, created_ms=view.created_ms, timeout_s=deadline.try_s()
                    )

        await all_of(*(look(volume) for volume in claim.volumes))
