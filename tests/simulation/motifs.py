"""Two or three faults at the right distance: the troubles that the rules of the protocol were written for.

Drawn at random they would meet once in ten thousand seeds. Each names what it sets up, not what it expects: the
checks are the same as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from services.replica.brain import events as ev
from stoscore.units import MS, SECOND
from tests.simulation.faults import Struck

if TYPE_CHECKING:
    from tests.simulation.machine import Machine


def old_answers(s: Struck) -> None:
    """The primary hears everything late, and then nothing: how old is what it counts on?"""
    volume = s.volume()
    primary = s.primary(volume)
    s.lag([(other, primary.name) for other in s.others(primary.name)], (150 * MS, 450 * MS), 3 * SECOND)
    blow = s.dice.choice((s.pause, lambda m: s.cut(s.both_ways(m.name, s.others(m.name)))))
    s.after(s.dice.randint(500 * MS, 1500 * MS), lambda: blow(primary))


def forgetful_promiser(s: Struck) -> None:
    """The primary lives on the promise of one voter; that one is started again while another would like to lead."""
    volume = s.volume()
    primary = s.primary(volume)
    others = [node for node in s.voters(volume) if node != primary.name]
    if len(others) < 2:
        return
    s.dice.shuffle(others)
    promiser, *rivals = others
    s.cut(s.both_ways(primary.name, rivals), s.dice.randint(1 * SECOND, 3 * SECOND))
    away = s.dice.choice((5 * MS, 50 * MS, 200 * MS))
    s.after(s.dice.randint(500 * MS, 1 * SECOND), lambda: s.kill(s.world.machines[promiser], away))


def slow_marks(s: Struck) -> None:
    """Writes wait for their marks while the primary changes."""
    volume = s.volume()
    backup = s.backup(volume)
    s.slow_disk(backup, s.dice.choice((300 * MS, 1 * SECOND)), 3 * SECOND)
    blow = s.dice.choice((s.kill, s.pause, lambda m: s.isolate(m.name)))
    s.after(s.dice.randint(50 * MS, 600 * MS), lambda: blow(s.primary(volume)))


def write_at_the_gate(s: Struck) -> None:
    """A write waits for its mark on a backup while another primary is elected and asks that one to follow."""
    volume = s.volume()
    backup = s.backup(volume)

    def waits() -> bool:
        state = backup.node.volumes.get(volume) if backup.node is not None else None
        return state is not None and state.replica is not None and state.replica.gate.waiting()

    s.slow_data(backup, s.dice.randint(700 * MS, 1500 * MS), 3 * SECOND)
    blow = s.dice.choice((s.kill, s.pause, lambda m: s.isolate(m.name)))
    s.when(backup, waits, lambda: blow(s.primary(volume)), 2 * SECOND)


def two_take_overs(s: Struck) -> None:
    """The new primary dies in the middle of its take-over, the next one as well."""
    volume = s.volume()
    s.kill(s.primary(volume), s.dice.randint(300 * MS, 3 * SECOND))
    if s.dice.random() < 0.5:
        for node in s.world.data_nodes(volume):
            _dies_taking_over(s, volume, s.world.machines[node])
        return
    for _ in range(s.dice.randint(1, 3)):
        blow = s.dice.choice((s.kill, lambda m: s.light_fuse(m, s.dice.randint(1, 30))))
        s.after(s.dice.randint(400 * MS, 1200 * MS), lambda blow=blow: blow(s.primary(volume)))  # type: ignore[misc]


def _dies_taking_over(s: Struck, volume: str, machine: Machine) -> None:
    """When others have told it what they may hold, and it has compared nothing."""

    def takes_over() -> bool:
        state = machine.node.volumes.get(volume) if machine.node is not None else None
        primary = state.primary if state is not None else None
        return primary is not None and not primary.serving and any(p.resync for p in primary.peers.values())

    s.when(machine, takes_over, lambda: s.kill(machine), 2 * SECOND)


def back_and_dark(s: Struck) -> None:
    """A copy comes back, is brought up to date, and then all lose power; who starts first is a matter of luck."""
    volume = s.volume()
    away = s.dice.randint(100 * MS, 1500 * MS)
    s.kill(s.backup(volume), away)

    def dark() -> None:
        for machine in s.world.machines.values():
            s.power_off(machine, s.dice.randint(10 * MS, 1500 * MS))

    s.after(away + s.dice.randint(20 * MS, 800 * MS), dark)


def stale_member(s: Struck) -> None:
    """A member is cut off and leaves the set; as it comes back, the others go."""
    volume = s.volume()
    backup, primary = s.backup(volume), s.primary(volume)
    lasts = s.dice.randint(600 * MS, 2 * SECOND)
    s.cut(s.both_ways(backup.name, s.others(backup.name)), lasts)
    s.nats_down([backup.name], lasts)
    blow = s.dice.choice((s.kill, s.pause, s.power_off))
    s.after(lasts - s.dice.randint(0, 100 * MS), lambda: blow(primary))


def forgotten_follower(s: Struck) -> None:
    """A follower hears of nobody for long, its links not knowing that they are dead."""
    backup = s.backup()
    lasts = s.dice.randint(3 * SECOND, 6 * SECOND)
    s.cut(s.both_ways(backup.name, s.others(backup.name)), lasts)
    if s.dice.random() < 0.5:
        s.after(lasts, lambda: s.power_off(backup))


def old_primary_wakes(s: Struck) -> None:
    """Paused for as long as an election takes, with writes in flight and in its sockets."""
    s.pause(s.primary(), s.dice.randint(400 * MS, 1600 * MS))


def frontend_again(s: Struck) -> None:
    """The frontend's process is killed and back at once: what it had sent is still on its way."""
    volume = s.world.volumes.get(s.volume())
    if volume is None:
        return
    s.lag([(volume.wanted, other) for other in s.others(volume.wanted)], (50 * MS, 400 * MS), 2 * SECOND)
    at = volume.wanted
    s.after(s.dice.randint(100 * MS, 500 * MS), lambda: s.kill(s.world.machines[at], 10 * MS))


def to_and_fro(s: Struck) -> None:
    """Attached here, there, and here again, in the middle of a failover or not."""
    volume = s.volume()
    s.move(volume)
    for _ in range(2):
        s.after(s.dice.randint(100 * MS, 1 * SECOND), lambda: s.move(volume))
    if s.dice.random() < 0.5:
        s.after(s.dice.randint(0, 600 * MS), lambda: s.kill(s.primary(volume)))


def flush_alone(s: Struck) -> None:
    """One member loses power and is back before anything else is written; then all do."""
    volume = s.volume()
    s.power_off(s.backup(volume), s.dice.choice((20 * MS, 100 * MS, 600 * MS)))

    def dark() -> None:
        for node in s.voters(volume):
            s.power_off(s.world.machines[node], s.dice.randint(10 * MS, 1500 * MS))

    s.after(s.dice.randint(100 * MS, 1500 * MS), dark)


def unheard_change(s: Struck) -> None:
    """A record reaches one voter late, whose turn it is when the primary dies; it may not come back for long."""
    volume = s.volume()
    primary, late = s.primary(volume), s.backup(volume)
    s.lag([(primary.name, late.name)], (300 * MS, 450 * MS), 1 * SECOND)
    s.dice.choice((s.change_policy, s.move))(volume)
    away = s.dice.choice((1 * SECOND, 20 * SECOND))
    s.after(s.dice.randint(60 * MS, 280 * MS), lambda: s.kill(primary, away))


def half_elected(s: Struck) -> None:
    """A candidate has voted for itself, and nobody hears of it in time: the old primary goes on below its epoch."""
    volume = s.volume()
    primary, backup = s.primary(volume), s.backup(volume)

    def votes() -> bool:
        state = backup.node.volumes.get(volume) if backup.node is not None else None
        return state is not None and state.brain.role == "voting"

    def muffle() -> None:
        s.nats_down([backup.name], 600 * MS)
        s.cut(s.around(backup.name, "out"), s.dice.randint(200 * MS, 600 * MS))
        primary.resume()

    s.pause(primary, 1200 * MS)
    s.when(backup, votes, muffle, 1200 * MS)


def failing_writes(s: Struck) -> None:
    """Writes fail by the policy while one copy is late with them; then the primary goes."""
    volume = s.volume()
    primary = s.primary(volume)
    others = [node for node in s.world.data_nodes(volume) if node != primary.name]
    if volume not in s.world.volumes or len(others) < 2:
        return
    s.dice.shuffle(others)
    late, lost = others[:2]
    s.world.volumes[volume].change_policy(ev.PolicyAsked(0, failure_mode="hard", on_unavailable="error"))

    def begin() -> None:
        s.lag([(primary.name, late)], (100 * MS, 300 * MS), 2 * SECOND)
        s.after(50 * MS, lambda: s.kill(s.world.machines[lost], 2 * SECOND))
        s.after(s.dice.randint(300 * MS, 1 * SECOND), lambda: s.kill(primary))

    s.after(300 * MS, begin)


def old_socket(s: Struck) -> None:
    """The primary hangs up on a copy that it does not hear, with writes on their way, and dials again: the old ones
    arrive after the new ones."""
    volume = s.volume()
    primary, backup = s.primary(volume).name, s.backup(volume).name
    if primary == backup:
        return
    s.lag([(primary, backup)], (600 * MS, 1500 * MS), s.dice.randint(200 * MS, 600 * MS))
    s.after(s.dice.randint(0, 200 * MS), lambda: s.cut([(backup, primary)], s.dice.randint(460 * MS, 700 * MS)))


def alone_in_its_record(s: Struck) -> None:
    """The primary lets go of a copy in a record that nobody else gets to see, and loses power."""
    volume = s.volume()
    primary, backup = s.primary(volume), s.backup(volume)
    late = [node for node in s.others(primary.name) if node != backup.name]
    s.lag([(primary.name, node) for node in late], (150 * MS, 300 * MS), 500 * MS)
    s.kill(backup, s.dice.randint(100 * MS, 400 * MS))
    s.after(s.dice.randint(10 * MS, 120 * MS), lambda: s.power_off(primary, s.dice.randint(50 * MS, 600 * MS)))


def late_beat(s: Struck) -> None:
    """The primary lives on the promise of one voter, which hears it late: just when its promise has ended."""
    volume = s.volume()
    primary = s.primary(volume)
    others = [node for node in s.voters(volume) if node != primary.name]
    if len(others) < 2:
        return
    promiser = s.dice.choice(others)
    rivals = [node for node in s.others(primary.name) if node != promiser]
    lasts = 2 * SECOND
    s.nats_down([primary.name], lasts)
    s.cut(s.both_ways(primary.name, rivals), lasts)
    late = s.dice.randint(380 * MS, 470 * MS)
    s.after(s.dice.randint(0, 600 * MS), lambda: s.lag([(primary.name, promiser)], (late, late + 10 * MS), lasts))


def stale_source(s: Struck) -> None:
    """A copy is back and lacks a lot; just then what it lacks rots on every other one, on the primary into what was
    there before: a disk that lost its latest writes. Nobody offers another content than the old one."""
    volume = s.volume()
    backup = s.backup(volume)
    s.kill(backup, s.dice.randint(200 * MS, 1 * SECOND))
    behind, rot = lambda: bool(s.lacked(volume, backup)), lambda: s.rot_what_lacks(volume, backup)
    s.when(s.primary(volume), behind, rot, 3 * SECOND)


def one_after_another(s: Struck) -> None:
    """A rolling upgrade in a hurry."""
    at = 0
    for name in s.world.names:
        machine = s.world.machines[name]
        s.after(at, lambda machine=machine: s.stop(machine, s.dice.randint(20 * MS, 400 * MS)))  # type: ignore[misc]
        at += s.dice.randint(100 * MS, 1200 * MS)


MOTIFS: dict[str, tuple[int, Callable[[Struck], None]]] = {
    motif.__name__.replace("_", " "): (3, motif)
    for motif in (
        old_answers,
        forgetful_promiser,
        slow_marks,
        write_at_the_gate,
        two_take_overs,
        back_and_dark,
        stale_member,
        forgotten_follower,
        old_primary_wakes,
        frontend_again,
        to_and_fro,
        flush_alone,
        unheard_change,
        half_elected,
        failing_writes,
        old_socket,
        alone_in_its_record,
        late_beat,
        stale_source,
        one_after_another,
    )
}
