"""The embedded cluster: one directory, a dozen processes on this machine, all of it real.

Up in three stages: certs (makes the CA), NATS, then all the rest at once; whoever has no identity yet gets a one-time
join token. Each stage waits for what it needs and for nothing longer. Whatever fails stops the start with the reason
from that process's own log, and what was started is stopped again.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from services.dev import leftovers, ports, state
from services.dev.admission import admit
from services.dev.layout import ADMIN, APP, COPY_NODES_MAX, COPY_NODES_MIN, Layout, copy_nodes
from services.dev.members import Member, members, port_names, select
from services.dev.processes import ProcessId, alive, send_signal, spawn, terminate, wait_gone
from services.dev.readiness import Starting, wait_ready
from services.dev.roll import call_roll
from services.dev.state import ClusterState
from stoscore.errors import invalid, not_found, precondition

READY_TIMEOUT_S = 60.0
STOP_PATIENCE_S = 25.0
"""Services give what is under way 20 s."""
NODES_DEFAULT = 3
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    name: str
    group: str
    alive: bool
    pid: int
    """0 when it was never started."""
    log: str


class Cluster:
    """The cluster in one directory, whether it runs or not. Every method leaves `cluster.json` true."""

    def __init__(self, root: Path):
        self.layout = Layout(root.absolute())

    # --- looking ---

    def state(self) -> ClusterState:
        """Raises StosError NOT_FOUND when the directory holds no cluster."""
        known = state.read(self.layout.state)
        if known is None:
            raise not_found(f"there is no cluster in {self.layout.root}", "start one with `stos dev up`")
        return known

    def status(self) -> list[ProcessStatus]:
        known = self.state()
        found = []
        for member in members(self.layout, known):
            process = known.processes.get(member.process)
            log = str(self.layout.log(member.process))
            lives = process is not None and alive(process)
            found.append(ProcessStatus(member.process, member.group, lives, process.pid if process else 0, log))
        return found

    def running(self) -> list[str]:
        known = state.read(self.layout.state)
        return [name for name, process in known.processes.items() if alive(process)] if known else []

    # --- changing ---

    def up(self, nodes: int | None = None, say: Say = lambda line: None) -> ClusterState:
        """Starts everything. Raises StosError; then nothing of it runs."""
        self._refuse_foreign_directory()
        with state.exclusive(self.layout.lock):
            if running := self.running():
                raise precondition(
                    f"a cluster is running in {self.layout.root} ({', '.join(running)})",
                    "stop it with `stos dev stop`, or use another --dir",
                )
            known = self._prepare(nodes)
            self._refuse_taken_ports(known)
            try:
                for _, stage in groupby(members(self.layout, known), key=lambda member: member.stage):
                    self._start(list(stage), say)
                call_roll(self.layout, self.state(), (*known.nodes, APP), READY_TIMEOUT_S)
            except BaseException:
                # Also when interrupted: half a cluster would keep its ports and refuse the next start.
                self._stop_all()
                raise
            return self.state()

    def start(self, name: str, say: Say = lambda line: None) -> list[str]:
        """Starts what is named and does not run; returns the names of the processes that were started."""
        with state.exclusive(self.layout.lock):
            down = [member for member in self._select(name) if not self._alive(member.process)]
            self._start(down, say)
            nodes = [member.process for member in down if member.kind == "node"]
            if nodes and self._alive("nats"):
                call_roll(self.layout, self.state(), nodes, READY_TIMEOUT_S)
            return [member.process for member in down]

    def spawn(self, name: str) -> ProcessId:
        """Starts one process and returns at once, for who measures what comes after."""
        with state.exclusive(self.layout.lock):
            (member,) = self._select(name)
            return self._spawn(member).process

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> list[str]:
        """Sends a signal to what is named; returns the processes that got it. After SIGKILL they are gone."""
        with state.exclusive(self.layout.lock):
            known = self.state()
            hit = {}
            for member in self._select(name):
                process = known.processes.get(member.process)
                if process is not None and send_signal(process, number):
                    hit[member.process] = process
            if not hit:
                raise precondition(f"{name} is not running", "see `stos dev status`")
            if number == signal.SIGKILL:
                wait_gone(hit.values(), STOP_PATIENCE_S)
            return list(hit)

    def stop(self, say: Say = lambda line: None) -> list[str]:
        """Stops every process that was started here; returns the names of those that had to be killed."""
        self.state()
        with state.exclusive(self.layout.lock):
            for line in leftovers.release_mounts(self.layout.root, self.layout.run):
                say(line)
            return self._stop_all()

    def remove(self) -> None:
        """Deletes the directory of a stopped cluster."""
        if self.running():
            raise precondition(f"the cluster in {self.layout.root} is running", "stop it first")
        shutil.rmtree(self.layout.run, ignore_errors=True)
        shutil.rmtree(self.layout.root, ignore_errors=True)

    # --- how ---

    def _refuse_foreign_directory(self) -> None:
        """A mistyped --dir must not fill somebody's directory with a cluster."""
        root = self.layout.root
        if root.exists() and not root.is_dir():
            raise precondition(f"{root} is no directory", "use another --dir")
        ours = {self.layout.lock.name, self.layout.state.name}
        try:
            names = {entry.name for entry in root.iterdir()} if root.exists() else set()
        except OSError as error:
            raise precondition(f"can't read {root}: {error.strerror}") from None
        if names and not names & ours:
            raise precondition(f"{root} is not empty and holds no cluster", "use another --dir")

    def _prepare(self, nodes: int | None) -> ClusterState:
        """Reads the cluster of this directory, or makes a new one; adds nodes when more are asked for."""
        if nodes is not None and not COPY_NODES_MIN <= nodes <= COPY_NODES_MAX:
            raise invalid(f"--nodes must be {COPY_NODES_MIN} to {COPY_NODES_MAX}, not {nodes}")
        known = state.read(self.layout.state)
        if known is None:
            known = ClusterState(
                nodes=tuple(copy_nodes(nodes or NODES_DEFAULT)),
                nats_urls=(),
                user_identity_dir=str(self.layout.identity(ADMIN).relative_to(self.layout.root)),
                ports={},
            )
        elif nodes is not None and nodes < len(known.nodes):
            raise precondition(
                f"this cluster has {len(known.nodes)} nodes, and some may hold copies",
                "leave --nodes out, or use another --dir",
            )
        elif nodes is not None:
            known = replace(known, nodes=tuple(copy_nodes(nodes)))
        missing = [name for name in port_names(known.nodes) if name not in known.ports]
        chosen = known.ports | dict(zip(missing, ports.free_ports(len(missing)), strict=True))
        known = replace(known, ports=chosen, nats_urls=(f"tls://{ports.HOST}:{chosen['nats']}",))
        state.save(self.layout.state, known)
        self._make_directories(known)
        return known

    def _make_directories(self, known: ClusterState) -> None:
        layout = self.layout
        wanted = [layout.logs, layout.run, layout.csi]
        wanted += [path("x").parent for path in (layout.token, layout.identity, layout.data)]
        wanted += [layout.data(node) for node in (*known.nodes, APP)]
        wanted += [layout.socket_directory(node) for node in (*known.nodes, APP)]
        for directory in wanted:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise precondition(f"can't make the directory {directory}: {error.strerror}") from None

    def _refuse_taken_ports(self, known: ClusterState) -> None:
        taken = [f"{name} {port}" for name, port in sorted(known.ports.items()) if ports.in_use(port)]
        if taken:
            raise precondition(
                f"ports of this cluster are in use by another program: {', '.join(taken)}",
                "end that program, or use another --dir",
            )

    def _start(self, wanted: Sequence[Member], say: Say) -> None:
        if not wanted:
            return
        admit(self.layout, wanted)
        say(f"starting {', '.join(member.process for member in wanted)}")
        wait_ready([self._spawn(member) for member in wanted], READY_TIMEOUT_S)

    def _spawn(self, member: Member) -> Starting:
        log = self.layout.log(member.process)
        offset = log.stat().st_size if log.exists() else 0
        try:
            process = spawn(member.argv, _environment(member), log, self.layout.root)
        except OSError as error:
            raise precondition(f"can't start {member.process}: {member.argv[0]}: {error.strerror}") from None
        state.save(self.layout.state, self.state().with_process(member.process, process))
        return Starting(member.process, process, log, offset)

    def _select(self, name: str) -> list[Member]:
        everything = members(self.layout, self.state())
        found = select(everything, name)
        if not found:
            names = sorted({one for member in everything for one in (member.process, member.group)})
            raise not_found(f"{name!r} is no process of this cluster", f"there are {', '.join(names)}")
        return found

    def _alive(self, name: str) -> bool:
        process = self.state().processes.get(name)
        return process is not None and alive(process)

    def _stop_all(self) -> list[str]:
        """Users of a service before the service: the stages backwards."""
        known = state.read(self.layout.state)
        if known is None:
            return []
        stubborn: list[ProcessId] = []
        backwards = reversed(members(self.layout, known))
        for _, stage in groupby(backwards, key=lambda member: member.stage):
            names = [member.process for member in stage if member.process in known.processes]
            stubborn += terminate([known.processes[name] for name in names], STOP_PATIENCE_S)
        state.save(self.layout.state, replace(known, processes={}))
        return [name for name, process in known.processes.items() if process in stubborn]


def _environment(member: Member) -> dict[str, str]:
    """Ours without anybody's STOS_ settings: those of the shell that starts a cluster are the client's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}
    return inherited | dict(member.settings)
