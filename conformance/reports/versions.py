"""The same cases on other versions and other machines, side by side: a row for each case, a column for each place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from conformance.cases.metrics import METRICS
from conformance.records import Record, Run
from conformance.reports.entries import ABSENT, ROWS, Entry, label, main_metric, shown
from conformance.reports.machine import machine_name, versions_of
from conformance.reports.tables import Cell, Row, Table, table

COLUMNS = 6


class _Key(NamedTuple):
    """What is compared: one metric of a case at one batch size."""

    case: str
    metric: str
    batch_size: int | None


class _Place(NamedTuple):
    """On what a case was measured."""

    profile: str
    machine: str
    versions: str
    stack: str


def version_matrix(runs: Sequence[Run], listed: Sequence[Entry]) -> Table | None:
    """Return the main metric of each case and batch by profile, machine and versions of what it ran on.

    The last run counts where several are of one place. None where there is one place only, or no case in two of them.
    """
    latest: dict[tuple[_Key, _Place], Record] = {}
    for entry in sorted(listed, key=lambda entry: entry.record.started_at):
        key = _key(entry.record)
        if key:
            latest[key, _place(runs[entry.run - 1], entry.record)] = entry.record
    found: dict[_Key, list[_Place]] = {}
    for key, place in latest:
        found.setdefault(key, []).append(place)
    order = dict.fromkeys(key for entry in listed if (key := _key(entry.record)))
    shared = [key for key in order if len(found[key]) > 1]
    places = sorted({place for key in shared for place in found[key]}, key=_natural)
    if not shared:
        return None
    drawn = places[:COLUMNS]
    rows = [_row(key, [latest.get((key, place)) for place in drawn]) for key in shared]
    left = f"; {len(places) - COLUMNS} more places are in the CSV" if len(places) > COLUMNS else ""
    left += f"; the first {ROWS} of {len(rows):,} cases" if len(rows) > ROWS else ""
    caption = f"The latest of each case; beneath it the change against the leftmost value in the row, not tested{left}"
    return table(caption, ("Case", "Metric", "Batch", *_heads(drawn)), rows[:ROWS], sortable=True)


def _key(record: Record) -> _Key | None:
    metric = main_metric(record)
    return _Key(record.case, metric, record.batch_size) if metric else None


def _natural(place: _Place) -> list[list[str | int]]:
    """Return what sorts version 2.9 before 2.15."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", field)] for field in place]


def _place(run: Run, record: Record) -> _Place:
    return _Place(record.profile, machine_name(run), versions_of(run.header.stacks.get(record.stack, {})), record.stack)


def _heads(places: Sequence[_Place]) -> list[str]:
    """Return what tells the places apart: versions, or the stack's name where none are known, and what else differs."""
    several = [len({place[i] for place in places}) > 1 for i in range(2)]
    heads = [
        " · ".join([place.versions or place.stack, *(place[i] for i in range(2) if several[i])]) for place in places
    ]
    if len(set(heads)) == len(heads):
        return heads
    return [f"{head} · {place.stack}" for head, place in zip(heads, places, strict=True)]


def _row(key: _Key, records: Sequence[Record | None]) -> Row:
    metric = key.metric
    first = next((record.metrics[metric] for record in records if record), None)
    batch = Cell(str(key.batch_size or ABSENT), "number", key=key.batch_size)
    cells = (_cell(metric, record, first) for record in records)
    return Row((Cell(key.case, "code"), Cell(label(metric)), batch, *cells))


def _cell(metric: str, record: Record | None, first: float | None) -> Cell:
    if record is None:
        return Cell(ABSENT, "number")
    value = record.metrics[metric]
    return Cell(shown(metric, value), "number", f"{_beside(metric, value, first)}{record.verdict}", key=value)


def _beside(metric: str, value: float, first: float | None) -> str:
    """Return a change in percent with its sense in a word, and nothing where there is no change to tell."""
    if not first or value == first:
        return ""
    better = METRICS[metric].better if metric in METRICS else "neither"
    sense = "" if better == "neither" else " better" if (value > first) == (better == "higher") else " worse"
    return f"{100 * (value / first - 1):+.1f} %{sense} · "
