"""The placement service: answers `placement.rank` and `placement.explain`, keeps nothing, decides by plugins.

Any number of instances share the queue group; each answer names its instance. The caller's deadline is the
only retry rule: an instance that dies with a request in hand is answered for by another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.placement import plan
from services.placement.bids import Bidding
from services.placement.policies import Policy
from services.placement.room import room
from services.placement.settings import PlacementSettings
from stoscore import plugins, subjects, telemetry
from stoscore.bus import RequestContext
from stoscore.errors import Code, StosError
from stoscore.host import HostContext
from stoscore.messages import Bid, Capacity, CapacityRequest, Ranking, RankRequest
from stoscore.settings import load

QUEUE = "placement"
POLICY_GROUP = "stos.placement_policies"
ANSWER_MS = 100
"""Kept of the caller's time for the answer's way back."""

PolicyFactory = Callable[[PlacementSettings], Policy]


def load_policies(settings: PlacementSettings) -> tuple[Policy, ...]:
    """The policies that the settings name, in that order. Raises StosError NOT_FOUND for an unknown one."""
    factories: list[PolicyFactory] = [plugins.load(POLICY_GROUP, name) for name in settings.policies]
    return tuple(factory(settings) for factory in factories)


@dataclass(frozen=True, slots=True)
class Placement:
    """Turns one request into one ranking: gather, plan, tell."""

    bidding: Bidding
    settings: PlacementSettings
    policies: tuple[Policy, ...]
    instance: str

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """The nodes for a volume, or the StosError that says why there are none."""
        try:
            try:
                ranking = self._plan(await self._bids(request.size_bytes, self.settings.bid_wait_ms), request)
            except StosError as error:
                if not _may_be_lateness(error):
                    raise
                patience_ms = min(self.settings.bid_patience_ms, int(context.left_s() * 1000) - ANSWER_MS)
                if patience_ms <= self.settings.bid_wait_ms:
                    raise
                ranking = self._plan(await self._bids(request.size_bytes, patience_ms, thorough=True), request)
        except StosError as error:
            _log.info("placement refused: %s", error.message, extra={"volume": request.volume, "code": error.code})
            raise
        _log.info(
            "placed %s on %s",
            request.name,
            ", ".join(choice.node for choice in ranking.chosen),
            extra={
                "volume": request.volume,
                "chosen": {choice.node: choice.reasons for choice in ranking.chosen},
                "refused": {refusal.node: refusal.reason for refusal in ranking.refused},
            },
        )
        return ranking

    async def explain(self, request: RankRequest, context: RequestContext) -> Ranking:
        """The same decision, told as far as it gets, without an error for a shortage."""
        offers = await self._bids(request.size_bytes, self.settings.bid_wait_ms)
        return plan.explain(offers, request, self.policies, instance=self.instance)

    async def capacity(self, request: CapacityRequest, context: RequestContext) -> Capacity:
        """How much room there is, by the bids of the moment."""
        return room(await self._bids(0, self.settings.bid_wait_ms), request, self.policies)

    async def _bids(self, size_bytes: int, wait_ms: int, *, thorough: bool = False) -> list[Bid]:
        return await self.bidding.gather(size_bytes, wait_s=wait_ms / 1000, thorough=thorough)

    def _plan(self, offers: list[Bid], request: RankRequest) -> Ranking:
        with telemetry.span(
            "placement.plan",
            volume=request.volume,
            bids=len(offers),
            policies=",".join(policy.name for policy in self.policies),
        ):
            return plan.plan(offers, request, self.policies, instance=self.instance)


def _may_be_lateness(error: StosError) -> bool:
    """Whether more bids could change this outcome."""
    return error.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE)


class PlacementService:
    """The plugin that `stos serve placement` runs."""

    name = "placement"

    async def run(self, context: HostContext) -> None:
        settings = load(PlacementSettings, self.name)
        placement = Placement(Bidding(context.bus), settings, load_policies(settings), context.identity.name)
        await asyncio.gather(
            context.bus.serve(subjects.placement("rank"), RankRequest, placement.rank, queue=QUEUE),
            context.bus.serve(subjects.placement("explain"), RankRequest, placement.explain, queue=QUEUE),
            context.bus.serve(subjects.placement("capacity"), CapacityRequest, placement.capacity, queue=QUEUE),
        )
        context.ready()
        await context.stopping.wait()


_log = telemetry.get_logger("placement")
service = PlacementService()
