"""The main metric of each case over the dates of the runs, and what each run ran on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timezone
from typing import Any, NamedTuple

import altair as alt

from conformance.records import Run
from conformance.reports.charts import colour_of
from conformance.reports.drawing import Figure, around, figure
from conformance.reports.entries import ABSENT, ROWS, Entry, label, main_metric, moment, shown, time_of
from conformance.reports.machine import machine_name, versions_of
from conformance.reports.tables import Cell, Row, Table, case_cell, table, verdict_cell

CASES = 12  # drawn; the table has all
_HEIGHT = 150
_SCALES = {"_images_per_s": (1.0, "images/s"), "_s": (1000.0, "milliseconds")}
_NOTE = "Dot: a run. Words: what it ran on, where that changed."
_NOTE_SHIFTS = f"{_NOTE} Diamond: the first run of another level."

# What changed in a case, by the first run that is different, case and stack.
Shifts = Mapping[tuple[str, str, str], str]


class Section(NamedTuple):
    """A chart for each case, and the same numbers."""

    figures: tuple[Figure, ...]
    table: Table
    note: str


class _Point(NamedTuple):
    entry: Entry
    metric: str
    versions: str
    time: str  # UTC, as a chart reads it
    machine: str
    shift: str


def history(runs: Sequence[Run], listed: Sequence[Entry], shifts: Shifts) -> Section | None:
    """Return the cases of which two runs or more of one machine and stack have a number, or None."""
    series: dict[tuple[str, ...], list[_Point]] = {}
    for entry in listed:
        record, run = entry.record, runs[entry.run - 1]
        metric, started = main_metric(record), time_of(record.started_at)
        if metric is not None and started is not None:
            utc = started.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            versions = versions_of(run.header.stacks.get(record.stack, {}))
            shift = shifts.get((run.header.run, record.case, record.stack), "")
            point = _Point(entry, metric, versions, utc, machine_name(run), shift)
            series.setdefault((record.case, metric, record.profile, point.machine, record.stack), []).append(point)
    lines = [
        sorted(points, key=lambda p: p.time) for points in series.values() if len({p.entry.run for p in points}) > 1
    ]
    if not lines:
        return None
    note = f"The first {CASES} of {len(lines):,} are drawn." if len(lines) > CASES else ""
    several = len({(points[0].machine, points[0].entry.record.stack) for points in lines}) > 1
    return Section(tuple(_chart(points, several) for points in lines[:CASES]), _table(lines), note)


def _table(lines: Sequence[Sequence[_Point]]) -> Table:
    points = [point for line in lines for point in line]
    rows = [
        Row(
            (
                case_cell(point.entry),
                Cell(moment(point.entry.record.started_at)),
                Cell(str(point.entry.run)),
                Cell(point.versions or point.entry.record.stack, small=point.machine),
                Cell(label(point.metric)),
                _value(point),
                Cell(point.shift or ABSENT, "sentence"),
                verdict_cell(point.entry.record.verdict),
            )
        )
        for point in points[:ROWS]
    ]
    more = f". The first {ROWS} of {len(points):,}; the CSV has all" if len(points) > ROWS else ""
    columns = ("Case", "Started", "Run", "Ran on", "Metric", "Value", "New level", "Verdict")
    return table(f"Each case over the runs{more}", columns, rows)


def _value(point: _Point) -> Cell:
    value = point.entry.record.metrics[point.metric]
    return Cell(shown(point.metric, value), "number", key=value)


def _chart(points: Sequence[_Point], several: bool) -> Figure:
    record = points[0].entry.record
    rows = [_drawn(point, points[n - 1] if n else None) for n, point in enumerate(points)]
    low, high = around([row["value"] for row in rows])
    x = alt.X("time:T", scale=alt.Scale(type="utc", padding=24), axis=alt.Axis(title=None, tickCount=4, grid=False))
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=alt.Axis(title=_scale(points[0].metric)[1], tickCount=4, format=",.5~g"),
    )
    base, colour = alt.Chart(alt.InlineData(values=rows)), colour_of(record.precision)
    layers = [
        base.mark_line(strokeWidth=2, color=colour, aria=False).encode(x=x, y=y),
        base.mark_point(size=70, filled=True, opacity=1, color=colour).encode(x=x, y=y, description="description:N"),
        base.transform_filter("datum.changed != ''")
        .mark_text(dy=-12, fontSize=12, aria=False, color="var(--ink)")
        .encode(x=x, y=y, text="changed:N"),
        base.transform_filter("datum.shift != ''")
        .mark_point(size=190, shape="diamond", strokeWidth=2, color="var(--ink)", aria=False)
        .encode(x=x, y=y),
    ]
    where = f", {record.stack} on {points[0].machine}" if several else ""
    return figure(
        f"{record.case}: {label(points[0].metric)}{where}",
        _NOTE_SHIFTS if any(point.shift for point in points) else _NOTE,
        layers,
        [row["description"] for row in rows],
        _HEIGHT,
    )


def _drawn(point: _Point, before: _Point | None) -> dict[str, Any]:
    record = point.entry.record
    value = record.metrics[point.metric]
    ran_on = f", {point.versions}" if point.versions else ""
    shift = f", {point.shift}" if point.shift else ""
    return {
        "shift": point.shift,
        "time": point.time,
        "value": value * _scale(point.metric)[0],
        "changed": point.versions.split(",")[0] if before is None or before.versions != point.versions else "",
        "description": f"{moment(record.started_at)}: {shown(point.metric, value)}{ran_on}, run {point.entry.run}, "
        f"{record.verdict}{shift}",
    }


def _scale(metric: str) -> tuple[float, str]:
    """Return by what an axis multiplies a metric, and its unit, or what the metric is where it has none."""
    return next((scale for ending, scale in _SCALES.items() if metric.endswith(ending)), (1.0, label(metric)))
