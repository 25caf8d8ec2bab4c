"""The main metric of each case over the dates of the runs, and what each run ran on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timezone
from statistics import median
from typing import Any, NamedTuple

import altair as alt

from conformance.cases.metrics import METRICS
from conformance.records import Run
from conformance.reports.charts import colour_of
from conformance.reports.details import spans
from conformance.reports.drawing import Figure, around, figure
from conformance.reports.entries import ABSENT, ROWS, Entry, label, main_metric, moment, shown, time_of
from conformance.reports.machine import machine_name, versions_of
from conformance.reports.tables import Cell, Row, Table, batch_cell, case_cell, table, verdict_cell

CASES = 12  # drawn; the table has all
_HEIGHT = 150
_SPAN = 0.1  # of the median: the least that an axis of speeds shows, so that noise does not look like a change
_ROOM = 370  # for points, of a chart's width, and the width of a letter in a chart
_LETTER = 6.6
_LINES, _LINE = 3, 16  # of words above a chart
_SCALES = {"_images_per_s": (1.0, "images/s"), "_s": (1000.0, "milliseconds")}
_NOTE = "Dot: a run. Words: what it ran on, where that changed."
_NOTE_LEFT = "Some find no room: the table has all."
_OTHER = "other packages"
_NOTE_REPEATS = "Dashes: each repeat, of which the median is shown."
_NOTE_SHIFTS = "Diamond: the first run of another level."

# A run, a case, a stack and a batch size: where a level begins.
ShiftPlace = tuple[str, str, str, int | None]
# What changed there, in words.
Shifts = Mapping[ShiftPlace, str]


class Section(NamedTuple):
    """A chart for each case, and the same numbers."""

    figures: tuple[Figure, ...]
    table: Table
    note: str


class _Key(NamedTuple):
    """What makes runs of a case one history: machine, profile and batch stay, a run's only stack may change."""

    suite: str
    case: str
    metric: str
    profile: str
    machine: str
    stack: str
    batch_size: int | None


class _Point(NamedTuple):
    entry: Entry
    metric: str
    ran_on: str
    time: str  # UTC, as a chart reads it
    machine: str
    shift: str


_Line = tuple[_Key, list[_Point]]


def history(runs: Sequence[Run], listed: Sequence[Entry], shifts: Shifts) -> Section | None:
    """Return the cases of which two runs or more of one machine, profile and batch have a number, or None."""
    series: dict[_Key, list[_Point]] = {}
    for entry in listed:
        record, run = entry.record, runs[entry.run - 1]
        metric, started = main_metric(record), time_of(record.started_at)
        if metric is not None and started is not None:
            utc = started.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            shift = shifts.get((run.header.run, record.case, record.stack, record.batch_size), "")
            ran_on = versions_of(run.header.stacks.get(record.stack, {})) or record.stack
            point = _Point(entry, metric, ran_on, utc, machine_name(run), shift)
            series.setdefault(_key(run, entry, metric), []).append(point)
    lines = [
        (key, sorted(points, key=lambda p: p.time))
        for key, points in series.items()
        if len({p.entry.run for p in points}) > 1
    ]
    if not lines:
        return None
    note = f"The first {CASES} of {len(lines):,} are drawn." if len(lines) > CASES else ""
    drawn = lines[:CASES]
    figures = tuple(_chart(title, points) for title, (_, points) in zip(_titles(drawn), drawn, strict=True))
    return Section(figures, _table([points for _, points in lines]), note)


def _key(run: Run, entry: Entry, metric: str) -> _Key:
    record = entry.record
    machine = json.dumps(run.machine, sort_keys=True)
    stack = record.stack if len({one.stack for one in run.records}) > 1 else ""
    return _Key(record.suite, record.case, metric, record.profile, machine, stack, record.batch_size)


def _titles(lines: Sequence[_Line]) -> list[str]:
    """Return what each chart is of, with whatever else tells the charts apart."""
    where = [(key.suite, key.stack, key.profile, points[0].machine) for key, points in lines]
    varying = [i for i in range(4) if len({place[i] for place in where}) > 1]
    titles = []
    for (key, _), place in zip(lines, where, strict=True):
        batch = f"batch {key.batch_size}" if key.batch_size else ""
        titles.append(
            f"{key.case}: {', '.join(filter(None, [label(key.metric), batch, *(place[i] for i in varying)]))}"
        )
    if len(set(titles)) == len(titles):
        return titles
    numbers = (spans(sorted({point.entry.run for point in points})) for _, points in lines)
    return [f"{title}, runs {of}" for title, of in zip(titles, numbers, strict=True)]


def _table(lines: Sequence[Sequence[_Point]]) -> Table:
    steps = [step for line in lines for step in zip([line[0], *line], line, strict=False)]
    points = [point for _, point in steps]
    several = len({point.machine for point in points}) > 1
    shifted = any(point.shift for point in points)

    def small(before: _Point, point: _Point) -> str:
        told = [_OTHER] * (_changed(before, point) == _OTHER) + [point.machine] * several
        return " \N{MIDDLE DOT} ".join(told)

    rows = [
        Row(
            (
                case_cell(point.entry),
                batch_cell(point.entry.record),
                Cell(moment(point.entry.record.started_at)),
                Cell(str(point.entry.run)),
                Cell(point.ran_on, small=small(before, point)),
                _value(point),
                *([Cell(point.shift or ABSENT, "sentence")] if shifted else []),
                verdict_cell(point.entry.record.verdict),
            )
        )
        for before, point in steps[:ROWS]
    ]
    more = f". The first {ROWS} of {len(points):,}; the CSV has all" if len(points) > ROWS else ""
    columns = ("Case", "Batch", "Started", "Run", "Ran on", "Value", *["New level"] * shifted, "Verdict")
    return table(f"Each case over the runs{more}", columns, rows)


def _value(point: _Point) -> Cell:
    value = point.entry.record.metrics[point.metric]
    return Cell(shown(point.metric, value), "number", label(point.metric), key=value)


def _chart(title: str, points: Sequence[_Point]) -> Figure:
    record, metric = points[0].entry.record, points[0].metric
    by, unit = _scale(metric)
    rows = [_drawn(point, by) for point in points]
    repeats = [
        {"time": point.time, "value": value * by}
        for point in points
        if len(values := point.entry.values(metric)) > 1
        for value in values
    ]
    told = [point.ran_on if n == 0 else _changed(points[n - 1], point) for n, point in enumerate(points)]
    words = _words(points, told)
    top = _LINE * (1 + max(word["line"] for word in words)) + 8
    domain = _domain(metric, [row["value"] for row in (*rows, *repeats)], [row["value"] for row in rows])
    drawn = alt.Axis(title=None, tickCount=4, grid=False, labelPadding=8, labelFlush=True, labelOverlap="parity")
    x = alt.X("time:T", scale=alt.Scale(type="utc", padding=24), axis=drawn)
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(domain=list(domain), nice=False, zero=False, range=[_HEIGHT + top, top]),
        axis=alt.Axis(title=unit, tickCount=4, format=",.5~g"),
    )
    base, colour = alt.Chart(alt.InlineData(values=rows)), colour_of(record.precision)
    layers = [
        *_word_layers(words, x, _HEIGHT + top),
        base.mark_line(strokeWidth=2, color=colour, aria=False).encode(x=x, y=y),
        *_repeat_layers(repeats, x, y, colour),
        base.mark_point(size=70, filled=True, opacity=1, color=colour).encode(x=x, y=y, description="description:N"),
        base.transform_filter("datum.shift != ''")
        .mark_point(size=190, shape="diamond", strokeWidth=2, color="var(--ink)", aria=False)
        .encode(x=x, y=y),
    ]
    left = len(words) < sum(map(bool, told))
    notes = (
        _NOTE,
        _NOTE_LEFT * left,
        _NOTE_REPEATS * bool(repeats),
        _NOTE_SHIFTS * any(point.shift for point in points),
    )
    said = [row["description"] for row in rows]
    return figure(title, " ".join(filter(None, notes)), layers, said, _HEIGHT + top)


def _domain(metric: str, drawn: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the span of all that is drawn, of speeds at least 5 % to each side of the median."""
    low, high = around(drawn)
    if metric in METRICS and METRICS[metric].speed:
        middle = median(values)
        low, high = min(low, middle * (1 - _SPAN / 2)), max(high, middle * (1 + _SPAN / 2))
    return low, high


def _repeat_layers(repeats: Sequence[dict[str, Any]], x: alt.X, y: alt.Y, colour: str) -> list[alt.Chart]:
    if not repeats:
        return []
    dashes = alt.Chart(alt.InlineData(values=list(repeats))).mark_tick(
        orient="horizontal", width=12, thickness=1.5, color=colour, aria=False
    )
    return [dashes.encode(x=x, y=y)]


def _word_layers(words: Sequence[dict[str, Any]], x: alt.X, bottom: int) -> list[alt.Chart]:
    """Return what changed in words above the points, each with a rule down to its run."""
    layers = []
    for line in sorted({word["line"] for word in words}):
        for align, dx in (("left", 4), ("right", -4)):
            of = [word for word in words if (word["line"], word["align"]) == (line, align)]
            if of:
                at = alt.Chart(alt.InlineData(values=of)).encode(x=x)
                rule = at.mark_rule(strokeWidth=1, strokeDash=[2, 3], color="var(--quiet)", aria=False)
                text = at.mark_text(align=align, dx=dx, fontSize=12, aria=False, color="var(--ink)")
                layers += [
                    rule.encode(y=alt.value(line * _LINE), y2=alt.value(bottom)),
                    text.encode(y=alt.value(line * _LINE + 7), text="words:N"),
                ]
    return layers


def _words(points: Sequence[_Point], told: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is told of each run where there is something, on as many lines as keep the words apart.

    Words begin at their run, those of the right half end there. What finds no room is left to the table.
    """
    times = [read.timestamp() if (read := time_of(point.time)) else 0.0 for point in points]
    taken: list[list[tuple[float, float]]] = [[] for _ in range(_LINES)]
    placed = []
    for point, time, words in zip(points, times, told, strict=True):
        place = _ROOM * (time - times[0]) / (times[-1] - times[0] or 1)
        wide = _LETTER * len(words) + 8
        left = place < _ROOM / 2
        span = (place, place + wide) if left else (place - wide, place)
        free = (i for i in range(_LINES) if all(span[1] <= a or b <= span[0] for a, b in taken[i]))
        line = next(free, None) if words else None
        if line is not None:
            taken[line].append(span)
            placed.append({"time": point.time, "words": words, "line": line, "align": "left" if left else "right"})
    return placed


def _changed(before: _Point, point: _Point) -> str:
    """Return what a run ran on that the one before did not, or nothing."""
    if before.ran_on != point.ran_on:
        had, has = before.ran_on.split(", "), point.ran_on.split(", ")
        gone = [f"no {part.split()[0]}" for part in had if part.split()[0] not in {one.split()[0] for one in has}]
        return ", ".join([*(part for part in has if part not in had), *gone])
    one, other = (each.entry.record.stack_digest for each in (before, point))
    return _OTHER if one and other and one != other else ""


def _drawn(point: _Point, by: float) -> dict[str, Any]:
    record, values = point.entry.record, point.entry.values(point.metric)
    value = record.metrics[point.metric]
    repeats = f" (median of {len(values)} repeats)" if len(values) > 1 else ""
    shift = f". {point.shift}" if point.shift else ""
    return {
        "shift": point.shift,
        "time": point.time,
        "value": value * by,
        "description": f"{moment(record.started_at)}: {shown(point.metric, value)}{repeats}, {point.ran_on}, "
        f"run {point.entry.run}, {record.verdict}{shift}",
    }


def _scale(metric: str) -> tuple[float, str]:
    """Return by what an axis multiplies a metric, and its unit, or what the metric is where it has none."""
    return next((scale for ending, scale in _SCALES.items() if metric.endswith(ending)), (1.0, label(metric)))
