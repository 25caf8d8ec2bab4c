"""Learning curves: the loss of each step and top-1 over the epochs, as the files of the run have them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import msgspec

from conformance.records import Record, Run, Series
from conformance.reports.answers import content
from conformance.reports.charts import colour_of
from conformance.reports.drawing import Figure, around, figure
from conformance.reports.entries import Entry, by_batch, row_labels
from conformance.reports.pictures import Unreadable
from conformance.reports.tables import Cell, Row, Table, case_cell, table

CASES = 40  # whose files are read
CHARTS, LINES = 6, 8  # lines in a chart
POINTS = 60  # drawn of a line, each the mean of as many steps
WARMUP_STEPS = 10  # which the speed of a training leaves out
_HEIGHT = 240
_DASHES = [[1, 0], [6, 3], [2, 3], [8, 3, 2, 3], [12, 4], [3, 6], [1, 2], [10, 2, 2, 2, 2, 2]]


class Section(NamedTuple):
    """Charts for each model and data set, the same numbers, and which files could not be read.

    ``timed`` are the trainings with the time that each step took, waiting included, as the series of their records.
    """

    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    timed: tuple[Entry, ...]


class _Kind(NamedTuple):
    """What is drawn over what, and from which artefacts."""

    artefact: str
    title: str
    x: str
    y: str
    point: str


_LOSS = _Kind("steps", "Loss", "step", "loss", "a step")
_TOP1 = _Kind("evaluations", "Top-1", "epoch", "top1", "an evaluation")


class _Curve(NamedTuple):
    """What one training came to: pairs of step and loss, or of epoch and top-1, of which all are finite."""

    entry: Entry
    name: str
    label: str
    points: tuple[tuple[float, float], ...]


def learning(runs: Sequence[Run], listed: Sequence[Entry]) -> Section | None:
    """Return the curves of all trainings whose steps are in the directories of their runs, or None."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    trainings = by_batch(entry for entry in listed if _files(entry.record))
    for entry in trainings[:CASES]:
        groups.setdefault((entry.record.model, entry.record.dataset), []).append(entry)
    notes = [f"The first {CASES} of {len(trainings):,} trainings are read."] if len(trainings) > CASES else []
    drawn = {
        (kind, *group): found
        for group, trained in groups.items()
        for kind in (_LOSS, _TOP1)
        if _is_course(kind, found := _curves(kind, runs, trained, notes))
    }
    if not drawn:
        return None
    if len(drawn) > CHARTS:
        notes.append(f"The first {CHARTS} of {len(drawn)} charts are drawn.")
    figures = tuple(_chart(*of, found) for of, found in list(drawn.items())[:CHARTS])
    losses, top1s = ([c for (of, *_), found in drawn.items() if of is kind for c in found] for kind in (_LOSS, _TOP1))
    tables = tuple(make(curves) for make, curves in ((_table, losses), (_top1_table, top1s)) if curves)
    return Section(figures, tables, tuple(dict.fromkeys(notes)), _timed(runs, trainings[:CASES]))


def _is_course(kind: _Kind, curves: Sequence[_Curve]) -> bool:
    """Say whether there is something to draw; a single evaluation is in the tables."""
    return bool(curves) and (kind is _LOSS or any(len(curve.points) > 1 for curve in curves))


def _curves(kind: _Kind, runs: Sequence[Run], trained: Sequence[Entry], notes: list[str]) -> list[_Curve]:
    """Return the curves of the files that can be read, and note those that cannot."""
    curves = []
    for entry, label in zip(trained, row_labels(trained), strict=True):
        for name in _files(entry.record, kind.artefact):
            try:
                curves.append(_curve(kind, Path(runs[entry.run - 1].directory), entry, name, label, notes))
            except Unreadable as error:
                notes.append(f"No curve of {entry.record.case}: {error}.")
    return curves


def _files(record: Record, kind: str = _LOSS.artefact) -> list[str]:
    """Return the names of the artefacts of a kind, one for each seed or repeat."""
    return [name for name, file in record.artefacts.items() if name.startswith(kind) and file.path.endswith(".csv")]


def _curve(kind: _Kind, directory: Path, entry: Entry, name: str, label: str, notes: list[str]) -> _Curve:
    """Read the file; raises Unreadable for one that is missing or holds nothing to draw."""
    path = entry.record.artefacts[name].path
    try:
        rows = _columns(directory, entry.record, name, kind.x, kind.y)
    except (KeyError, ValueError, TypeError):
        raise Unreadable(f"{path!r} holds no {kind.x}s with their {_plural(kind)}") from None
    finite = tuple((x, y) for x, y in rows if math.isfinite(y))
    if not finite:
        raise Unreadable(f"{path!r} holds no {kind.x} with a finite {kind.y}")
    lost = [x for x, y in rows if not math.isfinite(y)]
    if lost:
        where = "from" if lost[0] > finite[-1][0] else f"at {len(lost):,} of {len(rows):,} {kind.x}s, the first"
        on = " on" if where == "from" else ""
        notes.append(f"{entry.record.case}{_seed(name)}: the {kind.y} is not finite {where} {kind.x} {lost[0]:g}{on}.")
    return _Curve(entry, name, label, finite)


def _plural(kind: _Kind) -> str:
    return "losses" if kind is _LOSS else kind.y


def _columns(directory: Path, record: Record, name: str, *columns: str) -> list[tuple[float, ...]]:
    text = content(directory, record.artefacts[name]).decode("utf-8", "replace")
    return [tuple(float(row[column]) for column in columns) for row in csv.DictReader(io.StringIO(text))]


def _timed(runs: Sequence[Run], trainings: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the trainings with the times of their steps; those whose files do not hold them are left out."""
    found = []
    for entry in trainings:
        directory, series = Path(runs[entry.run - 1].directory), []
        for name in _files(entry.record):
            try:
                taken = [wait + step for wait, step in _columns(directory, entry.record, name, "wait_s", "step_s")]
            except (Unreadable, KeyError, ValueError, TypeError):
                continue
            timed = tuple(s for s in taken[WARMUP_STEPS:] if math.isfinite(s))
            series += [Series(warmup_steps=WARMUP_STEPS, step_s=timed, steady=True)] * bool(timed)
        if series:
            found.append(entry._replace(record=msgspec.structs.replace(entry.record, series=tuple(series))))
    return tuple(found)


def _chart(kind: _Kind, model: str, dataset: str, curves: Sequence[_Curve]) -> Figure:
    drawn = sorted(curves, key=lambda curve: _files(curve.entry.record, kind.artefact).index(curve.name))[:LINES]
    points = [row for place, curve in enumerate(drawn) for row in _points(kind, curve, place)]
    labels = list(dict.fromkeys(curve.label for curve in drawn))
    low, high = around([row["y"] for row in points])
    course = alt.Axis(title=kind.x, tickCount=6, grid=False, tickMinStep=1)
    x = alt.X("x:Q", axis=course, scale=alt.Scale(nice=False, padding=8 if kind is _TOP1 else 0))
    y = alt.Y(
        "y:Q", axis=alt.Axis(title=kind.title.lower(), tickCount=5), scale=alt.Scale(domain=[low, high], nice=False)
    )
    colours = {curve.label: colour_of(curve.entry.record.precision) for curve in drawn}
    legend = alt.Legend(
        title=None,
        orient="top",
        labelFontSize=13,
        labelColor="currentColor",
        symbolSize=400,
        symbolType="stroke",
        labelLimit=360,
        columns=4 if max(map(len, labels)) < 8 else 1,
    )
    stroke = alt.Stroke(
        "label:N", scale=alt.Scale(domain=labels, range=[colours[name] for name in labels]), legend=legend
    )
    dash = alt.StrokeDash("label:N", scale=alt.Scale(domain=labels, range=_DASHES[: len(labels)]), legend=legend)
    base = alt.Chart(alt.InlineData(values=points)).encode(x=x, y=y)
    marks = alt.OverlayMarkDef(size=40, filled=False, strokeWidth=2, strokeDash=[1, 0], aria=False)
    layers = [
        base.mark_line(strokeWidth=2, aria=False, point=marks if kind is _TOP1 else False).encode(
            stroke=stroke, strokeDash=dash, detail="line:N"
        ),
        base.mark_point(size=60, opacity=0.01, filled=True, color="var(--ink)").encode(description="description:N"),
    ]
    said = [f"{curve.label}: from {curve.points[0][1]:.4f} to {curve.points[-1][1]:.4f}" for curve in drawn]
    each = max(1, math.ceil(max(len(curve.points) for curve in drawn) / POINTS))
    note = f"Each point is the mean of {each} {kind.artefact}." if each > 1 else f"Each point is {kind.point}."
    more = f" The first {LINES} of {len(curves)} trainings are drawn." if len(curves) > LINES else ""
    return figure(f"{kind.title} of {model} on {dataset}", note + more, layers, said, _HEIGHT)


def _points(kind: _Kind, curve: _Curve, place: int) -> list[dict[str, Any]]:
    each = max(1, math.ceil(len(curve.points) / POINTS))
    rows = []
    for start in range(0, len(curve.points), each):
        some = curve.points[start : start + each]
        x, y = (sum(values) / len(some) for values in zip(*some, strict=True))
        said = f"{curve.label}{_seed(curve.name)}, {kind.x} {x:g}: {kind.title.lower()} {y:.4f}"
        rows.append({"line": place, "label": curve.label, "x": x, "y": y, "description": said})
    return rows


def _table(curves: Sequence[_Curve]) -> Table:
    rows = [
        Row(
            (
                *_named(curve),
                *(_loss(curve.points[round(share * (len(curve.points) - 1))][1]) for share in (0, 0.25, 0.5, 0.75, 1)),
                _loss(min(loss for _, loss in curve.points)),
            )
        )
        for curve in curves
    ]
    columns = ("Case", "Training", "Steps", "First loss", "At a quarter", "Half", "Three quarters", "Last", "Lowest")
    return table("The loss on the way", columns, rows, sortable=True)


def _top1_table(curves: Sequence[_Curve]) -> Table:
    rows = []
    for curve in curves:
        epoch, best = max(curve.points, key=lambda point: point[1])
        ends = (Cell(f"{top1:.4f}", "number", key=top1) for top1 in (curve.points[0][1], curve.points[-1][1], best))
        rows.append(Row((*_named(curve), *ends, Cell(f"{epoch:g}", "number", key=epoch))))
    columns = ("Case", "Training", "Evaluations", "First top-1", "Last", "Best", "In epoch")
    return table("Top-1 on the way", columns, rows, sortable=True)


def _named(curve: _Curve) -> tuple[Cell, ...]:
    count = len(curve.points)
    training = Cell(_seed(curve.name).removeprefix(", ") or "first")
    return case_cell(curve.entry), training, Cell(f"{count:,}", "number", key=count)


def _loss(loss: float) -> Cell:
    return Cell(f"{loss:.4f}", "number", key=loss)


def _seed(name: str) -> str:
    """
    >>> _seed("steps"), _seed("steps_seed3"), _seed("steps_repeat2")
    ('', ', seed 3', ', repeat 2')
    """
    tail = name.removeprefix("steps").removeprefix("evaluations").strip("_").replace("_", ", ")
    for word in ("seed", "repeat"):
        tail = tail.replace(word, f"{word} ")
    return f", {tail}" if tail else ""
