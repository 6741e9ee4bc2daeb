"""The store against a dictionary, through kills and power losses.

A power loss keeps, for every 4 KiB page of every file, either what was there when the store last promised
durability or what was written since, page by page at random, and tears pages of the files in slots in two:
harsher than a disk, and all that the store may count on. What must hold after it:

- unmarked regions read exactly as before;
- in marked regions every block reads, and reads as something that was written to it since the last sync;
- `unclean` if and only if something is marked; no promised mark and no promised state is missing;
- the offline check finds the directory whole, and the digest of the data file is that of the dictionary.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from xxhash import xxh3_64_hexdigest

from services.replica.store import REGIONS, FileStore, Format, block_sums, by_region, check, digest, nodes
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 2 * REGION_BLOCKS + 500
ZERO = bytes(BLOCK_BYTES)
LAYER = "layers/0001/"
SMALL = ("state", "intent", "tail", LAYER + "sums", LAYER + "roots")
EDGES = (0, REGION_BLOCKS - 4, 2 * REGION_BLOCKS - 4, SIZE - 12)
starts = st.builds(lambda edge, offset: edge + offset, st.sampled_from(EDGES), st.integers(0, 6))
counts = st.integers(1, 6)
TOUCHED = [edge + offset for edge in EDGES for offset in range(12)]


def content(seed: int, at: int) -> bytes:
    return ZERO if seed == 0 else (seed * 1000003 + at).to_bytes(8, "little") * (BLOCK_BYTES // 8)


def regions(at: int, count: int) -> set[int]:
    return set(range(at // REGION_BLOCKS, (at + count - 1) // REGION_BLOCKS + 1))


def survivor(dice: random.Random, now: bytes, then: bytes, torn: bool) -> bytes:
    """One page after the power came back."""
    if now == then:
        return now
    cut = dice.choice((0, 9, 24, 33, BLOCK_BYTES)) if torn else dice.choice((0, BLOCK_BYTES))
    return now[:cut] + then[cut:]


class Durable:
    """The pages that survive for certain, kept per file as the store promises them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.small: dict[str, bytes] = {}
        self.data: dict[int, bytes] = {}

    def keep(self, *names: str) -> None:
        for name in names:
            if name == "data":
                self.data = self._data()
            else:
                self.small[name] = (self.directory / name).read_bytes()

    def lose_power(self, dice: random.Random) -> None:
        for name in SMALL:
            path = self.directory / name
            now, then = path.read_bytes(), self.small[name]
            pages = [slice(at, at + BLOCK_BYTES) for at in range(0, len(now), BLOCK_BYTES)]
            torn = name in ("state", "intent")
            path.write_bytes(b"".join(survivor(dice, now[page], then[page], torn) for page in pages))
        now_data = self._data()
        with (self.directory / LAYER / "data").open("r+b") as file:
            for at in TOUCHED:
                file.seek(at * BLOCK_BYTES)
                file.write(dice.choice((now_data[at], self.data[at])))

    def _data(self) -> dict[int, bytes]:
        found = {}
        with (self.directory / LAYER / "data").open("rb") as file:
            for at in TOUCHED:
                file.seek(at * BLOCK_BYTES)
                found[at] = file.read(BLOCK_BYTES)
        return found


class StoreMachine(RuleBasedStateMachine):
    """A caller that keeps the rules of the port, and a world that keeps none."""

    @initialize()
    def create(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="stos-model-"))
        self.directory = self.root / "replica"
        self.boot = 0
        self.store = FileStore.create(self.directory, Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot-0")
        self.durable = Durable(self.directory)
        self.durable.keep("data", *SMALL)
        self.blocks = dict.fromkeys(TOUCHED, ZERO)
        self.candidates = {at: {ZERO} for at in TOUCHED}
        self.unsynced: set[int] = set()
        self.marked: set[int] = set()
        self.tail: list[tuple[int, int, int]] = []
        self.seq = self.commit = 0
        self.doubt: set[int] | None = None
        self.state: bytes | None = None
        self.unclean = False

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.store.close()
            self.agree()
        finally:
            shutil.rmtree(self.root)

    def agree(self) -> None:
        """The closed directory is whole and holds what the dictionary says."""
        report = check(self.directory)
        assert report.whole, report
        sums = bytearray(SIZE * 8)
        for at, data in self.blocks.items():
            sums[at * 8 : at * 8 + 8] = block_sums(data)
        assert digest(self.directory).digest == xxh3_64_hexdigest(bytes(sums))

    # --- the caller ---

    def begin(self, at: int, count: int) -> None:
        if not regions(at, count) <= self.marked:
            self.store.mark(regions(at, count))
            self.durable.keep("intent")
            self.marked |= regions(at, count)
        self.unsynced |= regions(at, count)
        self.seq += 1
        self.store.tail_append(self.seq, at, count)
        self.tail.append((self.seq, at, count))

    def applied(self, at: int, data: list[bytes]) -> None:
        for number, block in enumerate(data, at):
            self.blocks[number] = block
            self.candidates[number].add(block)

    @rule(at=starts, seeds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def write(self, at: int, seeds: list[int]) -> None:
        data = [content(seed, at + offset) for offset, seed in enumerate(seeds)]
        self.begin(at, len(data))
        self.store.write(at, block_sums(b"".join(data)), b"".join(data))
        self.applied(at, data)

    @rule(
        places=st.lists(st.tuples(starts, counts), min_size=1, max_size=5), seed=st.integers(1, 3), holes=st.booleans()
    )
    def write_scattered(self, places: list[tuple[int, int]], seed: int, holes: bool) -> None:
        """As copies come in: one note in the tail for what lies in one region."""
        data = [
            content(0 if holes and at % 3 == 0 else seed, at) for first, n in places for at in range(first, first + n)
        ]
        self.store.mark({region for at, count in places for region in regions(at, count)})
        self.durable.keep("intent")
        for part in by_region(places):
            self.begin(*part.hull)
        self.store.write_scattered(places, block_sums(b"".join(data)), b"".join(data))
        for at, count in places:
            self.applied(at, data[:count])
            del data[:count]

    @rule(places=st.lists(st.tuples(starts, counts), min_size=1, max_size=5))
    def read_scattered(self, places: list[tuple[int, int]]) -> None:
        data = b"".join(self.blocks[at] for first, count in places for at in range(first, first + count))
        assert self.store.read_scattered(places) == (block_sums(data), data)

    @rule(at=starts, count=counts)
    def zero(self, at: int, count: int) -> None:
        self.begin(at, count)
        self.store.zero(at, count)
        self.applied(at, [ZERO] * count)

    @rule(at=starts, count=counts)
    def read(self, at: int, count: int) -> None:
        data = b"".join(self.blocks[number] for number in range(at, at + count))
        assert self.store.read(at, count) == (block_sums(data), data)

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.durable.keep("data", LAYER + "sums", LAYER + "roots")
        self.unsynced.clear()
        self.candidates = {at: {data} for at, data in self.blocks.items()}

    @rule(behind=st.integers(0, 3))
    def confirm(self, behind: int) -> None:
        self.commit = max(self.commit, self.seq - behind)
        self.store.tail_commit(self.commit)
        self.tail = [entry for entry in self.tail if entry[0] > self.commit]

    @precondition(lambda self: not self.unclean)
    @rule()
    def unmark(self) -> None:
        unfinished = {region for _, at, count in self.tail for region in regions(at, count)}
        settled = self.marked - self.unsynced - unfinished
        self.store.unmark(settled)
        self.marked -= settled
        if self.doubt is not None:
            self.doubt = self.doubt - settled or None

    @precondition(lambda self: self.unclean)
    @rule()
    def delta_sync(self) -> None:
        self.sync()
        self.store.set_clean()
        self.durable.keep("intent")
        self.unclean, self.doubt = False, None

    @rule(state=st.binary(max_size=50))
    def save_state(self, state: bytes) -> None:
        self.store.save_state(state)
        self.durable.keep("state")
        self.state = state

    # --- the world ---

    def reopen(self) -> None:
        self.store = FileStore.open(self.directory, cluster="c", boot_id=f"boot-{self.boot}")
        self.durable.keep("state", "intent")
        assert self.store.load_state() == self.state

    @rule()
    def kill(self) -> None:
        self.store.close(clean=False)
        self.reopen()
        assert self.store.restarted
        assert self.store.marked == self.marked

    @rule(same_boot=st.booleans())
    def restart(self, same_boot: bool) -> None:
        self.store.close()
        self.durable.keep("data", *SMALL)
        self.unsynced.clear()
        self.candidates = {at: {data} for at, data in self.blocks.items()}
        if self.unclean and not same_boot:
            self.tail, self.doubt = [], set(self.marked)
        elif not self.unclean and self.doubt is None:
            self.marked = {region for _, at, count in self.tail for region in regions(at, count)}
        self.boot += not same_boot
        self.reopen()
        assert self.store.restarted == self.unclean
        assert self.store.marked == self.marked
        self.doubt = self.doubt or None

    @rule(dice=st.randoms(use_true_random=False))
    def lose_power(self, dice: random.Random) -> None:
        self.store.close(clean=False)
        self.durable.lose_power(dice)
        self.boot += 1
        was_unclean = self.unclean
        self.reopen()
        assert self.store.restarted
        assert self.store.marked >= self.marked, "a promised mark is missing"
        self.marked = set(self.store.marked)
        self.unclean = was_unclean or bool(self.marked)
        self.tail, self.doubt = [], self.marked or None
        last, commit = self.store.tail_state()
        assert commit <= self.commit
        assert last <= max(self.seq, self.commit)
        self.commit = commit
        for at in TOUCHED:
            data = self.store.read(at, 1)[1]
            if at // REGION_BLOCKS in self.marked:
                assert data in self.candidates[at]
                self.blocks[at] = data
            else:
                assert data == self.blocks[at]

    # --- always ---

    @invariant()
    def flags_and_tail(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.marked == self.marked
        assert self.store.unclean == self.unclean
        assert self.store.tail_entries() == (None if self.doubt else self.tail)

    @invariant()
    def regions_are_compared_by_what_their_sums_are(self) -> None:
        """By their roots where these say something, and never by a root that does not: two copies would be taken for
        equal, and a write would be lost."""
        if hasattr(self, "store"):
            stored = (self.store.directory / LAYER / "sums").read_bytes()
            assert self.store.digests(REGIONS, 0, len(stored) // (REGION_BLOCKS * 8)) == nodes(stored, REGION_BLOCKS)


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStoreModel = StoreMachine.TestCase
