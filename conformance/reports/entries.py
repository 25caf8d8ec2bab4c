"""The records of the reported runs in the order in which the page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any, NamedTuple, get_args

import msgspec

from conformance.cases.metrics import METRICS
from conformance.records import CHANGE_GRAVITY, GRAVITY, ChangeVerdict, Record, Run, Verdict

ABSENT = "\N{EN DASH}"
# Thousands would make a page that no browser likes.
DETAILED = 60  # cases shown in full, the gravest
ROWS = 100  # of a table
PRECISIONS = ("fp32", "bf16", "int8")
# Beside which verdict of a case that of its comparison stands; the others make a case no graver.
_AS_GRAVE_AS: dict[ChangeVerdict, Verdict] = {
    "invalid": "invalid",
    "regressed": "outside",
    "inconclusive": "unstable",
}
_MAIN = {
    "accuracy": ("top1",),
    "throughput": ("throughput_images_per_s",),
    "latency": ("latency_p50_s",),
    "speedup": ("speedup_over_fp32",),
    "training": ("global_images_per_s", "training_images_per_s", "top1", "final_loss"),
}


class Entry(NamedTuple):
    """A case on a stack in a run, which is counted from 1, with the records of all its repeats.

    ``record`` is the only one of them, or the gravest with the median of each metric. ``anchor`` is where the page
    shows it in full, or empty; ``about`` is what tells the cases apart beside their names: model, suite or stack, where
    these differ, what it was found to be beside another stack or run, and how often it was repeated; ``changed`` is
    the second of these by itself, or empty.
    """

    run: int
    record: Record
    anchor: str
    about: str
    repeats: tuple[Record, ...]
    changed: str = ""

    def values(self, metric: str) -> tuple[float, ...]:
        """Return what the repeats measured, in their order."""
        return tuple(record.metrics[metric] for record in self.repeats if metric in record.metrics)


def entries(runs: Sequence[Run]) -> tuple[Entry, ...]:
    """Return all cases, the gravest verdicts first, and the same case of several runs together.

    The verdict of a comparison counts as well: a case that regressed stands among those that are outside.
    """
    listed = [(n, _one(same), same) for n, run in enumerate(runs, start=1) for same in _repeats(run.records)]
    found = [(record.case, record.verdict) for _, record, _ in listed]
    found += [(c.case, _AS_GRAVE_AS[c.verdict]) for run in runs for c in run.comparisons if c.verdict in _AS_GRAVE_AS]
    gravest: dict[str, int] = {}
    for case, verdict in found:
        rank = GRAVITY.index(verdict)
        gravest[case] = min(rank, gravest.get(case, rank))
    first_seen = {case: place for place, case in enumerate(gravest)}
    listed.sort(key=lambda item: (gravest[item[1].case], first_seen[item[1].case], item[0]))
    about = _about([record for _, record, _ in listed])
    changed = [_changed(runs[n - 1], record) for n, record, _ in listed]
    return tuple(
        Entry(n, record, f"case-{place}" if place <= DETAILED else "", _repeated(said, change, same), same, change)
        for place, ((n, record, same), said, change) in enumerate(zip(listed, about, changed, strict=True), start=1)
    )


def _changed(run: Run, record: Record) -> str:
    """Return the gravest verdict of the comparisons in which a case was the new one, and beside what."""
    place = (record.case, record.stack, record.profile)
    found = [
        comparison for comparison in run.comparisons if (comparison.case, comparison.new, comparison.profile) == place
    ]
    gravest = min(found, key=lambda comparison: CHANGE_GRAVITY.index(comparison.verdict), default=None)
    return f"{gravest.verdict} beside {gravest.base}" if gravest else ""


def latest(listed: Sequence[Entry], runs: int = 2) -> tuple[Entry, ...]:
    """Return the entries of the last runs of each case on its stack and profile: charts of more say little."""
    together: dict[tuple[str, ...], list[Entry]] = {}
    for entry in listed:
        together.setdefault((entry.record.case, entry.record.stack, entry.record.profile), []).append(entry)
    kept = {
        id(entry)
        for same in together.values()
        for entry in sorted(same, key=lambda entry: (entry.record.started_at, entry.run))[-runs:]
    }
    return tuple(entry for entry in listed if id(entry) in kept)


def _repeats(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Return the records with those together that are repeats of one case on one stack."""
    together: dict[tuple[object, ...], list[Record]] = {}
    seen: dict[tuple[object, ...], int] = {}
    for record in records:
        case = (record.case, record.stack, record.profile, record.precision, record.batch_size)
        same = (*case, record.repeat)
        seen[same] = seen.get(same, 0) + 1
        together.setdefault((*case, seen[same]), []).append(record)
    return [tuple(repeats) for repeats in together.values()]


def _one(same: Sequence[Record]) -> Record:
    """Return a record in the place of repeats: the gravest, with medians, and what all of them left behind."""
    first = min(same, key=lambda record: GRAVITY.index(record.verdict))
    if len(same) == 1:
        return first
    values = {name: [r.metrics[name] for r in same if name in r.metrics] for r in same for name in r.metrics}
    alike = {name for name, found in values.items() if len(found) == len(same) and len(set(found)) == 1}
    told = f"Metrics are medians of {len(same)} repeats ({_verdicts(same)}); sentences and launch are of the gravest."
    return msgspec.structs.replace(
        first,
        metrics={name: median(found) for name, found in values.items()},
        intervals={name: ends for name, ends in first.intervals.items() if name in alike},
        series=tuple(series for record in same for series in record.series),
        kernels=next((record.kernels for record in same if record.kernels), ()),
        notes=(told, *first.notes),
        duration_s=sum(record.duration_s for record in same),
        artefacts={
            name if record is same[0] else f"{name}_repeat{record.repeat}": artefact
            for record in same
            for name, artefact in record.artefacts.items()
        },
    )


def _verdicts(same: Sequence[Record]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts(r.verdict for r in same).items() if number)


def _repeated(about: str, changed: str, same: Sequence[Record]) -> str:
    return " · ".join(filter(None, (about, changed, f"{len(same)} repeats: {_verdicts(same)}" * (len(same) > 1))))


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

    Entries that are the same in all of this are told apart by their case and run, and if need be by stack and profile.
    """
    named = [(entry.record.case, f"run {entry.run}") for entry in chosen]
    for rows in ([_traits(entry) for entry in chosen], named):
        labels = _varying(rows)
        if len(set(labels)) == len(labels):
            return labels
    return _varying([(*name, e.record.stack, e.record.profile) for name, e in zip(named, chosen, strict=True)])


def _varying(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return of each row the first word and those that differ from row to row."""
    varying = [i for i in range(len(rows[0])) if i == 0 or len({row[i] for row in rows}) > 1] if rows else []
    return [" · ".join(row[i] for i in varying) for row in rows]


def _traits(entry: Entry) -> tuple[str, ...]:
    record = entry.record
    batch = f"batch {record.batch_size or ABSENT}"
    return record.precision, batch, record.model, record.dataset, record.stack, f"run {entry.run}"


def main_metric(record: Record) -> str | None:
    """Return what a case is about: the first of the metrics of its mode that it has a number for."""
    return next((metric for metric in _MAIN.get(record.mode, ()) if metric in record.metrics), None)


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


def package_version(stack: dict[str, Any], *names: str) -> str:
    """Return the version of the first of these packages in what a run's header says of a stack, or nothing."""
    told = {**stack, **(stack.get("packages") or {})}
    return next((str(told[name]) for name in names if told.get(name)), "")


def moment(text: str) -> str:
    """Show an ISO time as people read it; what is none stays as it is.

    >>> moment("2026-11-21T12:03:01+00:00")
    '21 Nov 2026, 12:03:01 UTC'
    """
    time = time_of(text)
    return f"{time:%d %b %Y, %H:%M:%S %Z}".strip() if time else text


def time_of(text: str) -> datetime | None:
    """Return an ISO time, in UTC where it names no zone, or None for a text that is none."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 reads no Z
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
