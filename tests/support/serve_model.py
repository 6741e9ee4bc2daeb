"""Puts model nodes on a real bus: each answers its node verbs, its volumes' verbs and the call for bids."""

from __future__ import annotations

import asyncio
from typing import Any

from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.messages import (
    AttachVolume,
    Bid,
    BidRequest,
    CloseFrontend,
    CreateReplica,
    DeleteVolume,
    DescribeReplica,
    DescribeReplicas,
    DetachVolume,
    FoundVolume,
    Message,
    NodeEntry,
    NodeStatusRequest,
    OpenFrontend,
    RemoveReplica,
)
from tests.support.bids import bid
from tests.support.model_nodes import ModelCluster

NODE_VERBS: dict[str, type[Message]] = {
    "create": CreateReplica,
    "found": FoundVolume,
    "remove": RemoveReplica,
    "describe": DescribeReplica,
    "describe-all": DescribeReplicas,
    "status": NodeStatusRequest,
    "open": OpenFrontend,
    "close": CloseFrontend,
}
VOLUME_VERBS: dict[str, type[Message]] = {
    "attach": AttachVolume,
    "detach": DetachVolume,
    "delete": DeleteVolume,
}


async def serve_node(bus: Bus, cluster: ModelCluster, node: str, **offer: object) -> None:
    """`offer` changes the node's bid. A model node that is down keeps silent, as a frozen one does."""

    async def stay_silent_when_down() -> None:
        while not cluster.nodes[node].up:
            await asyncio.sleep(0.05)

    async def answer_node(message: Any, context: RequestContext) -> Message:
        await stay_silent_when_down()
        return await cluster.answer(node, context.subject.rpartition(".")[2], message)

    async def answer_volume(message: Any, context: RequestContext) -> Message:
        await stay_silent_when_down()
        *_, volume, verb = context.subject.split(".")
        return await cluster.answer_volume(node, volume, verb, message)

    async def answer_bid(message: BidRequest, context: RequestContext) -> Bid:
        await stay_silent_when_down()
        return bid(node, **offer)

    for verb, request in NODE_VERBS.items():
        await bus.serve(subjects.node(node, verb), request, answer_node)
    for verb, request in VOLUME_VERBS.items():
        await bus.serve(subjects.volume(node, "*", verb), request, answer_volume)
    await bus.serve(subjects.BID, BidRequest, answer_bid)
    await Catalogue(bus).put_node(NodeEntry(node=node, zone=f"zone-{node}", address="127.0.0.1:1"))
