"""How training scales over ranks: what was measured, and what is predicted, which no reader may take for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

from conformance.cases.metrics import images_per_s, milliseconds, percent
from conformance.records import Scaling, ScalingPoint
from conformance.reports.charts import colour_of
from conformance.reports.details import size
from conformance.reports.drawing import Figure, figure
from conformance.reports.entries import Entry, by_batch, row_labels
from conformance.reports.tables import Cell, Row, Table, scaling_table, table

CASES = 12  # drawn; the first table has all
MEASURED, PREDICTED = "measured", "predicted"
_HEIGHT = 240
_NOTE = "Full, solid: measured, with its 95 % interval."
_NOTE_PREDICTED = f"{_NOTE} Hollow, dashed: predicted."


class Part(NamedTuple):
    """One case: its chart, the same numbers, and on what a prediction rests or why there is none."""

    figure: Figure
    table: Table
    predicted_by: str
    assumptions: tuple[str, ...]


class Section(NamedTuple):
    """All cases on several ranks, and in full those that tell how they scale."""

    table: Table | None
    parts: tuple[Part, ...]
    note: str


def scaling(listed: Sequence[Entry], several: bool) -> Section | None:
    """Return the section, or None where no case ran on several ranks and none has a prediction."""
    scaled = by_batch(entry for entry in listed if (told := entry.record.scaling) and _points(told))
    overview = scaling_table(listed, several)
    if not (scaled or overview):
        return None
    drawn = scaled[:CASES]
    parts = (_part(entry, name) for entry, name in zip(drawn, row_labels(drawn), strict=True))
    note = f"The first {CASES} of {len(scaled):,} cases are drawn." if len(scaled) > CASES else ""
    return Section(overview, tuple(parts), note)


def _part(entry: Entry, name: str) -> Part:
    told = entry.record.scaling
    assert told is not None
    title = f"{told.kind.capitalize()} scaling, {name}"
    model = f"Predicted by the model of a {told.model}, not measured. It assumes:"
    return Part(
        _chart(title, told, colour_of(entry.record.precision)),
        _table(title, told),
        model if told.predicted else f"Not predicted by the model of a {told.model}:",
        told.assumptions,
    )


def _points(told: Scaling) -> list[tuple[str, ScalingPoint]]:
    """Return all points by ranks, the measured one first where there are both."""
    points = [(MEASURED, point) for point in told.measured] + [(PREDICTED, point) for point in told.predicted]
    return sorted(points, key=lambda item: (item[1].ranks, item[0]))


def _table(title: str, told: Scaling) -> Table:
    rows = [
        Row(
            (
                Cell(f"{point.ranks:,}", "number"),
                Cell(kind, "" if kind == MEASURED else "quiet"),
                Cell(percent(point.efficiency), "number", _interval(point)),
                Cell(images_per_s(point.images_per_s), "number"),
                Cell(milliseconds(point.step_s), "number"),
                Cell(size(point.bytes_per_host), "number", _fits(point)),
            )
        )
        for kind, point in _points(told)
    ]
    columns = ("Ranks", "Measured or predicted", "Efficiency", "All ranks", "Step", "Memory a host")
    return table(f"{title}: throughput as share of that of as many single ranks", columns, rows)


def _interval(point: ScalingPoint) -> str:
    return " to ".join(percent(end) for end in point.interval) if point.interval else ""


def _fits(point: ScalingPoint) -> str:
    if point.bytes_per_host is None:
        return ""
    return {True: "fits", False: "more than the host has", None: "the host's is not known"}[point.fits]


def _chart(title: str, told: Scaling, colour: str) -> Figure:
    rows = [_row(kind, point) for kind, point in _points(told)]
    ranks = sorted({row["ranks"] for row in rows})
    top = max(1.0, *(row["high"] for row in rows))
    axis = alt.Axis(values=ranks, format="d", title="ranks", grid=False)
    x = alt.X("ranks:Q", axis=axis, scale=alt.Scale(type="log", base=2, domain=[ranks[0] / 1.25, ranks[-1] * 1.25]))
    y = _efficiency_axis("efficiency", top)
    shape, fill, stroke = _looks(sorted({row["kind"] for row in rows}), colour)
    base = alt.Chart(alt.InlineData(values=rows))
    of = {kind: base.transform_filter(f"datum.kind == '{kind}'") for kind in (MEASURED, PREDICTED)}
    layers = [
        of[MEASURED].mark_line(strokeWidth=2, color=colour, aria=False).encode(x=x, y=y),
        of[PREDICTED].mark_line(strokeWidth=2, strokeDash=[5, 4], color=colour, aria=False).encode(x=x, y=y),
        of[MEASURED]
        .mark_rule(strokeWidth=2.5, strokeCap="round", color=colour, aria=False)
        .encode(x=x, y=_efficiency_axis("low", top), y2="high:Q"),
        base.mark_point(size=90, filled=True, opacity=1, color="var(--paper)", aria=False).encode(x=x, y=y),
        base.mark_point(size=90, opacity=1, strokeWidth=2).encode(
            x=x, y=y, shape=shape, fill=fill, stroke=stroke, description="description:N"
        ),
        *(
            of[kind]
            .mark_text(dy=dy, fontSize=13, fontWeight=600, aria=False, color="var(--ink)")
            .encode(x=x, y=y, text="text:N")
            for kind, dy in ((MEASURED, -14), (PREDICTED, 17))
        ),
    ]
    note = _NOTE_PREDICTED if told.predicted else _NOTE
    return figure(title, note, layers, [row["description"] for row in rows], _HEIGHT)


def _row(kind: str, point: ScalingPoint) -> dict[str, Any]:
    low, high = point.interval or (point.efficiency, point.efficiency)
    interval = f", interval {_interval(point)}" if point.interval else ""
    ranks = "1 rank" if point.ranks == 1 else f"{point.ranks:,} ranks"
    return {
        "ranks": point.ranks,
        "kind": kind,
        "efficiency": point.efficiency,
        "low": low,
        "high": high,
        "text": f"{100 * point.efficiency:.0f} %",
        "description": f"{ranks}: {percent(point.efficiency)}{interval}, {kind}",
    }


def _efficiency_axis(field: str, top: float) -> alt.Y:
    axis = alt.Axis(format=".0%", tickCount=5, title="efficiency")
    return alt.Y(f"{field}:Q", axis=axis, scale=alt.Scale(domain=[0, 1.15 * top], nice=False))


def _looks(kinds: Sequence[str], colour: str) -> tuple[alt.Shape, alt.Fill, alt.Stroke]:
    """Return shape, filling and outline of a mark by its kind, which one legend tells."""
    legend = alt.Legend(
        title=None, orient="top", labelFontSize=13, labelColor="currentColor", symbolSize=110, symbolOpacity=1
    )
    shapes = {MEASURED: "circle", PREDICTED: "diamond"}
    fills = {MEASURED: colour, PREDICTED: "transparent"}

    def scale(looks: dict[str, str]) -> alt.Scale:
        return alt.Scale(domain=list(kinds), range=[looks[kind] for kind in kinds])

    return (
        alt.Shape("kind:N", scale=scale(shapes), legend=legend),
        alt.Fill("kind:N", scale=scale(fills), legend=legend),
        alt.Stroke("kind:N", scale=scale(dict.fromkeys(kinds, colour)), legend=legend),
    )
