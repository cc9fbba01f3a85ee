"""What ended, counted: by queue, worker, outcome and model, in spans of time (SPEC H8, P4).

The script that ends a claim only appends a line to `gpumesh:ended` (lua/_ended.lua). Whoever reads the counters, and
beat, puts these lines into them first (`fold`), each once:

    gpumesh:count:minute:<minutes since the epoch>      kept for two hours
    gpumesh:count:ten:<ten minutes since the epoch>     kept for 25 h
    gpumesh:count:all                                   since the mesh began

Each is a hash of whole numbers. A field is `<kind>`, figures and, behind a newline, names; `|` stands for a tab:

    n|queue|band|outcome⏎worker   runs                   w|…, r|…   what they waited, and ran, µs
    W|queue|band|bucket⏎          runs that waited so long          R|queue|band|bucket⏎   that ran so long
    m|outcome|bucket⏎worker|model runs of a model that took so long        t|outcome⏎worker|model   what they took, µs
    b⏎worker                      µs that it served a job of a sibling     s⏎worker   model swaps

W, R, m and t are of runs that came to their own end (domain/stats.RUNS; m and t also of those that died of it).
Where a hash is full (FIELDS), names that are new to it are counted as `*`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import redis

from gpu_mesh.domain.stats import FAILURES, RUNS, Outcome, bucket
from gpu_mesh.store import keys, server
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["OTHERS", "Counts", "Runs", "by_minute", "fold", "last_minutes", "read", "totals"]

#: Name of what is counted together where a hash is full.
OTHERS = "*"
#: Fields of the counters of a span, and of those of all time, before new names are counted together.
FIELDS, FIELDS_OF_ALL = 6_000, 60_000
#: Fields whose meaning is remembered.
FIELDS_KNOWN = 16_384
#: Lines that are counted in one go, and how often one call does at most.
FOLDED_AT_ONCE, FOLDS = 5_000, 50
#: Spans that are counted by: name, length, for how long it is kept, s.
_SPANS = (("minute", 60, 7_200), ("ten", 600, 90_000 + 600))
#: Spans of up to this are read by the minute, s.
BY_MINUTE_S = 3_600.0
_SWAP = "swap"
_MICRO = 1e-6


@dataclass(slots=True)
class Runs:
    """How many, and what they waited and ran together, s."""

    count: int = 0
    waited_s: float = 0.0
    ran_s: float = 0.0


@dataclass(slots=True)
class ModelRuns:
    """Runs of one model on one worker with one outcome: bucket of the time they took → how many; and the sum, s."""

    buckets: Counter[int] = field(default_factory=Counter)
    ran_s: float = 0.0


@dataclass(slots=True)
class Counts:
    """What ended between `since` and `until`, s since the epoch by Redis's clock."""

    since: float = 0.0
    until: float = 0.0
    #: By queue, band, outcome and worker.
    runs: dict[tuple[str, str, Outcome, str], Runs] = field(default_factory=dict)
    #: By queue and band: bucket → runs.
    waits: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)
    times: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)
    #: By model, worker and outcome.
    models: dict[tuple[str, str, Outcome], ModelRuns] = field(default_factory=dict)
    #: By worker: how long it served jobs of its siblings, s; and how often it changed its model.
    served: dict[str, float] = field(default_factory=dict)
    swaps: dict[str, int] = field(default_factory=dict)

    @property
    def span_s(self) -> float:
        """How long the span is."""
        return self.until - self.since

    def outcomes(self, *, queue: str | None = None, worker: str | None = None) -> dict[Outcome, int]:
        """How many runs ended how: all, those of a queue, or of a worker."""
        found: Counter[Outcome] = Counter()
        for (its_queue, _, outcome, its_worker), runs in self.runs.items():
            if queue in (None, its_queue) and worker in (None, its_worker):
                found[outcome] += runs.count
        return dict(found)

    def add(self, counted: Mapping[Any, Any]) -> None:
        """Count what a hash has. What cannot be read is left out."""
        for name, count in counted.items():
            try:
                self._add(text(name), int(count))
            except (ValueError, TypeError):
                continue

    def _add(self, name: str, count: int) -> None:
        kind, names, of, number = _field(name)
        if kind in "nwr":
            runs = self.runs.get(of) or self.runs.setdefault(of, Runs())
            if kind == "n":
                runs.count += count
            elif kind == "w":
                runs.waited_s += count * _MICRO
            else:
                runs.ran_s += count * _MICRO
        elif kind in "WR":
            kept = self.waits if kind == "W" else self.times
            kept.setdefault(of, Counter())[number] += count
        elif kind in "mt":
            found = self.models.get(of) or self.models.setdefault(of, ModelRuns())
            if kind == "m":
                found.buckets[number] += count
            else:
                found.ran_s += count * _MICRO
        elif kind == "b":
            self.served[names] = self.served.get(names, 0.0) + count * _MICRO
        elif kind == "s":
            self.swaps[names] = self.swaps.get(names, 0) + count


# The same fields are read again and again.
@lru_cache(FIELDS_KNOWN)
def _field(name: str) -> tuple[str, str, Any, int]:
    """Its kind, its names, what it is counted by, and its bucket. Raises ValueError for what is no field."""
    figures, _, names = name.partition("\n")
    kind, *parts = figures.split("\t")
    if kind in ("n", "w", "r"):
        queue, band, outcome = parts
        return kind, names, (queue, band, Outcome(outcome), names), 0
    if kind in ("W", "R"):
        queue, band, number = parts
        return kind, names, (queue, band), int(number)
    if kind in ("m", "t"):
        worker, _, model = names.partition("\t")
        outcome, number = parts if kind == "m" else (*parts, "0")
        return kind, names, (model or OTHERS, worker, Outcome(outcome)), int(number)
    return kind or "?", names, None, 0


def fold(client: redis.Redis) -> int:
    """Put the lines of runs that ended into the counters; how many lines. Two who do so at once count nothing twice."""
    done = 0
    for _ in range(FOLDS):
        # The number before the lines: if it is another one by then, nothing is counted, and they are read again.
        pipe = client.pipeline(transaction=False)
        pipe.get(keys.ENDED_FIRST)
        pipe.lrange(keys.ENDED, 0, FOLDED_AT_ONCE - 1)
        first, lines = pipe.execute()
        if not lines:
            break
        args: list[Any] = [text(first) if first is not None else "0", len(lines)]
        for name, kept_s, most, counted in _sums(map(text, lines)):
            args += [name, kept_s, most, len(counted)]
            for key, by in counted.items():
                args += [key, by]
        if script(client, "count")(args=args):
            done += len(lines)
        if len(lines) < FOLDED_AT_ONCE:
            break
    return done


def _sums(lines: Iterable[str]) -> list[tuple[str, int, int, Counter[str]]]:
    """What lines add: hash, how long it is kept in s, how many fields it may have, and by how much which."""
    spans: dict[tuple[str, int, int], Counter[str]] = {(keys.count("all"), 0, FIELDS_OF_ALL): Counter()}
    for line in lines:
        try:
            at, counted = _read(line)
        except (ValueError, OverflowError):
            continue  # a stranger's
        where = [(keys.count(name, at // length), kept_s, FIELDS) for name, length, kept_s in _SPANS]
        for span in ((keys.count("all"), 0, FIELDS_OF_ALL), *where):
            sums = spans.setdefault(span, Counter())
            for name, by in counted:
                sums[name] += by
    return [(*span, counted) for span, counted in spans.items()]


def _read(line: str) -> tuple[int, list[tuple[str, int]]]:
    """When a line was written, s, and what it adds. Raises ValueError for what is no line."""
    at, outcome, worker, ran, model, siblings, record = line.split("\t", 6)
    name, sent, _, _, _, band, claimed, *_ = record.split("\t")
    if outcome == _SWAP:
        return int(at), [(f"s\n{worker}", 1)]
    queue, outcome = keys.queue_of(name), Outcome(outcome)
    waited_us = max(0, int(claimed) - int(sent))
    ran_us = int(ran) if ran else max(0, int(at) * 1_000_000 - int(claimed))
    kind = f"\t{queue}\t{band}\t{outcome}\n{worker}"
    found = [("n" + kind, 1), ("w" + kind, waited_us), ("r" + kind, ran_us)]
    number = bucket(ran_us * _MICRO)
    if outcome in RUNS:
        found += [
            (f"W\t{queue}\t{band}\t{bucket(waited_us * _MICRO)}\n", 1),
            (f"R\t{queue}\t{band}\t{number}\n", 1),
        ]
    if model and outcome in RUNS | FAILURES:
        found += [
            (f"m\t{outcome}\t{number}\n{worker}\t{model}", 1),
            (f"t\t{outcome}\n{worker}\t{model}", ran_us),
        ]
    found += [(f"b\n{sibling}", ran_us) for sibling in siblings.split(",") if sibling]
    return int(at), found


def read(client: redis.Redis, span_s: float) -> Counts:
    """What ended in the last `span_s`, up to a day.

    The span begins with a whole minute; one of more than an hour with whole ten minutes. So it is longer than asked
    for, by less than that.
    """
    name, length, _ = _SPANS[0 if span_s <= BY_MINUTE_S else 1]
    fold(client)
    now = server.now(client)
    last = int(now // length)
    first = last - math.ceil(span_s / length)
    return _between(client, name, range(first, last + 1), Counts(since=float(first * length), until=now))


def last_minutes(client: redis.Redis, count: int) -> Counts:
    """What ended in the last whole minutes, the current one left out."""
    fold(client)
    now = int(server.now(client) // 60)
    found = Counts(since=(now - count) * 60.0, until=now * 60.0)
    return _between(client, "minute", range(now - count, now), found)


def by_minute(client: redis.Redis, count: int) -> list[Counts]:
    """As `last_minutes`, each minute for itself, the oldest first."""
    fold(client)
    now = int(server.now(client) // 60)
    found = [Counts(since=number * 60.0, until=(number + 1) * 60.0) for number in range(now - count, now)]
    for counts, held in zip(found, _hashes(client, "minute", range(now - count, now)), strict=True):
        counts.add(held)
    return found


def _between(client: redis.Redis, name: str, numbers: range, counts: Counts) -> Counts:
    for held in _hashes(client, name, numbers):
        counts.add(held)
    return counts


def _hashes(client: redis.Redis, name: str, numbers: range) -> list[dict[Any, Any]]:
    pipe = client.pipeline(transaction=False)
    for number in numbers:
        pipe.hgetall(keys.count(name, number))
    found = []
    for held in pipe.execute(raise_on_error=False):
        if isinstance(held, Exception) and not str(held).startswith("WRONGTYPE"):
            raise held
        found.append(held if isinstance(held, dict) else {})  # a stranger's key of the same name is no hash
    return found


def totals(client: redis.Redis) -> Counts:
    """What ended since the mesh began; counters that never fall, unless Redis loses its data."""
    fold(client)
    counts = Counts(until=server.now(client))
    counts.add(client.hgetall(keys.count("all")))
    return counts
