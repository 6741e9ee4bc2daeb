"""The plan: which nodes get the copies of one volume, and why the others do not. Pure.

    bids ──┐
    request ├──> for each copy: filter ──> score ──> best one ──> Ranking | StosError
    policies┘

Copies are placed one after the other, each knowing those before it, and the witness last: with at most seven
voters that is simple and good enough, and every step can be told in a sentence. The same input gives the same
ranking, in whatever order the bids came. Between equals a hash of volume and node decides, so that two equal
nodes share the first places of many volumes instead of one taking all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.placement.policies import Ask, Policy, Score
from stoscore.errors import Code, StosError, invalid, unavailable
from stoscore.messages import Bid, Choice, Ranking, RankRequest, Refusal
from stoscore.units import format_size

NEAR_POINTS = 100.0
"""Above all that policies say in favour of another node; what they say against it (`filter`) still counts."""


def plan(bids: Iterable[Bid], request: RankRequest, policies: Sequence[Policy], *, instance: str) -> Ranking:
    """The nodes for the request, best first. Raises StosError: INVALID_ARGUMENT for a request of nothing, UNAVAILABLE
    when no node bid at all, OUT_OF_RANGE when the size is above every node's whole capacity, RESOURCE_EXHAUSTED when
    there are too few nodes; its details name the reason of each node."""
    if not request.copies + request.witnesses:
        raise invalid("the request asks for no copy and no witness")
    offers = _by_node(bids)
    if not offers:
        raise unavailable("no storage node answered", "check the nodes with `stos node ls`")
    _check_pool(offers, request)
    ranking = explain(offers, request, policies, instance=instance)
    if len(ranking.chosen) < request.copies + request.witnesses:
        raise _exhausted(ranking, request)
    return ranking


def explain(bids: Iterable[Bid], request: RankRequest, policies: Sequence[Policy], *, instance: str) -> Ranking:
    """As `plan`, but a shortage is no error: `chosen` is then as far as it got."""
    offers = _by_node(bids)
    beside = tuple(offer for offer in offers if offer.node in request.beside)
    progress = _Progress()
    for number in range(request.copies + request.witnesses):
        kind: Literal["data", "witness"] = "data" if number < request.copies else "witness"
        if not _choose_one(offers, Ask(request, kind, (*beside, *progress.bids)), policies, progress):
            break
    taken = {choice.node for choice in progress.chosen}
    return Ranking(
        instance=instance,
        chosen=progress.chosen,
        refused=[
            Refusal(node=offer.node, reason=progress.verdicts.get(offer.node, "not needed"))
            for offer in offers
            if offer.node not in taken
        ],
        bids=len(offers),
    )


@dataclass(slots=True)
class _Progress:
    """The choices so far, and for everybody else the latest verdict."""

    bids: list[Bid] = field(default_factory=list)
    chosen: list[Choice] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)

    def note(self, offer: Bid, ask: Ask, verdict: str) -> None:
        """What kept a node from a data copy says more than what kept it from the witness."""
        if ask.kind == "data" or offer.node not in self.verdicts:
            self.verdicts[offer.node] = verdict


def _by_node(bids: Iterable[Bid]) -> list[Bid]:
    """One bid per node, sorted. A doubled answer must not count a node twice: two copies on one node die
    together."""
    latest = {bid.node: bid for bid in sorted(bids, key=lambda bid: (bid.node, bid.model_dump_json()))}
    return [latest[node] for node in sorted(latest)]


def _check_pool(offers: Sequence[Bid], request: RankRequest) -> None:
    storing = [offer for offer in offers if offer.accepts_copies]
    if not storing:
        return
    largest = max(storing, key=lambda offer: (offer.capacity_bytes, offer.node))
    if request.size_bytes > largest.capacity_bytes:
        raise StosError(
            Code.OUT_OF_RANGE,
            f"a volume of {format_size(request.size_bytes)} is above the pool: "
            f"the largest node, {largest.node}, has {format_size(largest.capacity_bytes)}",
            next_step=f"ask for at most {format_size(largest.capacity_bytes)}, or add a larger node",
            details={"largest_bytes": largest.capacity_bytes, "node": largest.node},
        )


def _choose_one(offers: Sequence[Bid], ask: Ask, policies: Sequence[Policy], progress: _Progress) -> bool:
    taken = {bid.node for bid in ask.chosen if bid.node not in ask.request.beside}
    ranked: list[tuple[float, str, Bid, list[str]]] = []
    for offer in offers:
        if offer.node in taken:
            continue
        against = refusal(offer, ask, policies)
        if against:
            progress.note(offer, ask, against)
            continue
        points, reasons = _total((policy.name, policy.score(offer, ask)) for policy in policies)
        if _is_near(offer, ask):
            points, reasons = points + NEAR_POINTS, [*reasons, "near: the request wants a copy here"]
        ranked.append((-points, _lot(ask.request.volume, offer.node), offer, reasons))
    if not ranked:
        return False
    ranked.sort(key=lambda row: row[:2])
    for rank, (minus_points, _, offer, reasons) in enumerate(ranked[1:], start=2):
        progress.note(offer, ask, f"not needed: rank {rank}, score {-minus_points:.3f} ({'; '.join(reasons)})")
    minus_points, _, best, reasons = ranked[0]
    progress.bids.append(best)
    progress.chosen.append(Choice(node=best.node, zone=best.zone, kind=ask.kind, score=-minus_points, reasons=reasons))
    return True


def _is_near(offer: Bid, ask: Ask) -> bool:
    """One copy near whoever uses it is enough, so only the first is drawn there."""
    return ask.kind == "data" and offer.node == ask.request.near and not ask.chosen


def refusal(offer: Bid, ask: Ask, policies: Sequence[Policy]) -> str | None:
    """The first reason against this node: its own, the request's, then the policies' in their order."""
    if not offer.accepts_copies:
        return "takes no copies"
    if offer.node in ask.request.beside:
        return "has a member of the volume"
    if offer.node in ask.request.exclude:
        return "excluded by the request"
    if ask.kind == "data" and ask.request.among and offer.node not in ask.request.among:
        return "does not hold what the copy is to begin as"
    if ask.request.zones and offer.zone not in ask.request.zones:
        return f"zone {offer.zone or 'unknown'} is not among {', '.join(sorted(ask.request.zones))}"
    for policy in policies:
        reason = policy.filter(offer, ask)
        if reason:
            return f"{policy.name}: {reason}"
    return None


def _total(scores: Iterable[tuple[str, Score]]) -> tuple[float, list[str]]:
    points = 0.0
    reasons: list[str] = []
    for name, score in scores:
        points += score.points
        reasons.append(f"{name}: {score.reason}")
    return round(points, 9), reasons


def _lot(volume: str, node: str) -> str:
    return hashlib.blake2b(f"{volume}/{node}".encode(), digest_size=8).hexdigest() + node


def _exhausted(ranking: Ranking, request: RankRequest) -> StosError:
    copies = f"{request.copies} {'copy' if request.copies == 1 else 'copies'}"
    wanted = " and ".join([copies] * bool(request.copies) + ["a witness"] * request.witnesses)
    reasons = {refusal.node: refusal.reason for refusal in ranking.refused}
    told = "; ".join(f"{node}: {reason}" for node, reason in reasons.items())
    return StosError(
        Code.RESOURCE_EXHAUSTED,
        f"{wanted} of {format_size(request.size_bytes)} need {request.copies + request.witnesses} nodes and "
        f"{len(ranking.chosen)} of {ranking.bids} can take one" + (f" ({told})" if told else ""),
        next_step="ask for fewer replicas or a smaller size, free space, or add a node",
        details={"refused": reasons, "possible": [choice.node for choice in ranking.chosen]},
    )
