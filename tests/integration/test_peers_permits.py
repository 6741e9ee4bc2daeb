"""What a node may say on a link depends on the volume's record: every frame type, from a real link of somebody else.

The nodes n1 and n2 run. `x` is a node of the cluster that has nothing to do with the volume, n3 one of its voters;
the test plays both and knows everything that can be known: volume id, incarnations, epochs. Each attack ends with a
question whose answer shows that the attack has been looked at.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from services.replica import codec, permits
from services.replica.brain import messages as ms
from services.replica.brain.record import Attachment, Slot, Stamp, Voter
from services.replica.frontends import FILE
from services.replica.peers import Claim, Frame, Type, pack, pack_asks, pack_claims, pack_copies, pack_ranges, pack_u64s
from services.replica.replication.messages import Refusal, first_seq
from services.replica.replication.tree import HIGHEST
from services.replica.store.sums import block_sums
from stoscore.limits import REQUEST_BYTES_MAX
from stoscore.messages import OpenFrontend, VoterModel
from tests.support.peers import PeerNode, until
from tests.support.wired import SIZE, Wired, WiredNode, wired

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy."),
]
BLOCKS = SIZE // 4096
NOWHERE = bytes(16)
NOBODY = Attachment("?", 9)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wired]:
    async with wired(tmp_path_factory.mktemp("permits"), "n1", "n2", "app") as found:
        yield found


@dataclass(slots=True)
class Scene:
    """One volume, held by n1 and n2; n3 is its third voter, which the test plays."""

    cluster: Wired
    volume: str
    leader: WiredNode
    follower: WiredNode

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.volume)

    @property
    def epoch(self) -> int:
        return self.leader.of(self.volume).brain.epoch

    def voter(self, node: str) -> Voter:
        found = self.cluster.record(self.volume).member_on(node)
        assert found is not None
        return found

    def number(self, node: str) -> int:
        return int(self.voter(node).incarnation, 16)

    def state(self) -> tuple[object, ...]:
        """Everything that an attack could have changed."""
        return tuple(
            (node.of(self.volume).brain.state, node.content(self.volume, 0, 8), node.node.role(node.of(self.volume)))
            for node in (self.leader, self.follower)
        )


@pytest_asyncio.fixture(loop_scope="module")
async def scene(cluster: Wired) -> Scene:
    volume = await cluster.volume("n1", "n2", played=("n3",))
    leader = cluster.leader(volume)
    (follower,) = cluster.followers(volume)
    await until(lambda: _settled(cluster, volume))
    return Scene(cluster, volume, leader, follower)


def _settled(cluster: Wired, volume: str) -> bool:
    """n3 has left the in-sync set and both know it."""
    slots = [node.of(volume).brain.state.slot for node in (cluster.nodes["n1"], cluster.nodes["n2"])]
    return slots[0] == slots[1] and slots[0] is not None and len(slots[0].record.in_sync) == 2


class Speaker:
    """A played node with a link that it dialled to a running one."""

    def __init__(self, peer: PeerNode, name: str, victim: WiredNode):
        self.peer, self.name, self.victim = peer, name, victim
        self._asked = 1 << 40

    def say(self, *parts: bytes) -> None:
        assert self.peer.network.send(self.victim.name, *parts)

    async def heard(self) -> list[Frame]:
        """What came back for all that was said so far: up to the answer to a last question, which is left out."""
        self._asked += 1
        number = self._asked
        self.say(pack(Type.OPEN, volume=NOWHERE, id=number))
        handler = self.peer.handler
        await until(lambda: any(frame.id == number for frame in handler.whole))
        found = [frame for frame in handler.whole if frame.id != number]
        handler.whole.clear()
        return found

    def refusals(self, action: str = "") -> list[str]:
        told = [told for told in self.victim.audit.told if told.who == f"node/{self.name}"]
        return [one.reason for one in told if not action or one.action == action]


async def speaker(cluster: Wired, name: str, victim: WiredNode) -> Speaker:
    peer = await cluster.play(name)
    victim.audit.told.clear()
    peer.network.dial(victim.name, cluster.addresses[victim.name])
    await until(lambda: peer.network.connected(victim.name))
    return Speaker(peer, name, victim)


def data_frames(scene: Scene, sender: int, target: int, **fields: Any) -> dict[Type, tuple[bytes, ...]]:
    """One of each type that a primary sends to a copy, as good as they can be made."""
    data = b"evil" * 1024
    sums = block_sums(data)
    seq = first_seq(scene.epoch) + 1000
    ranges = pack_ranges([(0, 1)])
    copy = ranges + sums + data
    common: dict[str, Any] = {"volume": scene.raw, "sender": sender, "target": target, "epoch": scene.epoch} | fields
    return {
        Type.JOIN: (pack(Type.JOIN, id=7, **common),),
        Type.WRITE: (pack(Type.WRITE, id=seq, y=0, z=1, length=len(sums + data), **common), sums, data),
        Type.WRITES: (pack(Type.WRITES, id=seq, z=1, length=len(copy), **common), copy),
        Type.ZERO: (pack(Type.ZERO, id=seq, y=0, z=1, **common),),
        Type.FLUSH: (pack(Type.FLUSH, id=1, x=seq, **common),),
        Type.COMMIT: (pack(Type.COMMIT, x=seq, **common),),
        Type.DIGEST: (pack(Type.DIGEST, id=1, x=0, length=len(ranges), **common), ranges),
        Type.COPY: (pack(Type.COPY, id=seq, x=1, y=1, length=len(copy), **common), copy),
        Type.FETCH: (pack(Type.FETCH, id=1, length=len(ranges), **common), ranges),
        Type.PREPARE: (pack(Type.PREPARE, id=1, **common),),
        Type.SEAL: (pack(Type.SEAL, id=seq, x=seq, y=1, length=4, **common), b"evil"),
    }


def answer_frames(scene: Scene, sender: int, target: int) -> dict[Type, tuple[bytes, ...]]:
    """One of each type that a copy answers with."""
    common: dict[str, Any] = {"volume": scene.raw, "sender": sender, "target": target, "epoch": scene.epoch}
    seqs = pack_u64s([first_seq(scene.epoch) + 1])
    ranges = pack_ranges([(0, 1)])
    data = b"evil" * 1024
    blocks = ranges + block_sums(data) + data
    failed = json.dumps({"message": "no", "hint": ""}).encode()
    return {
        Type.JOINED: (pack(Type.JOINED, id=1, length=len(ranges), **common), ranges),
        Type.ACK: (pack(Type.ACK, length=len(seqs), **common), seqs),
        Type.FLUSHED: (pack(Type.FLUSHED, id=1, **common),),
        Type.DIGESTS: (pack(Type.DIGESTS, id=1, x=0, length=8, **common), bytes(8)),
        Type.COPIED: (pack(Type.COPIED, x=1, **common),),
        Type.FAILED: (pack(Type.FAILED, length=len(failed), **common), failed),
        Type.FETCHED: (pack(Type.FETCHED, id=1, y=1, length=len(blocks), **common), blocks),
        Type.ROTTEN: (pack(Type.ROTTEN, length=len(ranges), **common), ranges),
        Type.PREPARED: (pack(Type.PREPARED, id=1, x=1, **common),),
        Type.SEALED: (pack(Type.SEALED, id=first_seq(scene.epoch) + 1, **common),),
        Type.ROOTED: (pack(Type.ROOTED, id=first_seq(scene.epoch) + 1, x=7, **common),),
    }


def io_frames(scene: Scene, session: int, attach_epoch: int, **fields: Any) -> dict[Type, tuple[bytes, ...]]:
    """One of each request of a frontend."""
    data = b"evil" * 1024
    sums = block_sums(data)
    common: dict[str, Any] = {"volume": scene.raw, "x": session, "attach_epoch": attach_epoch, "epoch": scene.epoch}
    common |= fields
    asks = pack_asks([(6, 0, 1), (7, 1, 1)])
    writes = asks + 2 * sums + 2 * data
    return {
        Type.IO_READS: (pack(Type.IO_READS, z=2, length=len(asks), **common), asks),
        Type.IO_WRITES: (pack(Type.IO_WRITES, z=2, length=len(writes), **common), writes),
        Type.IO_READ: (pack(Type.IO_READ, id=1, y=0, z=1, **common),),
        Type.IO_WRITE: (pack(Type.IO_WRITE, id=2, y=0, z=1, length=len(sums + data), **common), sums, data),
        Type.IO_ZERO: (pack(Type.IO_ZERO, id=3, y=0, z=1, **common),),
        Type.IO_FLUSH: (pack(Type.IO_FLUSH, id=4, **common),),
        Type.IO_STATUS: (pack(Type.IO_STATUS, id=5, y=0, z=1, **common),),
        Type.FELT: (pack(Type.FELT, length=8, **common), bytes(8)),
    }


def brain_messages(scene: Scene, me: Voter, target: Voter) -> list[ms.BrainMessage]:
    """One of each kind, as harmful as it can be made."""
    volume, epoch = scene.volume, scene.epoch + 5
    record = replace(scene.cluster.record(volume), voters=(me, target), in_sync=(me, target), primary=me)
    slot = Slot(Stamp(0, epoch, 99), record)
    return [
        ms.PreVote(volume, me, target, epoch, slot.stamp),
        ms.PreVoteAnswer(volume, me, target, epoch, True, epoch, slot=slot),
        ms.Vote(volume, me, target, epoch, slot.stamp),
        ms.VoteAnswer(volume, me, target, epoch, True, epoch, slot=slot),
        ms.Propose(volume, me, target, epoch, slot, slot.stamp),
        ms.Accepted(volume, me, target, scene.epoch, slot.stamp),
        ms.Refused(volume, me, target, epoch, slot),
        ms.Committed(volume, me, target, scene.epoch, slot.stamp),
        ms.Erased(volume, me, target, scene.epoch),
        ms.Unknown(volume, me, target),
        ms.Forget(volume, me, target, scene.epoch),
        ms.Excluded(volume, me, target, epoch, replace(slot, record=replace(record, voters=(me,), in_sync=(me,)))),
        ms.HandOver(volume, me, target, scene.epoch, slot),
        ms.Released(volume, me, target, scene.epoch, me),
        ms.Offer(volume, me, target, scene.epoch),
        ms.NotUnderstood(volume, me, target, "vote of version 9", 1),
        ms.Enquire(volume, me, target, scene.epoch, slot.stamp),
    ]


def brain_frame(message: ms.BrainMessage, volume: str = "") -> tuple[bytes, bytes]:
    body = ms.encode(message)
    return pack(Type.BRAIN, volume=bytes.fromhex(volume or message.volume), length=len(body)), body


# ---- every type has its test -----------------------------------------------------------------------------


async def test_every_frame_type_goes_one_way_or_belongs_to_the_greeting() -> None:
    assert codec.ASKED | codec.ANSWERS | {Type.HELLO, Type.WELCOME} == set(Type)
    both_ways = codec.ASKED & codec.ANSWERS
    assert both_ways == {Type.SERVING}, "a new primary says it on the link that it has"


# ---- a node that has nothing to do with the volume -------------------------------------------------------


async def test_a_strangers_data_is_refused_at_a_copy_and_at_the_primary(cluster: Wired, scene: Scene) -> None:
    for victim in (scene.follower, scene.leader):
        before = scene.state()
        x = await speaker(cluster, "x", victim)
        other = scene.leader if victim is scene.follower else scene.follower
        frames = data_frames(scene, scene.number(other.name), scene.number(victim.name))
        assert frames.keys() == codec.TO_REPLICA
        for kind, parts in frames.items():
            x.say(*parts)
            assert await x.heard() == [], kind.name
            assert x.refusals(f"link.{kind.name.lower()}") == [permits.STRANGER]
        assert scene.state() == before


async def test_a_strangers_answers_are_refused_at_the_primary(cluster: Wired, scene: Scene) -> None:
    """The primary happens to have dialled it, for another volume say."""
    x = await speaker(cluster, "x", scene.leader)
    scene.leader.network.dial("x", x.peer.address)
    await until(lambda: f"up from {scene.leader.name}" in x.peer.handler.events)
    back = x.peer.handler.links[f"from {scene.leader.name}"]
    before = scene.state()
    frames = answer_frames(scene, scene.number(scene.follower.name), scene.number(scene.leader.name))
    assert frames.keys() == codec.TO_PRIMARY
    for kind, parts in frames.items():
        back.send(*parts)
        await until(lambda kind=kind: x.refusals(f"link.{kind.name.lower()}"))
        assert x.refusals(f"link.{kind.name.lower()}") == [permits.STRANGER]
    assert scene.state() == before
    scene.leader.network.hang_up("x")


async def test_a_stranger_hears_of_a_volume_what_it_hears_of_none(cluster: Wired, scene: Scene) -> None:
    """Session and requests: the same bytes, whether the volume is here, led here, or nowhere at all."""
    nowhere = secrets.token_bytes(16)
    for victim in (scene.leader, scene.follower):
        x = await speaker(cluster, "x", victim)
        asked = [pack(Type.OPEN, id=11, attach_epoch=epoch, volume=scene.raw) for epoch in (0, 1, 2)]
        asked += [b"".join(parts) for parts in io_frames(scene, 11, 1).values()]
        asked.append(pack(Type.IO_READ, volume=scene.raw, id=1, x=11, y=BLOCKS + 5, z=1))
        asked.append(pack(Type.OPEN, id=11, attach_epoch=1, volume=scene.raw, target=12345))
        for frame in asked:
            x.say(frame)
            x.say(frame[:8] + nowhere + frame[24:])
            here, there = await x.heard()
            assert here._replace(volume=nowhere) == there
            assert (here.type, here.x, here.epoch, here.sender) == (Type.REFUSED, Refusal.NOT_PRIMARY, 0, 0)
            assert json.loads(bytes(here.payload))["hint"] == ""
        assert len(x.refusals()) == len(asked)
        assert set(x.refusals()) == {"it is neither attached to the volume nor a voter of it"}


async def test_a_strangers_brain_messages_change_nothing(cluster: Wired, scene: Scene) -> None:
    """Votes for itself, proposals that make it primary, words in others' names: for either node."""
    for victim in (scene.leader, scene.follower):
        before = scene.state()
        x = await speaker(cluster, "x", victim)
        me = Voter("x", secrets.token_hex(8))
        messages = brain_messages(scene, me, scene.voter(victim.name))
        assert {type(message) for message in messages} == set(ms.BrainMessage.__args__)
        for message in messages:
            x.say(*brain_frame(message))
            in_name = replace(message, sender=scene.voter("n3"))
            x.say(*brain_frame(in_name))
        await x.heard()
        # Who names our incarnation was told it once, and may ask whether it still belongs, or answer when it is asked.
        # Neither changes anything here.
        assert x.refusals().count(permits.STRANGER) == len(messages) - 2
        assert x.refusals().count("a brain message in another's name") == len(messages)
        assert scene.state() == before


async def test_a_candidate_without_business_hears_what_it_hears_of_no_volume(cluster: Wired, scene: Scene) -> None:
    x = await speaker(cluster, "x", scene.follower)
    scene.follower.network.dial("x", x.peer.address)
    await until(lambda: scene.follower.network.connected("x"))
    me, target = Voter("x", secrets.token_hex(8)), scene.voter(scene.follower.name)
    for volume in (scene.volume, secrets.token_hex(16)):
        x.say(*brain_frame(ms.PreVote(volume, me, target, 9, Stamp(0, 1, 1))))
    brains = [frame for frame in await x.heard() if frame.type == Type.BRAIN]
    await until(lambda: len([f for f in x.peer.handler.whole if f.type == Type.BRAIN]) + len(brains) >= 2)
    brains += [frame for frame in x.peer.handler.whole if frame.type == Type.BRAIN]
    here, there = (ms.decode(frame.payload) for frame in brains)
    assert isinstance(here, ms.Unknown)
    assert replace(here, volume=there.volume) == there
    scene.follower.network.hang_up("x")


async def test_words_of_another_version_are_answered_to_members_only(cluster: Wired, scene: Scene) -> None:
    """Were a stranger told that it was not understood, it would know that the volume is here."""
    victim = scene.follower
    for name, sender in (("x", Voter("x", secrets.token_hex(8))), ("n3", scene.voter("n3"))):
        speaking = await speaker(cluster, name, victim)
        victim.network.dial(name, speaking.peer.address)
        await until(lambda name=name: victim.network.connected(name))
        for volume in (scene.volume, secrets.token_hex(16)):
            message = ms.PreVote(volume, sender, scene.voter(victim.name), 9, Stamp(0, 1, 1))
            body = ms.encode(message).replace(b'"pre-vote"', b'"word-of-tomorrow"')
            speaking.say(pack(Type.BRAIN, volume=bytes.fromhex(volume), length=len(body)), body)
        speaking.say(pack(Type.BEAT, id=1, x=5, y=1))
        handler = speaking.peer.handler
        await until(lambda handler=handler: any(f.type == Type.BEAT_ANSWER and f.x == 5 for f in handler.whole))
        told = [ms.decode(frame.payload).kind for frame in handler.whole if frame.type == Type.BRAIN]
        assert told == ([] if name == "x" else ["not-understood"])
        assert speaking.refusals("link.brain") == ["a brain message of another version"] * 2
        victim.network.hang_up(name)


async def test_a_brain_message_must_be_about_the_volume_of_its_frame(cluster: Wired, scene: Scene) -> None:
    x = await speaker(cluster, "x", scene.leader)
    message = brain_messages(scene, Voter("x", "ab" * 8), scene.voter(scene.leader.name))[0]
    x.say(*brain_frame(message, volume=secrets.token_hex(16)))
    await x.heard()
    assert x.refusals("link.brain") == ["a brain message in another's name"]


async def test_whoever_claims_a_volume_that_it_does_not_lead_gets_no_promise(cluster: Wired, scene: Scene) -> None:
    """A promise to a claimer forbids voting for anybody else: a stranger could stop every election, and would learn
    from the confirmation which volume is here in which epoch."""
    x = await speaker(cluster, "x", scene.follower)
    scene.follower.network.dial("x", x.peer.address)
    await until(lambda: scene.follower.network.connected("x"))
    body = pack_claims([Claim(scene.raw, 0, scene.epoch), Claim(secrets.token_bytes(16), 0, 1)])
    x.say(pack(Type.CLAIMS, x=5, y=1, length=len(body)), body)
    x.say(pack(Type.BEAT, id=1, x=5, y=1))
    await until(lambda: any(f.type == Type.BEAT_ANSWER and f.x == 5 for f in x.peer.handler.whole))
    confirms = [f for f in x.peer.handler.whole if f.type == Type.CONFIRM and f.x == 5]
    assert confirms
    assert all(not f.payload for f in confirms)
    promises = scene.follower.node.promises
    assert promises.bound(scene.volume, 0).to == scene.leader.name
    assert scene.volume not in promises._promised["x"].covered
    assert len(promises._promised["x"].entries) <= 1, "of volumes that are not here nothing is remembered"
    scene.follower.network.hang_up("x")


# ---- frontends: who may answer them ------------------------------------------------------------------------


async def test_a_frontend_gives_nothing_to_a_node_that_says_it_serves(cluster: Wired, scene: Scene) -> None:
    """Were a SERVING of any node believed, in an epoch above all others, the clients' writes would go to it."""
    opened = await cluster.open(scene.volume, "app")
    app = cluster.nodes["app"]
    frontend = app.frontends._open[scene.raw].frontend
    await until(lambda: frontend.status().connected)
    x = await speaker(cluster, "x", app)
    app.network.dial("x", x.peer.address)
    await until(lambda: "up from app" in x.peer.handler.events)
    back = x.peer.handler.links["from app"]
    x.say(pack(Type.SERVING, volume=scene.raw, epoch=1 << 23))
    refused = json.dumps({"message": "", "hint": "x"}).encode()
    session = frontend._core._session
    datas = pack_asks([(1, 0, 1)]) + bytes(4104)
    answers = [
        (pack(Type.OPENED, volume=scene.raw, epoch=1 << 23, id=session, x=BLOCKS),),
        (pack(Type.REFUSED, volume=scene.raw, id=session, x=Refusal.FENCED, length=len(refused)), refused),
        (pack(Type.IO_DONE, volume=scene.raw, epoch=1 << 23, id=1, x=session),),
        (pack(Type.IO_DATA, volume=scene.raw, epoch=1 << 23, id=1, x=session, z=1, length=4104), bytes(4104)),
        (pack(Type.IO_EXTENTS, volume=scene.raw, epoch=1 << 23, id=1, x=session, length=8), b"\1" + bytes(7)),
        (pack(Type.IO_DONES, volume=scene.raw, epoch=1 << 23, x=session, length=8), b"\1" + bytes(7)),
        (pack(Type.IO_DATAS, volume=scene.raw, epoch=1 << 23, x=session, z=1, length=len(datas)), datas),
    ]
    for parts in answers:
        back.send(*parts)
    await until(lambda: len(x.refusals()) == len(answers) + 1)
    assert set(x.refusals()) == {"an answer from a node that the frontend does not use"}
    assert frontend.status().connected
    assert frontend.status().epoch == scene.epoch
    await x.heard()
    assert not [frame for frame in x.peer.handler.whole if frame.type in (Type.OPEN, Type.IO_WRITE, Type.IO_READ)]
    assert opened.socket
    app.network.hang_up("x")
    await app.frontends.close(scene.volume)


async def test_a_frontend_asks_only_nodes_of_the_volume(cluster: Wired, scene: Scene) -> None:
    """A link to some node that comes up later is no reason to tell it of a volume."""
    x = await cluster.play("x")
    app = cluster.nodes["app"]
    app.network.dial("x", x.address)
    await until(lambda: "up from app" in x.handler.events)
    await cluster.open(scene.volume, "app")
    frontend = app.frontends._open[scene.raw].frontend
    await until(lambda: frontend.status().connected)
    app.network.hang_up("x")
    app.network.dial("x", x.address)
    await until(lambda: x.handler.events.count("up from app") == 2)
    frontend.on_link_down(scene.leader.name)  # it looks for its primary, of everybody that it knows
    frontend.on_link_up(scene.leader.name)
    await until(lambda: frontend.status().connected)
    assert Type.OPEN not in [frame.type for frame in x.handler.whole]
    app.network.hang_up("x")
    await app.frontends.close(scene.volume)


async def test_a_primary_says_that_it_serves_on_either_link(cluster: Wired, scene: Scene) -> None:
    await cluster.open(scene.volume, "app")
    app = cluster.nodes["app"]
    frontend = app.frontends._open[scene.raw].frontend
    await until(lambda: frontend.status().connected)
    app.audit.told.clear()
    (to_app,) = [link for link in scene.leader.network.links() if link.peer == "app" and not link.outgoing]
    to_app.send(pack(Type.SERVING, volume=scene.raw, epoch=scene.epoch + 1))
    await until(lambda: frontend.status().epoch == scene.epoch + 1)
    assert app.network.connected(scene.leader.name)
    assert app.audit.told == []
    await app.frontends.close(scene.volume)


async def test_where_the_copies_are_counts_from_the_primary_that_serves(cluster: Wired, scene: Scene) -> None:
    """All of them may move while a volume is used; who uses it has to find the next primary all the same. A voter that
    does not serve can't name others."""
    await cluster.open(scene.volume, "app")
    app = cluster.nodes["app"]
    known = app.frontends._open[scene.raw]
    await until(lambda: known.frontend.status().connected)
    before = known.frontend.nodes()
    assert before == {"n1", "n2", "n3"}
    n3 = await speaker(cluster, "n3", app)
    told = pack_copies({"x": "ab" * 8})
    n3.say(pack(Type.SERVING, volume=scene.raw, epoch=scene.epoch, length=len(told)), told)
    await n3.heard()
    assert known.frontend.nodes() == before
    told = pack_copies({scene.leader.name: scene.voter(scene.leader.name).incarnation, "n9": "cd" * 8})
    scene.leader.network.dial("app", cluster.addresses["app"])
    await until(lambda: scene.leader.network.connected("app"))
    header = pack(Type.SERVING, volume=scene.raw, epoch=scene.epoch, length=len(told))
    scene.leader.network.send("app", header, told)
    await until(lambda: known.frontend.nodes() == {scene.leader.name, "n9"})
    assert {voter.node: voter.incarnation for voter in known.request.voters}["n9"] == "cd" * 8
    assert "n9" in (cluster.directory / "app" / "data" / FILE).read_text(), "a restart finds them too"
    # Whoever opens it again has it from the primary, and by another list of theirs it goes on.
    again = await cluster.open(scene.volume, "app")
    assert again.socket
    assert known.frontend.nodes() == before
    await app.frontends.close(scene.volume)
    app.network.hang_up("n3")


async def test_a_node_that_a_voter_names_is_asked_as_well(cluster: Wired, scene: Scene) -> None:
    """Voters change; a hint of one that the frontend uses is how it learns of another."""
    x = await cluster.play("x")
    app = cluster.nodes["app"]
    n3 = await speaker(cluster, "n3", app)
    attach_epoch = await cluster.attach(scene.volume, "app")
    models = [VoterModel(node="n3", incarnation=scene.voter("n3").incarnation)]
    request = OpenFrontend(volume=scene.volume, name="vol", size_bytes=SIZE, attach_epoch=attach_epoch, voters=models)
    await app.frontends.open(request, "admin/ann")
    await until(lambda: any(frame.type == Type.OPEN for frame in n3.peer.handler.whole))
    (asked, *_) = [frame for frame in n3.peer.handler.whole if frame.type == Type.OPEN]
    assert asked.target == scene.number("n3")
    body = json.dumps({"message": "", "hint": "x"}).encode()
    header = pack(Type.REFUSED, volume=scene.raw, id=asked.id, x=Refusal.NOT_PRIMARY, length=len(body))
    n3.peer.handler.links["from app"].send(header, body)
    await until(lambda: any(frame.type == Type.OPEN for frame in x.handler.whole))
    await app.frontends.close(scene.volume)
    app.network.hang_up("x")
    app.network.hang_up("n3")


# ---- the wrong way round -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*sorted(codec.ANSWERS - codec.ASKED), Type.HELLO, Type.WELCOME])
async def test_answers_to_nobodys_question_end_the_link(cluster: Wired, scene: Scene, kind: int) -> None:
    """On the link that the other side dialled nothing was asked, so nothing can be answered."""
    x = await speaker(cluster, "x", scene.leader)
    before = scene.state()
    x.say(pack(kind, volume=scene.raw, epoch=scene.epoch))
    await until(lambda: x.refusals("link.frame"))
    assert Type(kind).name in x.refusals("link.frame")[0]
    assert "on the link that it dialled" in x.refusals("link.frame")[0]
    assert scene.state() == before


async def test_questions_on_a_link_for_answers_end_it(cluster: Wired, scene: Scene) -> None:
    for kind in sorted(codec.ASKED - codec.ANSWERS):
        x = await speaker(cluster, "x", scene.leader)
        scene.leader.network.dial("x", x.peer.address)
        await until(lambda x=x: f"up from {scene.leader.name}" in x.peer.handler.events)
        x.peer.handler.links[f"from {scene.leader.name}"].send(pack(kind, volume=scene.raw, epoch=scene.epoch))
        await until(lambda x=x: x.refusals("link.frame"))
        assert "on the link that we dialled" in x.refusals("link.frame")[0]
        scene.leader.network.hang_up("x")


# ---- a voter that says what is not its to say --------------------------------------------------------------


async def test_data_names_both_incarnations_and_the_generation(cluster: Wired, scene: Scene) -> None:
    """Rules I1 and I4, for every type that copies send to each other."""
    victim = scene.follower
    n3 = await speaker(cluster, "n3", victim)
    me, target = scene.number("n3"), scene.number(victim.name)
    before = scene.state()
    for sender, aim, fields, why in (
        (me + 1, target, {}, permits.INCARNATION),
        (me, target + 1, {}, permits.INCARNATION),
        (0, 0, {}, permits.INCARNATION),
        (scene.number(scene.leader.name), target, {}, permits.INCARNATION),
        (me, target, {"generation": 1}, permits.GENERATION),
    ):
        victim.audit.told.clear()
        for parts in data_frames(scene, sender, aim, **fields).values():
            n3.say(*parts)
        assert await n3.heard() == []
        assert n3.refusals() == [why] * len(codec.TO_REPLICA)
    assert scene.state() == before


async def test_a_voter_that_does_not_lead_can_neither_write_nor_read_nor_take_over(
    cluster: Wired, scene: Scene
) -> None:
    """Everything about its frames is right but that it is not the primary."""
    victim = scene.follower
    n3 = await speaker(cluster, "n3", victim)
    before = scene.state()
    frames = data_frames(scene, scene.number("n3"), scene.number(victim.name))
    for parts in frames.values():
        n3.say(*parts)
    assert await n3.heard() == []
    assert n3.refusals("link.join") == [permits.NOT_LEADER]
    assert scene.state() == before
    replica = victim.of(scene.volume).replica
    assert replica is not None
    assert not replica._recent or b"evil" not in victim.content(scene.volume, 0)


async def test_a_primary_asks_for_no_more_than_a_comparison_may_hold(cluster: Wired, scene: Scene) -> None:
    """The leader's own node, stolen: what it asks of a copy ends its link and not the copy's node."""
    victim, leader = scene.follower, scene.leader
    common: dict[str, Any] = {"volume": scene.raw, "sender": scene.number(leader.name), "epoch": scene.epoch}
    common["target"] = scene.number(victim.name)
    one, many = pack_ranges([(0, 1)]), pack_ranges([(0, 8193)])
    outside = pack_ranges([(victim.shell.hosted[scene.volume].blocks.size_blocks, 1)])
    for level, ranges, why in (
        (1 << 60, one, "a tree that is never as high"),
        (HIGHEST + 1, one, "a tree that is never as high"),
        (HIGHEST, outside, "a comparison beyond"),
        (0, outside, "a comparison beyond"),
        (0, many, "more nodes than one may ask"),
    ):
        victim.audit.told.clear()
        old = leader.network.outgoing(victim.name)
        leader.network.send(victim.name, pack(Type.DIGEST, id=1, x=level, length=len(ranges), **common), ranges)
        await until(lambda: victim.audit.reasons("link.frame", f"node/{leader.name}"))
        assert why in victim.audit.reasons("link.frame")[0]
        await until(lambda old=old: leader.network.outgoing(victim.name) not in (None, old))  # type: ignore[misc]


async def test_answers_that_were_not_asked_for_change_nothing(cluster: Wired, scene: Scene) -> None:
    """A voter that never joined confirms writes, flushes and copies."""
    leader = scene.leader
    n3 = await speaker(cluster, "n3", leader)
    leader.network.dial("n3", n3.peer.address)
    await until(lambda: f"up from {leader.name}" in n3.peer.handler.events)
    before = scene.state()
    primary = leader.of(scene.volume).primary
    assert primary is not None
    for parts in answer_frames(scene, scene.number("n3"), scene.number(leader.name)).values():
        n3.peer.handler.links[f"from {leader.name}"].send(*parts)
    await n3.heard()
    await until(lambda: primary.peers["n3"].heard_ns)
    assert scene.state() == before
    assert primary.peers["n3"].phase in ("away", "joining")
    leader.network.hang_up("n3")


async def test_a_voter_speaks_for_itself_only(cluster: Wired, scene: Scene) -> None:
    n3 = await speaker(cluster, "n3", scene.leader)
    before = scene.state()
    for message in brain_messages(scene, scene.voter(scene.follower.name), scene.voter(scene.leader.name)):
        n3.say(*brain_frame(message))
    for message in brain_messages(scene, Voter("n3", secrets.token_hex(8)), scene.voter(scene.leader.name)):
        n3.say(*brain_frame(message))
    await n3.heard()
    count = len(ms.BrainMessage.__args__)
    assert n3.refusals() == ["a brain message in another's name"] * count + [permits.INCARNATION] * (count - 2)
    assert scene.state() == before


async def test_a_voter_that_claims_what_another_leads_gets_no_promise(cluster: Wired, scene: Scene) -> None:
    n3 = await speaker(cluster, "n3", scene.follower)
    body = pack_claims([Claim(scene.raw, 0, scene.epoch)])
    n3.say(pack(Type.CLAIMS, x=5, y=1, length=len(body)), body)
    n3.say(pack(Type.BEAT, id=1, x=5, y=1))
    await n3.heard()
    promises = scene.follower.node.promises
    assert scene.volume in promises._promised["n3"].entries
    assert scene.volume not in promises._promised["n3"].covered
    assert promises.bound(scene.volume, 0).to == scene.leader.name


async def test_a_witness_sends_no_data(cluster: Wired) -> None:
    volume = await cluster.volume("n1", "n2", played=("w",), witness="w")
    scene = Scene(cluster, volume, cluster.leader(volume), cluster.followers(volume)[0])
    w = await speaker(cluster, "w", scene.follower)
    for parts in data_frames(scene, scene.number("w"), scene.number(scene.follower.name)).values():
        w.say(*parts)
    assert await w.heard() == []
    assert w.refusals() == [permits.WITNESS] * len(codec.TO_REPLICA)


async def test_impossible_numbers_of_a_voter_do_not_reach_the_brain(cluster: Wired, scene: Scene) -> None:
    """A voter may be stolen. An epoch that fits into no sequence number, or a name that is none, would make packing
    fail in the middle of what other volumes have to do."""
    n3 = await speaker(cluster, "n3", scene.leader)
    me, target = scene.voter("n3"), scene.voter(scene.leader.name)
    record = replace(scene.cluster.record(scene.volume), primary=None)
    good = Stamp(0, scene.epoch + 1, 99)
    before = scene.state()
    bad: list[ms.BrainMessage] = [
        ms.Vote(scene.volume, me, target, 1 << 24, good),
        ms.Vote(scene.volume, me, target, -1, good),
        ms.Vote(scene.volume, me, target, 5, Stamp(1 << 32, 5, 1)),
        ms.Vote(scene.volume, me, target, 5, Stamp(0, 5, 1 << 60)),
        ms.Vote(scene.volume, replace(me, incarnation="zz"), target, 5, good),
        ms.VoteAnswer(scene.volume, me, target, 5, True, 5, reason="x" * 5000),
        ms.Propose(scene.volume, me, target, 1 << 24, Slot(replace(good, epoch=1 << 24), record)),
        ms.Propose(scene.volume, me, target, 9, Slot(good, replace(record, name="a b"))),
        ms.Propose(scene.volume, me, target, 9, Slot(good, replace(record, size_bytes=1 << 60))),
        ms.Propose(scene.volume, me, target, 9, Slot(good, replace(record, attach_epoch=9, attachment=NOBODY))),
        ms.Propose(scene.volume, me, target, 9, Slot(good, replace(record, voters=()))),
    ]
    for message in bad:
        n3.say(*brain_frame(message))
    await n3.heard()
    refused = n3.refusals("link.brain")
    assert len(refused) == len(bad)
    assert set(refused) == {permits.IMPOSSIBLE, "a malformed brain message"}
    assert scene.state() == before


# ---- sessions ----------------------------------------------------------------------------------------------


async def test_a_session_belongs_to_the_attachment_and_to_the_link_that_opened_it(cluster: Wired, scene: Scene) -> None:
    attach_epoch = await cluster.attach(scene.volume, "y")
    y = await speaker(cluster, "y", scene.leader)
    y.say(pack(Type.OPEN, volume=scene.raw, id=50, attach_epoch=attach_epoch + 1))
    (refused,) = await y.heard()
    assert (refused.type, refused.x) == (Type.REFUSED, Refusal.NOT_READY)
    y.say(pack(Type.OPEN, volume=scene.raw, id=51, attach_epoch=attach_epoch))
    (opened,) = await y.heard()
    assert (opened.type, opened.x) == (Type.OPENED, BLOCKS)
    for session, epoch in ((52, attach_epoch), (51, attach_epoch + 1), (51, 0)):
        for kind, parts in io_frames(scene, session, epoch).items():
            y.say(*parts)
            (answer,) = await y.heard()
            assert (answer.type, answer.x) == (Type.REFUSED, Refusal.NOT_READY), kind.name
    for parts in io_frames(scene, 51, attach_epoch).values():
        y.say(*parts)
    await until(lambda: len(y.peer.handler.whole) == 7)
    answers = [Type.IO_DONE] * 3 + [Type.IO_DATA, Type.IO_EXTENTS, Type.IO_DONES, Type.IO_DATAS]
    assert sorted(frame.type for frame in await y.heard()) == answers
    # A newer link of the same node: the session went with the old one.
    again = await speaker(cluster, "y", scene.leader)
    again.say(*io_frames(scene, 51, attach_epoch)[Type.IO_READ])
    (answer,) = await again.heard()
    assert (answer.type, answer.x) == (Type.REFUSED, Refusal.NOT_READY)


async def test_who_was_attached_is_told_that_it_is_fenced_and_gets_no_data(cluster: Wired, scene: Scene) -> None:
    """It names our incarnation, which it was told with the record; without it, it hears as much as a stranger."""
    attach_epoch = await cluster.attach(scene.volume, "y")
    await cluster.detach(scene.volume)
    await cluster.attach(scene.volume, "z")
    y = await speaker(cluster, "y", scene.leader)
    target = scene.number(scene.leader.name)
    y.say(pack(Type.OPEN, volume=scene.raw, id=60, attach_epoch=attach_epoch, target=target))
    (answer,) = await y.heard()
    assert (answer.type, answer.x) == (Type.REFUSED, Refusal.FENCED)
    for parts in io_frames(scene, 60, attach_epoch, target=target).values():
        y.say(*parts)
    assert {(frame.type, frame.x) for frame in await y.heard()} == {(Type.REFUSED, Refusal.NOT_READY)}
    y.say(pack(Type.OPEN, volume=scene.raw, id=61, attach_epoch=attach_epoch))
    (answer,) = await y.heard()
    assert (answer.type, answer.x, answer.epoch) == (Type.REFUSED, Refusal.NOT_PRIMARY, 0)


async def test_a_voter_that_is_not_attached_opens_no_session(cluster: Wired, scene: Scene) -> None:
    attach_epoch = await cluster.attach(scene.volume, "y")
    n3 = await speaker(cluster, "n3", scene.leader)
    n3.say(pack(Type.OPEN, volume=scene.raw, id=70, attach_epoch=attach_epoch))
    (answer,) = await n3.heard()
    assert (answer.type, answer.x) == (Type.REFUSED, Refusal.FENCED)
    n3.say(*io_frames(scene, 70, attach_epoch)[Type.IO_READ])
    (answer,) = await n3.heard()
    assert answer.type == Type.REFUSED


async def test_an_attached_node_asks_for_no_more_than_a_request_may_hold(cluster: Wired, scene: Scene) -> None:
    attach_epoch = await cluster.attach(scene.volume, "y")
    y = await speaker(cluster, "y", scene.leader)
    y.say(pack(Type.OPEN, volume=scene.raw, id=80, attach_epoch=attach_epoch))
    await y.heard()
    common: dict[str, Any] = {"volume": scene.raw, "x": 80, "attach_epoch": attach_epoch}
    for header in (
        pack(Type.IO_READ, id=1, y=0, z=REQUEST_BYTES_MAX // 4096 + 2, **common),
        pack(Type.IO_READ, id=1, y=0, z=1 << 40, **common),
        pack(Type.IO_READ, id=1, y=BLOCKS, z=1, **common),
        pack(Type.IO_READ, id=1, y=0, z=0, **common),
        pack(Type.IO_ZERO, id=1, y=0, z=BLOCKS + 1, **common),
        pack(Type.IO_ZERO, id=1, y=1 << 63, z=1 << 63, **common),
        pack(Type.IO_STATUS, id=1, y=0, z=0, **common),
        pack(Type.IO_STATUS, id=1, y=1, z=BLOCKS, **common),
        pack(Type.IO_STATUS, id=1, y=1 << 63, z=1 << 63, **common),
    ):
        y.say(header)
        (answer,) = await y.heard()
        assert (answer.type, answer.y) == (Type.IO_DONE, 22)
    rotten = os.urandom(8 + 4096)
    y.say(pack(Type.IO_WRITE, id=2, y=0, z=1, length=len(rotten), **common), rotten)
    (answer,) = await y.heard()
    assert (answer.type, answer.y) == (Type.IO_DONE, 5)


async def test_of_what_comes_together_only_the_wrong_one_fails(cluster: Wired, scene: Scene) -> None:
    attach_epoch = await cluster.attach(scene.volume, "y")
    y = await speaker(cluster, "y", scene.leader)
    y.say(pack(Type.OPEN, volume=scene.raw, id=90, attach_epoch=attach_epoch))
    assert [frame.type for frame in await y.heard()] == [Type.OPENED]
    common: dict[str, Any] = {"volume": scene.raw, "x": 90, "attach_epoch": attach_epoch, "epoch": scene.epoch}
    reads = pack_asks([(1, 0, 1), (2, BLOCKS, 1), (3, 1, 2)])
    y.say(pack(Type.IO_READS, z=3, length=len(reads), **common), reads)
    found = {frame.id: (frame.type, frame.y, frame.z) for frame in await y.heard()}
    assert found == {1: (Type.IO_DATA, 0, 1), 2: (Type.IO_DONE, 22, 0), 3: (Type.IO_DATA, 1, 2)}
    good = os.urandom(4096)
    body = pack_asks([(4, 5, 1), (5, 6, 1)]) + block_sums(good) + bytes(8) + 2 * good
    y.say(pack(Type.IO_WRITES, z=2, length=len(body), **common), body)
    await until(lambda: len(y.peer.handler.whole) == 2)
    assert {frame.id: (frame.type, frame.y) for frame in await y.heard()} == {
        4: (Type.IO_DONE, 0),
        5: (Type.IO_DONE, 5),
    }
    assert scene.leader.content(scene.volume, 5) == good
