"""What one seed means: nodes, volumes, workload and every fault with its moment, drawn before the run begins.

A plan is a value. The run draws nothing that decides what happens next from a source that two parts share: each
machine, client and fault has dice of its own. So a fault can be taken out of a plan and the others stay what they were,
which is what makes a failing seed shrink to a story (see shrink.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from services.replica.brain import Timing, Voter
from services.replica.brain.record import FailureMode, OnUnavailable
from stoscore.units import MS, SECOND
from tests.simulation import knobs
from tests.simulation.nemesis import LOSE_THE_MAJORITY, WEIGHTS

OPERATIONS_MIN = 1000
FAULTS_MIN = 20
FAULTS_NS = 10 * SECOND
START_NS = 1 * SECOND
HOME_RETRY_NS = 200 * MS
SNAPSHOTS_SHARE = 0.5
"""Of all seeds. Drawn apart: the others stay what they were."""
OVERRIDES_SHARE = 0.06
"""Of all seeds from `OVERRIDES_FROM` on: in so many a volume loses its majority for good, and an operator decides."""
OVERRIDES_FROM = 10_000_000
"""Seeds below were kept as they were before there was an override."""
SIZES = (64, 300, 1500, 3000, 140_000)
SHAPES = ("d", "dwd", "dwd", "ddd", "ddd", "dddwd", "ddddd")
"""d: a data replica, w: a witness; in the order of their rank."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    name: str
    ppm: int
    """How much its clock is too fast, in millionths."""
    offset_ns: int
    leases_ns: tuple[int, ...]
    """The lease that its settings name, one for each start of its process; the last stays."""


@dataclass(frozen=True, slots=True)
class VolumePlan:
    name: str
    voters: tuple[Voter, ...]
    size_blocks: int
    hot: tuple[int, ...]
    """Blocks that most requests touch."""
    depth: int
    """Requests that the application keeps open."""
    think_ns: int
    """Between an answer and the next request, on average."""
    burst: int
    """Requests in a row without thinking."""
    node: str
    """Where it is attached first."""
    failure_mode: FailureMode = "alwayson"
    on_unavailable: OnUnavailable = "suspend"


@dataclass(frozen=True, slots=True)
class Fault:
    at_ns: int
    kind: str
    dice: int
    """Seed of its own choices."""


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    nodes: tuple[NodePlan, ...]
    volumes: tuple[VolumePlan, ...]
    delay_ns: tuple[int, int]
    faults: tuple[Fault, ...]
    faults_ns: int
    operations: int
    """Requests of all clients together, at least."""
    grace_ns: int
    """How long a lost copy is waited for before another one is made."""
    spare: tuple[Fault, ...] = ()
    """Strike after the others, one by one, while fewer than `FAULTS_MIN` have done anything."""
    knobs: Mapping[str, Any] = field(default_factory=dict)
    snapshots: bool = False
    """Clients take and drop some."""

    @property
    def together(self) -> bool:
        """Small requests of one moment travel together; else one by one, as with an older version."""
        return self.seed % 3 == 2

    def is_old(self, node: str) -> bool:
        """The node's version does not know writes that come together, though others do."""
        return not self.together or (self.seed % 6 == 5 and node == "n2")

    def takes_past(self, start: int) -> bool:
        """The version that a node runs from this start on can be given snapshots that it was away for. In half of the
        seeds each node is upgraded when it is started again, in sync without some or not."""
        return self.seed % 2 == 0 or start > 1

    def timing(self, node: NodePlan, life: int) -> Timing:
        lease = node.leases_ns[min(life, len(node.leases_ns)) - 1]
        return Timing(lease_ns=lease, grace_ns=self.grace_ns, home_retry_ns=HOME_RETRY_NS)


def draw(seed: int, *, drift_ppm: int | None = None) -> Plan:
    """`drift_ppm`: how far two clocks may drift apart, when not the bound that the cores count on."""
    rng = Random(f"{seed}/plan")
    names = [f"n{index + 1}" for index in range(rng.choice((3, 3, 3, 4, 4, 5, 5)))]
    bound = Timing().drift_ppm if drift_ppm is None else drift_ppm
    nodes = tuple(_node(rng, name, bound) for name in names)
    count = rng.choice((1, 1, 2, 2, 3))
    operations = OPERATIONS_MIN + rng.randrange(200)
    volumes = tuple(_volume(rng, f"v{index + 1}", names, operations // count) for index in range(count))
    delays = ((MS // 10, 2 * MS), (MS // 10, 2 * MS), (MS, 15 * MS), (5 * MS, 50 * MS))
    grace = rng.choice((300 * MS, 1 * SECOND, 3 * SECOND, Timing().grace_ns))
    faults, spare = _faults(rng)
    if seed >= OVERRIDES_FROM:
        faults = _with_override(Random(f"{seed}/override"), faults)
    return Plan(
        seed, nodes, volumes, rng.choice(delays), faults, FAULTS_NS, operations, grace, spare, knobs.draw(rng),
        Random(f"{seed}/snapshots").random() < SNAPSHOTS_SHARE,
    )  # fmt: skip


def _node(rng: Random, name: str, bound_ppm: int) -> NodePlan:
    # Within the bound when any two are compared: half of it each way, less what the rate of a rate costs.
    most = bound_ppm // 2 * 98 // 100
    ppm = rng.choice((-most, most, 0, rng.randint(-most, most)))
    lease = Timing().lease_ns
    leases = (lease,) if rng.random() < 0.7 else tuple(rng.choice((lease, lease * 8 // 5)) for _ in range(4))
    return NodePlan(name, ppm, rng.randint(0, 1000 * SECOND), leases)


def _volume(rng: Random, name: str, names: list[str], operations: int) -> VolumePlan:
    voters = volume_voters(rng, names)
    copies = sum(voter.kind == "data" for voter in voters)
    mode: FailureMode = rng.choice(("alwayson", "alwayson", "soft", "hard", rng.randint(1, copies)))
    unavailable: OnUnavailable = rng.choice(("suspend", "suspend", "error"))
    size = rng.choice(SIZES)
    hot = tuple(rng.randrange(size) for _ in range(rng.choice((2, 6, 20))))
    depth = rng.choice((2, 4, 8))
    # A little faster than what would fill the time: nothing is answered during a failover.
    think = FAULTS_NS * depth // operations * rng.choice((3, 5, 7)) // 10
    burst, node = rng.choice((1, 1, 1, 20)), rng.choice(names)
    return VolumePlan(name, voters, size, hot, depth, think, burst, node, mode, unavailable)


def volume_voters(rng: Random, names: list[str]) -> tuple[Voter, ...]:
    shapes = [shape for shape in SHAPES if len(shape) <= len(names)]
    shape = rng.choice(shapes[1:]) if rng.random() < 0.95 else shapes[0]
    return tuple(
        Voter(node, f"{rng.getrandbits(64):016x}", "data" if letter == "d" else "witness")
        for node, letter in zip(rng.sample(names, len(shape)), shape, strict=True)
    )


def _with_override(rng: Random, faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    if rng.random() >= OVERRIDES_SHARE:
        return faults
    lost = Fault(rng.randrange(START_NS, START_NS + FAULTS_NS), LOSE_THE_MAJORITY, rng.getrandbits(48))
    return tuple(sorted((*faults, lost), key=lambda fault: fault.at_ns))


def _faults(rng: Random) -> tuple[tuple[Fault, ...], tuple[Fault, ...]]:
    """(those with a moment of their own, spare ones). Each seed has a mixture of its own: some kinds never, some more
    than usual; spread, or in clusters."""
    weights = {kind: weight * rng.choice((0, 1, 1, 1, 2)) for kind, weight in WEIGHTS.items()}
    if not any(weights.values()):
        weights = dict(WEIGHTS)
    count = FAULTS_MIN + rng.randrange(12)
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    end = START_NS + FAULTS_NS
    if rng.random() < 0.5:
        moments = [rng.randrange(START_NS, end) for _ in range(count)]
    else:
        centres = [rng.randrange(START_NS, end) for _ in range(rng.randint(3, 8))]
        moments = [min(rng.choice(centres) + rng.randrange(600 * MS), end - 1) for _ in range(count)]
    faults = tuple(Fault(at, kind, rng.getrandbits(48)) for at, kind in zip(sorted(moments), kinds, strict=True))
    spare = tuple(Fault(end, rng.choice(("kill one", "break links")), rng.getrandbits(48)) for _ in range(FAULTS_MIN))
    return faults, spare
