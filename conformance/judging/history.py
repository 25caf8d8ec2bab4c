"""A case over many runs: the levels that its metrics had, and the first run of each.

Changes are found by PELT (Killick, Fearnhead and Eckley 2012; the library ruptures, every run looked at) on logarithms
of the runs' medians. The cost of a level is the sum of the distances from its median, in which one slow run weighs no
more than it must; a change costs ``PENALTY`` standard deviations of the noise. At 6, about one series in a hundred of 5
to 40 equal runs seems to change, with heavy tails or without. A level has two runs or more: a run by itself is an
outlier until another is like it.

A level is judged by a reference: the best level since one that was accepted or that regressed. So small steps regress
where they add up to more than is allowed, and a regression stands until a level is that close to its reference again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Literal, NamedTuple

from conformance.cases.metrics import METRICS
from conformance.errors import UsageError
from conformance.judging.change import MAX_LOSS, MAX_SLOWDOWN
from conformance.judging.differences import differences
from conformance.records import MEASURED, Record, Run
from conformance.records.accepted import Accepted

PENALTY = 6.0
FEWEST_RUNS = 5
SMALLEST_LEVEL = 2

Step = Literal["regressed", "improved", "within the limit"]


class Key(NamedTuple):
    """What makes runs of a case one history. Stacks may change on the way; machine, profile and batch may not."""

    machine: str
    profile: str
    suite: str
    case: str
    stack: str  # empty where a run has one stack only
    batch_size: int | None
    metric: str


class Point(NamedTuple):
    """One run of a history: the median of its repeats."""

    run: Run
    record: Record
    value: float
    repeats: int


class Level(NamedTuple):
    """Runs from ``first`` to before ``end``, and their median."""

    first: int
    end: int
    value: float


class Shift(NamedTuple):
    """From the run ``first`` on a metric is another: what differs between that run and the one before.

    ``step`` is from the ``reference``, the level by which this one is judged.
    """

    first: Point
    before: float
    after: float
    reference: float
    step: Step
    differences: tuple[str, ...]
    accepted: str  # the reason, or empty
    stands: bool  # regressed, not accepted, and the reference was not reached again


class History(NamedTuple):
    """One metric of a case over the runs of one machine, in the order in which they were made."""

    key: Key
    points: tuple[Point, ...]
    levels: tuple[Level, ...]
    shifts: tuple[Shift, ...]


def histories(
    runs: Iterable[Run], accepted: Sequence[Accepted] = (), max_slowdown: float = MAX_SLOWDOWN
) -> tuple[History, ...]:
    """Return the history of every metric that decides, of every case, machine, profile and batch apart.

    A level that is worse by no more than ``max_slowdown``, or 1 % of an accuracy, is within the limit.
    """
    tracks: dict[Key, list[Point]] = {}
    for run in sorted(runs, key=lambda run: run.header.started_at):
        for key, point in _points(run):
            tracks.setdefault(key, []).append(point)
    return tuple(_history(key, points, accepted, max_slowdown) for key, points in tracks.items())


def levels(values: Sequence[float]) -> tuple[Level, ...]:
    """Return the levels of a series of positive values; one where nothing changed, or too few to tell."""
    ends = _changes([math.log(value) for value in values])
    starts = [0, *ends[:-1]]
    return tuple(Level(a, b, median(values[a:b])) for a, b in zip(starts, ends, strict=True))


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation of a series about its levels, from the steps between neighbours.

    The mean step of a normal series is 2 / sqrt(pi) of its standard deviations; a change of level is one step of many.
    """
    return (
        fmean([abs(after - before) for before, after in zip(values, values[1:], strict=False)]) * math.sqrt(math.pi) / 2
    )


def _changes(logs: Sequence[float]) -> list[int]:
    """Return where levels end, the end of the series last."""
    if len(logs) < FEWEST_RUNS or not (sigma := noise(logs)):
        return [len(logs)]
    try:
        from ruptures import Pelt
    except ModuleNotFoundError:
        message = "A history needs the package 'ruptures', which is not installed."
        raise UsageError(message, "pip install 'tf-conformance[reports]'") from None
    import numpy as np

    signal = np.array(logs).reshape(-1, 1) / sigma
    found = Pelt(model="l1", min_size=SMALLEST_LEVEL, jump=1).fit(signal).predict(pen=PENALTY)
    return [int(end) for end in found]


def _points(run: Run) -> Iterable[tuple[Key, Point]]:
    stacks = {record.stack for record in run.records}
    groups: dict[tuple[str, str, str, int | None], list[Record]] = {}
    for record in run.records:
        if record.verdict in MEASURED:
            groups.setdefault((record.suite, record.case, record.stack, record.batch_size), []).append(record)
    for (suite, case, stack, batch_size), records in groups.items():
        first = records[0]
        for name in dict.fromkeys(name for record in records for name in record.metrics):
            values = [record.metrics[name] for record in records if name in record.metrics]
            if name in METRICS and METRICS[name].gate == "decides" and all(value > 0 for value in values):
                shown = stack if len(stacks) > 1 else ""
                key = Key(machine_name(run), first.profile, suite, case, shown, batch_size, name)
                yield key, Point(run, first, median(values), len(values))


def machine_name(run: Run) -> str:
    """Return what a machine is called in a history: its model, and a digest that tells it from others."""
    import hashlib
    import json

    host = run.machine
    digest = hashlib.sha256(json.dumps(host, sort_keys=True).encode()).hexdigest()[:12]
    return f"{host.get('model_name', 'unknown')} ({digest})"


def _history(key: Key, points: Sequence[Point], accepted: Sequence[Accepted], max_slowdown: float) -> History:
    metric = METRICS[key.metric]
    limit, sign = math.log1p(max_slowdown if metric.speed else MAX_LOSS), 1 if metric.better == "lower" else -1
    found = levels([point.value for point in points])
    reasons = _reasons(key, points, accepted)
    references: list[tuple[float, int | None]] = [(found[0].value, None)]  # each but the first with its regression
    shifts = []

    def worse(value: float, reference: float) -> float:
        return sign * math.log(value / reference)

    for place, (before, after) in enumerate(zip(found, found[1:], strict=False)):
        first, last = points[after.first], points[after.first - 1]
        reference = references[-1][0]
        by = worse(after.value, reference)
        step: Step = "regressed" if by > limit else "improved" if by < -limit else "within the limit"
        reason = next((text for place, text in reasons if place >= after.first), "")
        told = differences(last.run, last.record, first.run, first.record)
        shifts.append(Shift(first, before.value, after.value, reference, step, told, reason, stands=False))
        if reason:
            references = [(after.value, None)]
        elif step == "regressed":
            references.append((after.value, place))
        else:
            while len(references) > 1 and worse(after.value, references[-2][0]) <= limit:
                references.pop()
            best, regression = references[-1]
            references[-1] = min(best, after.value, key=lambda value: sign * value), regression
    for _, regression in references:
        if regression is not None:
            shifts[regression] = shifts[regression]._replace(stands=True)
    return History(key, tuple(points), found, tuple(shifts))


def _reasons(key: Key, points: Sequence[Point], accepted: Sequence[Accepted]) -> list[tuple[int, str]]:
    """Return where levels were accepted in a series, and why."""
    places = {point.run.header.run: place for place, point in enumerate(points)}
    held = [entry for entry in accepted if entry.holds_for(key.case, key.metric) and entry.run in places]
    of_the_stack = [entry for entry in held if not key.stack or entry.stack in (None, key.stack)]
    return sorted((places[entry.run], entry.reason) for entry in of_the_stack)
