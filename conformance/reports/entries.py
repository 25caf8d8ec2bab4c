"""The records of the reported runs in the order in which the page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

from conformance.cases.metrics import METRICS
from conformance.records import GRAVITY, Record, Run, Verdict

ABSENT = "\N{EN DASH}"
DETAILED = 200  # cases shown in full, the gravest: thousands would make a page that no browser likes
PRECISIONS = ("fp32", "bf16", "int8")


class Entry(NamedTuple):
    """A record and the number of its run, from 1.

    ``anchor`` is where the page shows it in full, or empty; ``about`` is what tells the cases apart
    beside their names: model, suite or stack, where these differ.
    """

    run: int
    record: Record
    anchor: str
    about: str


def entries(runs: Sequence[Run]) -> tuple[Entry, ...]:
    """Return all records, the gravest verdicts first, and the same case of several runs together."""
    listed = [(n, record) for n, run in enumerate(runs, start=1) for record in run.records]
    gravest: dict[str, int] = {}
    for _, record in listed:
        rank = GRAVITY.index(record.verdict)
        gravest[record.case] = min(rank, gravest.get(record.case, rank))
    first_seen = {case: place for place, case in enumerate(gravest)}
    listed.sort(key=lambda item: (gravest[item[1].case], first_seen[item[1].case], item[0]))
    anchors = [f"case-{place}" if place <= DETAILED else "" for place in range(1, len(listed) + 1)]
    about = _about([record for _, record in listed])
    return tuple(
        Entry(run, record, anchor, said) for (run, record), anchor, said in zip(listed, anchors, about, strict=True)
    )


def _about(records: Sequence[Record]) -> list[str]:
    traits = [(record.model, record.suite, record.stack) for record in records]
    columns = list(zip(*traits, strict=True))
    varying = [column for column in columns if len(set(column)) > 1]
    return [" · ".join(column[i] for column in varying) for i in range(len(records))]


def by_batch(chosen: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries as speeds are read: by batch size, then precision, model, stack and run."""
    return tuple(sorted(chosen, key=_speed_order))


def _speed_order(entry: Entry) -> tuple[int, int, str, str, int]:
    record = entry.record
    return record.batch_size or 0, precision_rank(record.precision), record.model, record.stack, entry.run


def precision_rank(precision: str) -> int:
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def row_labels(chosen: Sequence[Entry]) -> list[str]:
    """Return what tells the entries apart in a chart: the precision and whatever else differs.

    Entries that are the same in all of this are told apart by their case.
    """
    rows = [_traits(entry) for entry in chosen]
    varying = [i for i in range(len(rows[0])) if i == 0 or len({row[i] for row in rows}) > 1] if rows else []
    labels = [" · ".join(row[i] for i in varying) for row in rows]
    if len(set(labels)) == len(labels):
        return labels
    several = len({entry.run for entry in chosen}) > 1
    return [f"{entry.record.case}{f' · run {entry.run}' if several else ''}" for entry in chosen]


def _traits(entry: Entry) -> tuple[str, ...]:
    record = entry.record
    batch = f"batch {record.batch_size or ABSENT}"
    return record.precision, batch, record.model, record.dataset, record.stack, f"run {entry.run}"


def shown(metric: str, value: float | None) -> str:
    """Return a value as its metric is shown; a value that is absent stays absent."""
    if value is None:
        return ABSENT
    return METRICS[metric].show(value) if metric in METRICS else f"{value:g}"


def label(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else metric


def counts(verdicts: Iterable[Verdict]) -> dict[Verdict, int]:
    """Count every verdict, those that nothing got included."""
    listed = list(verdicts)
    return {verdict: listed.count(verdict) for verdict in get_args(Verdict)}


def counted_aloud(verdicts: Iterable[Verdict]) -> str:
    """
    >>> counted_aloud(["inside", "inside", "not run"])
    '2 inside, 0 outside, 0 unjudged, 0 unstable, 0 invalid, 1 not run'
    """
    return ", ".join(f"{count} {verdict}" for verdict, count in counts(verdicts).items())
