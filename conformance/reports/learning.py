"""Learning curves: the loss of each step, as the files of the run have it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt

from conformance.records import Record, Run
from conformance.reports.answers import content
from conformance.reports.charts import colour_of
from conformance.reports.drawing import Figure, around, figure
from conformance.reports.entries import Entry, by_batch, row_labels
from conformance.reports.pictures import Unreadable
from conformance.reports.tables import Cell, Row, Table, case_cell, table

CASES = 40  # whose files are read
CHARTS, LINES = 6, 8  # lines in a chart
POINTS = 60  # drawn of a line, each the mean of as many steps
_HEIGHT = 240
_DASHES = [[1, 0], [6, 3], [2, 3], [8, 3, 2, 3], [12, 4], [3, 6], [1, 2], [10, 2, 2, 2, 2, 2]]


class Section(NamedTuple):
    """A chart for each model and data set, the same numbers, and which files could not be read."""

    figures: tuple[Figure, ...]
    table: Table
    notes: tuple[str, ...]


class _Curve(NamedTuple):
    """The losses of one training; ``first`` is the number of its first step."""

    entry: Entry
    name: str
    label: str
    first: int
    losses: tuple[float, ...]


def learning(runs: Sequence[Run], listed: Sequence[Entry]) -> Section | None:
    """Return the curves of all trainings whose steps are in the directories of their runs, or None."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    trainings = by_batch(entry for entry in listed if _files(entry.record))
    for entry in trainings[:CASES]:
        groups.setdefault((entry.record.model, entry.record.dataset), []).append(entry)
    notes = [f"The first {CASES} of {len(trainings):,} trainings are read."] if len(trainings) > CASES else []
    curves = {group: _curves(runs, trained, notes) for group, trained in groups.items()}
    drawn = [(group, found) for group, found in curves.items() if found]
    if not drawn:
        return None
    if len(drawn) > CHARTS:
        notes.append(f"The first {CHARTS} of {len(drawn)} charts are drawn.")
    figures = tuple(_chart(*group, found) for group, found in drawn[:CHARTS])
    return Section(figures, _table([curve for _, found in drawn for curve in found]), tuple(dict.fromkeys(notes)))


def _curves(runs: Sequence[Run], trained: Sequence[Entry], notes: list[str]) -> list[_Curve]:
    """Return the curves of the files that can be read, and note those that cannot."""
    curves = []
    for entry, label in zip(trained, row_labels(trained), strict=True):
        for name in _files(entry.record):
            try:
                curves.append(_curve(Path(runs[entry.run - 1].directory), entry, name, label))
            except Unreadable as error:
                notes.append(f"No curve of {entry.record.case}: {error}.")
    return curves


def _files(record: Record) -> list[str]:
    """Return the names of the artefacts that hold steps, one for each seed or repeat."""
    return [name for name, file in record.artefacts.items() if name.startswith("steps") and file.path.endswith(".csv")]


def _curve(directory: Path, entry: Entry, name: str, label: str) -> _Curve:
    """Read the file; raises Unreadable for one that is missing or holds no steps and losses."""
    text = content(directory, entry.record.artefacts[name]).decode("utf-8", "replace")
    try:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(io.StringIO(text))]
    except (KeyError, ValueError, TypeError):
        raise Unreadable(f"{entry.record.artefacts[name].path!r} holds no steps with their losses") from None
    losses = [(step, loss) for step, loss in rows if math.isfinite(loss)]
    if not losses:
        raise Unreadable(f"{entry.record.artefacts[name].path!r} holds no step with a finite loss")
    return _Curve(entry, name, label, losses[0][0], tuple(loss for _, loss in losses))


def _chart(model: str, dataset: str, curves: Sequence[_Curve]) -> Figure:
    drawn = sorted(curves, key=lambda curve: _files(curve.entry.record).index(curve.name))[:LINES]
    points = [row for place, curve in enumerate(drawn) for row in _points(curve, place)]
    labels = list(dict.fromkeys(curve.label for curve in drawn))
    low, high = around([row["loss"] for row in points])
    x = alt.X("step:Q", axis=alt.Axis(title="step", tickCount=6, grid=False), scale=alt.Scale(nice=False))
    y = alt.Y("loss:Q", axis=alt.Axis(title="loss", tickCount=5), scale=alt.Scale(domain=[low, high], nice=False))
    colours = {curve.label: colour_of(curve.entry.record.precision) for curve in drawn}
    legend = alt.Legend(
        title=None,
        orient="top",
        labelFontSize=13,
        labelColor="currentColor",
        symbolSize=400,
        labelLimit=360,
        columns=4 if max(map(len, labels)) < 8 else 1,
    )
    stroke = alt.Stroke(
        "label:N", scale=alt.Scale(domain=labels, range=[colours[name] for name in labels]), legend=legend
    )
    dash = alt.StrokeDash("label:N", scale=alt.Scale(domain=labels, range=_DASHES[: len(labels)]), legend=legend)
    base = alt.Chart(alt.InlineData(values=points)).encode(x=x, y=y)
    layers = [
        base.mark_line(strokeWidth=2, aria=False).encode(stroke=stroke, strokeDash=dash, detail="line:N"),
        base.mark_point(size=60, opacity=0.01, filled=True, color="var(--ink)").encode(description="description:N"),
    ]
    said = [f"{curve.label}: from {curve.losses[0]:.4f} to {curve.losses[-1]:.4f}" for curve in drawn]
    each = max(1, math.ceil(max(len(curve.losses) for curve in drawn) / POINTS))
    note = f"Each point is the mean of {each} steps." if each > 1 else "Each point is a step."
    more = f" The first {LINES} of {len(curves)} trainings are drawn." if len(curves) > LINES else ""
    return figure(f"Loss of {model} on {dataset}", note + more, layers, said, _HEIGHT)


def _points(curve: _Curve, place: int) -> list[dict[str, Any]]:
    each = max(1, math.ceil(len(curve.losses) / POINTS))
    rows = []
    for start in range(0, len(curve.losses), each):
        some = curve.losses[start : start + each]
        step, loss = curve.first + start + (len(some) - 1) / 2, sum(some) / len(some)
        said = f"{curve.label}{_seed(curve.name)}, step {step:g}: loss {loss:.4f}"
        rows.append({"line": place, "label": curve.label, "step": step, "loss": loss, "description": said})
    return rows


def _table(curves: Sequence[_Curve]) -> Table:
    rows = [
        Row(
            (
                case_cell(curve.entry),
                Cell(_seed(curve.name).removeprefix(", ") or "first"),
                Cell(f"{len(curve.losses):,}", "number", key=len(curve.losses)),
                *(_loss(curve.losses[round(share * (len(curve.losses) - 1))]) for share in (0, 0.25, 0.5, 0.75, 1)),
                _loss(min(curve.losses)),
            )
        )
        for curve in curves
    ]
    columns = ("Case", "Training", "Steps", "First loss", "At a quarter", "Half", "Three quarters", "Last", "Lowest")
    return table("The loss on the way", columns, rows, sortable=True)


def _loss(loss: float) -> Cell:
    return Cell(f"{loss:.4f}", "number", key=loss)


def _seed(name: str) -> str:
    """
    >>> _seed("steps"), _seed("steps_seed3"), _seed("steps_repeat2")
    ('', ', seed 3', ', repeat 2')
    """
    tail = name.removeprefix("steps").strip("_").replace("_", ", ")
    for word in ("seed", "repeat"):
        tail = tail.replace(word, f"{word} ")
    return f", {tail}" if tail else ""
