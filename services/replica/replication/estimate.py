"""What bringing a copy up to date will cost, said before it begins: blocks, bytes, seconds, and how sure that is.

With a map nearly every candidate differs. Without one nobody knows before some of them were compared: so the first
comparisons are drawn from all over what may differ, nothing is copied before they are answered, and their share of
differing blocks is taken for that of the rest. Its error is that of a sample, which is known too.

How fast it goes is what it was the last times with the same node; how well that was foretold says how far to trust it.
A return has two ends that have nothing to do with each other. Copying is bounded by the budget, where that is what
holds it back: then it takes as long as the budget says, whatever the machine. Else it is not one rate: there is what
every return costs (round trips), what a block costs, what a piece of neighbours costs (system calls and a seek), and
what comparing costs. Then the copy syncs what it got, which is a matter of its disk. Both are fitted to the last
truths, each to its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from stoscore.units import BLOCK_BYTES, MS, SECOND

COPY_OVERHEAD_BYTES = 24
"""Of a block that travels: its range and its checksum; neighbours share the range."""
COMPARE_OVERHEAD_BYTES = 8
CONFIDENCE = 2.0
"""Standard errors to either side: nineteen of twenty are inside."""
UNKNOWN_ERROR = 0.5
"""Until the first truth is known."""
ERROR_MIN = 0.1
_WEIGHT = 0.3

Rates = tuple[float, ...]
UNKNOWN_COPYING: Rates = (5.0 * MS, 9_000.0, 20_000.0, 700.0)
"""Nanoseconds: a return, a block that travels, a piece of neighbours that travel, a compared block."""
UNKNOWN_FINISH: Rates = (20.0 * MS, 500.0, 2_000.0)
"""Nanoseconds: a sync, a block that came, a piece of neighbours that came. Both are of a disk and a processor of the
middling sort."""
TRUTHS = 16
"""How many of the last returns the rates are fitted to."""
_DOUBT = 0.001
"""What the rates from before count beside one truth: they decide where the truths say nothing."""
_USUAL_ERROR = 0.2
"""Of what was foretold. A return that is much farther off met something else, a disk that stood still for a moment."""
_ROUNDS, _STEPS = 4, 30


@dataclass(frozen=True, slots=True)
class Band:
    """The best guess, and what it lies between."""

    low: int
    likely: int
    high: int

    def __post_init__(self) -> None:
        assert 0 <= self.low <= self.likely <= self.high


@dataclass(frozen=True, slots=True)
class Estimate:
    bytes: Band
    duration_ns: Band


@dataclass(frozen=True, slots=True)
class Work:
    """What of a return takes time."""

    blocks: int
    """that travel"""
    pieces: int
    """in which they lie side by side"""
    compared: int

    @property
    def copying(self) -> Rates:
        return 1.0, float(self.blocks), float(self.pieces), float(self.compared)

    @property
    def finish(self) -> Rates:
        return 1.0, float(self.blocks), float(self.pieces)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the budget leaves."""

    bytes_per_s: int
    at_once: int = 0
    """Bytes that may leave before the rate counts."""
    ahead: int = 0
    """Bytes of other copies that go first."""

    def held_ns(self, size: int) -> int:
        """Before the last of so many bytes may leave."""
        return max(0, size + self.ahead - self.at_once) * SECOND // max(1, self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Took:
    """What a return has taken."""

    copying_ns: int
    finish_ns: int
    held_back: bool = False
    """The budget decided how long copying took."""

    @property
    def ns(self) -> int:
        return self.copying_ns + self.finish_ns


Expected = tuple[Work, Work, Work]
"""The least, the likely, and the most."""


class Share:
    """Which share of the compared blocks differs, as a sample of those that are still to be compared."""

    def __init__(self, *, mapped: bool):
        """`mapped`: each candidate was written while the copy was away."""
        self._mapped = mapped
        self._compared = 0
        self._differing = 0
        self._runs = 0

    def add(self, compared: int, differing: int, runs: int) -> None:
        """`runs`: neighbours that differ tell no more than one of them: files are written in one piece."""
        self._compared += compared
        self._differing += differing
        self._runs += runs

    def of(self, candidates: int) -> Band:
        """How many of so many candidates differ."""
        if not self._compared:
            return Band(0, candidates if self._mapped else candidates // 2, candidates)
        share = self._differing / self._compared
        size = self._compared * self._runs / self._differing if self._differing else self._compared
        # Agresti and Coull: two successes and two failures more, or a sample of all alike would be taken for certain.
        smooth = (share * size + 2) / (size + 4)
        error = CONFIDENCE * sqrt(smooth * (1 - smooth) / (size + 4))
        low, high = max(0.0, share - error), min(1.0, share + error)
        return Band(int(candidates * low), int(candidates * share), -int(-candidates * high // 1))

    def pieces(self, blocks: int) -> int:
        """In how many pieces so many blocks lie that will be found to differ."""
        return -(-blocks * self._runs // self._differing) if self._differing else blocks


class Fit:
    """What each part of some work takes, as the last truths say."""

    def __init__(self, before: Rates, least: Rates) -> None:
        """`before`: what is known of other nodes. No factor would make anything of a rate of nothing."""
        self._before = tuple(max(rate, low / 4) for rate, low in zip(before, least, strict=True))
        self._truths: deque[tuple[Rates, int]] = deque(maxlen=TRUTHS)
        self._rates: Rates | None = self._before

    def learn(self, parts: Rates, took_ns: int) -> None:
        if took_ns > 0:
            self._truths.append((parts, took_ns))
            self._rates = None

    @property
    def rates(self) -> Rates:
        """Fitted when somebody asks: of a hundred volumes that return together each one's end would else keep the
        applications waiting for milliseconds, for an estimate that nobody needs before the next node returns."""
        if self._rates is None:
            self._rates = fitted(self._truths, self._before)
        return self._rates

    def of(self, parts: Rates) -> float:
        return sum(rate * part for rate, part in zip(self.rates, parts, strict=True))


class Speed:
    """How long returns of one node take, learned from those that are done."""

    def __init__(self, before: Speed | None = None) -> None:
        """`before`: what is known of other nodes."""
        self.copying: Fit = Fit(before.copying.rates if before else UNKNOWN_COPYING, UNKNOWN_COPYING)
        self.finish: Fit = Fit(before.finish.rates if before else UNKNOWN_FINISH, UNKNOWN_FINISH)
        self.error = UNKNOWN_ERROR

    def learn(self, work: Work, took: Took, foretold_ns: int) -> None:
        if took.ns <= 0:
            return
        if foretold_ns:
            self.error += _WEIGHT * (min(error_of(foretold_ns, took.ns), 1.0) - self.error)
        self.finish.learn(work.finish, took.finish_ns)
        if not took.held_back:
            self.copying.learn(work.copying, took.copying_ns)

    def duration_ns(self, work: Work, allowed: Allowance) -> int:
        copying = max(self.copying.of(work.copying), allowed.held_ns(work.blocks * BLOCK_BYTES))
        return int(copying + self.finish.of(work.finish))

    def band(self, expected: Expected, allowed: Allowance) -> Band:
        error = max(ERROR_MIN, min(0.9, CONFIDENCE * self.error))
        least, middle, most = (self.duration_ns(work, allowed) for work in expected)
        return Band(int(least * (1 - error)), middle, max(middle, int(most * (1 + error))))


def fitted(truths: Sequence[tuple[Rates, int]] | deque[tuple[Rates, int]], before: Rates) -> Rates:
    """The rates with the smallest relative errors, none below zero. Each is sought as a multiple of the one before, and
    being another costs a little, so that what no truth tells apart stays as it was. Truths that are far off what the
    fit says count less with each round."""
    rows = [[rate * part / took_ns for rate, part in zip(before, parts, strict=True)] for parts, took_ns in truths]
    factors = [1.0] * len(before)
    weights = [1.0] * len(rows)
    for _ in range(_ROUNDS):
        _descend(factors, rows, weights)
        off = [(1 - sum(map(float.__mul__, row, factors))) / _USUAL_ERROR for row in rows]
        weights = [1 / (1 + error * error) for error in off]
    return tuple(rate * factor for rate, factor in zip(before, factors, strict=True))


def _descend(factors: list[float], rows: Sequence[Sequence[float]], weights: Sequence[float]) -> None:
    """Least squares of `row * factors = 1`, one factor after the other until they rest."""
    size = range(len(factors))
    products = [[sum(w * row[a] * row[b] for w, row in zip(weights, rows, strict=True)) for b in size] for a in size]
    wanted = [sum(w * row[a] for w, row in zip(weights, rows, strict=True)) + _DOUBT for a in size]
    for _ in range(_STEPS):
        for a in size:
            others = sum(products[a][b] * factors[b] for b in size if b != a)
            factors[a] = max(0.0, (wanted[a] - others) / (products[a][a] + _DOUBT))


def error_of(foretold: int, truth: int) -> float:
    """By which share of the truth it was wrong, either way."""
    return abs(foretold - truth) / max(1, truth)


def bytes_of(blocks: int, compared: int) -> int:
    """What so many copied and so many compared blocks cost on the wire, but for headers and TLS."""
    return blocks * (BLOCK_BYTES + COPY_OVERHEAD_BYTES) + compared * COMPARE_OVERHEAD_BYTES


def estimate(expected: Expected, speed: Speed, allowed: Allowance) -> Estimate:
    """Of what is still to be done."""
    sent = Band(*(bytes_of(work.blocks, work.compared) for work in expected))
    return Estimate(sent, speed.band(expected, allowed))
