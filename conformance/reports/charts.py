"""The charts of the page: rows of values against their bands, and rows of step durations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from conformance.cases.metrics import milliseconds
from conformance.records import Record
from conformance.reports.entries import PRECISIONS, Entry, by_batch, label, row_labels, shown
from conformance.reports.svg import svg

MAX_ROWS = 40
MAX_STEPS = 1200  # drawn in a chart, at most 240 in a row; quantiles are of all
_WIDTH = 480
_STEP = 40
_INK = "var(--ink)"
_MARKS = "Shaded: where the band wants it. Full: inside, pale: unjudged, hollow: neither."
_PADDING = {"left": 18, "right": 12, "top": 4, "bottom": 4}  # fonts of the reader may be wider
_NUMBERS = ",.6~g"
_FILL = alt.FillOpacity("fill:Q", scale=None, legend=None)
_RANKS = {"least": 0, "p25": 25, "p50": 50, "p75": 75, "p99": 99, "most": 100}
_AMOUNT = re.compile(r"(\d[\d,]*(?:\.\d+)?)(?: (ms|%|GFLOP/s|TFLOP/s))?")
_SCALES = {"ms": 1e-3, "%": 1e-2, "GFLOP/s": 1e9, "TFLOP/s": 1e12}

_Row = dict[str, Any]
_Domain = tuple[float, float]


class Figure(NamedTuple):
    """A chart as SVG with what stands above and below it."""

    title: str
    note: str
    svg: str


def accuracy_charts(chosen: Sequence[Entry]) -> list[Figure]:
    """Return one chart of top-1 with its Wilson interval for each dataset."""
    note = f"Dot: measured. Line: 95 % Wilson interval. {_MARKS}"
    datasets = dict.fromkeys(entry.record.dataset for entry in chosen)
    drawn = (
        _dots(f"Top-1 on {dataset}", note, "top1", [e for e in chosen if e.record.dataset == dataset])
        for dataset in datasets
    )
    return [figure for figure in drawn if figure]


def speed_charts(chosen: Sequence[Entry]) -> list[Figure]:
    """Return throughput, and the durations of the timed steps by batch size."""
    ordered = by_batch(chosen)
    throughput = _bars("Throughput", f"Bar: measured. {_MARKS}", "throughput_images_per_s", ordered)
    return [*([throughput] if throughput else []), *_duration_charts(ordered)]


def speedup_charts(chosen: Sequence[Entry]) -> list[Figure]:
    figure = _dots("Speed-up over fp32", f"Dot: measured. Line: its interval. {_MARKS}", "speedup_over_fp32", chosen)
    return [figure] if figure else []


def ceiling_charts(chosen: Sequence[Entry]) -> list[Figure]:
    note = "Achieved, of a matrix product's speed on the same cores."
    figure = _bars("Share of the machine's ceiling", note, "ceiling_share", by_batch(chosen), 1.0)
    return [figure] if figure else []


def limits(band: str | None) -> tuple[float | None, float | None]:
    """Return the ends of a band, in the unit of its metric's name, from the words that show it.

    >>> limits("at most 9.5 ms"), limits("within 0.7 to 0.8")
    ((None, 0.0095), (0.7, 0.8))
    """
    ends = [float(number.replace(",", "")) * _SCALES.get(unit, 1.0) for number, unit in _AMOUNT.findall(band or "")]
    if band and band.startswith("within") and len(ends) == 2:
        return ends[0], ends[1]
    if band and band.startswith("at ") and len(ends) == 1:
        return (ends[0], None) if band.startswith("at least") else (None, ends[0])
    return None, None


def _value_rows(metric: str, chosen: Sequence[Entry]) -> list[_Row]:
    return [_value_row(metric, entry.record, name) for entry, name in zip(chosen, row_labels(chosen), strict=True)]


def _value_row(metric: str, record: Record, name: str) -> _Row:
    value = record.metrics[metric]
    low, high = record.intervals.get(metric, (value, value))
    judged = [judgement for judgement in record.judgements if judgement.metric == metric]
    from_, to = limits(judged[0].band if judged else None)
    verdict = judged[0].verdict if judged else "unjudged"
    text = shown(metric, value) + (f" {verdict}" if verdict not in ("inside", "unjudged") else "")
    interval = f", interval {shown(metric, low)} to {shown(metric, high)}" if low < high else ""
    band = f", {judged[0].band}" if judged and judged[0].band else ""
    return {
        "label": name,
        "value": value,
        "low": low,
        "high": high,
        "from": from_,
        "to": to,
        "text": text,
        "colour": colour_of(record.precision),
        "fill": {"inside": 1.0, "unjudged": 0.4}.get(verdict, 0.0),
        "description": f"{name}: {shown(metric, value)}{interval}{band}, {verdict}",
    }


def colour_of(precision: str) -> str:
    return f"var(--{precision})" if precision in PRECISIONS else "var(--other)"


def _having(metric: str, chosen: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in chosen if metric in entry.record.metrics]


def _dots(title: str, note: str, metric: str, chosen: Sequence[Entry]) -> Figure | None:
    measured = by_batch(_having(metric, chosen))
    rows = _value_rows(metric, measured[:MAX_ROWS])
    if not rows:
        return None
    domain = _around([row[key] for row in rows for key in ("low", "high", "from", "to") if row[key] is not None])
    base = _rows_of(_with_band(rows, domain))
    x = _axis(domain, label(metric))
    layers = [
        *_bands(base, x),
        base.mark_rule(strokeWidth=2.5, strokeCap="round", aria=False).encode(
            x=x("low"), x2="high:Q", color=_coloured()
        ),
        base.mark_point(size=90, filled=True, opacity=1, color="var(--paper)", aria=False).encode(x=x("value")),
        base.mark_point(size=90, filled=True, opacity=1, strokeWidth=2).encode(
            x=x("value"),
            fill=_coloured("fill"),
            fillOpacity=_FILL,
            stroke=_coloured("stroke"),
            description="description:N",
        ),
        base.mark_text(dy=-13, fontSize=13, fontWeight=600, aria=False, color=_INK).encode(x=x("value"), text="text:N"),
    ]
    return _figure(title, note, layers, rows, len(measured))


def _bars(title: str, note: str, metric: str, chosen: Sequence[Entry], ceiling: float | None = None) -> Figure | None:
    measured = _having(metric, chosen)
    rows = _value_rows(metric, measured[:MAX_ROWS])
    if not rows:
        return None
    top = max(row[key] for row in rows for key in ("value", "from", "to") if row[key] is not None)
    domain = (0.0, max(top * 1.45, ceiling or 0.0) or 1.0)
    base = _rows_of(_with_band(rows, domain))
    x = _axis(domain, label(metric), ".0%" if ceiling else _NUMBERS)
    layers = [
        *_bands(base, x),
        base.mark_bar(height=13, cornerRadiusEnd=2, strokeWidth=1.5).encode(
            x=x("value"),
            x2=alt.datum(0),
            fill=_coloured("fill"),
            fillOpacity=_FILL,
            stroke=_coloured("stroke"),
            description="description:N",
        ),
        base.mark_text(align="left", dx=7, fontSize=13, fontWeight=600, aria=False, color=_INK).encode(
            x=x("value"), text="text:N"
        ),
    ]
    return _figure(title, note, layers, rows, len(measured))


def _duration_charts(ordered: Sequence[Entry]) -> list[Figure]:
    timed = [entry for entry in ordered if any(series.step_s for series in entry.record.series)]
    sizes = dict.fromkeys(entry.record.batch_size for entry in timed)
    return [_durations(size, [entry for entry in timed if entry.record.batch_size == size]) for size in sizes]


def _durations(batch_size: int | None, timed: Sequence[Entry]) -> Figure:
    chosen = timed[:MAX_ROWS]
    drawn = min(240, MAX_STEPS // len(chosen))
    rows = [_duration_row(entry.record, name, drawn) for entry, name in zip(chosen, row_labels(chosen), strict=True)]
    domain = _around([row[key] for row in rows for key in ("least", "most")])
    x = _axis(domain, "milliseconds a batch")
    base = _rows_of(rows)
    ticks = [{"label": row["label"], "step": step, "colour": row["colour"]} for row in rows for step in row["steps"]]
    strip = _rows_of(ticks).mark_tick(height=10, thickness=1, opacity=0.35, yOffset=10, aria=False)
    layers = [
        strip.encode(x=x("step"), color=_coloured()),
        base.mark_rule(strokeWidth=1.5, yOffset=-4, aria=False).encode(x=x("least"), x2="p99:Q", color=_coloured()),
        base.mark_bar(height=12, yOffset=-4, cornerRadius=2, fillOpacity=1).encode(
            x=x("p25"),
            x2="p75:Q",
            fill=alt.value("var(--paper)"),
            stroke=_coloured("stroke"),
            description="description:N",
        ),
        base.mark_tick(height=12, thickness=3, yOffset=-4, aria=False).encode(x=x("p50"), color=_coloured()),
    ]
    title = f"Time a batch, batch {batch_size}" if batch_size else "Time a batch"
    note = "Box: middle half, with the median. Line: least to p99. Below: each timed step."
    return _figure(title, note, layers, [_without_steps(row) for row in rows], len(timed))


def _duration_row(record: Record, name: str, drawn: int) -> _Row:
    step_s = np.array([step for series in record.series for step in series.step_s])
    at = {key: float(np.percentile(step_s, rank)) for key, rank in _RANKS.items()}
    places = np.linspace(0, step_s.size - 1, min(step_s.size, drawn)).round().astype(int)
    said = f"median {milliseconds(at['p50'])}, p99 {milliseconds(at['p99'])}, longest {milliseconds(at['most'])}"
    return {
        "label": name,
        "colour": colour_of(record.precision),
        **{key: 1000 * value for key, value in at.items()},
        "steps": (1000 * np.sort(step_s)[places]).tolist(),
        "description": f"{name}: {said}, timed steps {step_s.size:,}",
    }


def _without_steps(row: _Row) -> _Row:
    return {key: value for key, value in row.items() if key != "steps"}


def _around(values: Sequence[float]) -> _Domain:
    """Return the span of values with room for the text of the outermost ones."""
    low, high = min(values), max(values)
    room = 0.16 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _with_band(rows: Sequence[_Row], domain: _Domain) -> list[_Row]:
    """Add the ends of the shaded part of a row; a row without a band has none."""
    shaded = []
    for row in rows:
        judged = row["from"] is not None or row["to"] is not None
        ends = [
            row["from"] if row["from"] is not None else domain[0],
            row["to"] if row["to"] is not None else domain[1],
        ]
        shaded.append(row | ({"shade": ends[0], "shade2": ends[1]} if judged else {}))
    return shaded


def _bands(base: alt.Chart, x: Callable[[str], alt.X]) -> list[alt.Chart]:
    """Return the shading of where a band wants its metric, and a rule at each end of it."""
    size = _STEP - 6
    shade = base.transform_filter("isValid(datum.shade)")
    shade = shade.mark_bar(height=size, color="var(--band)", cornerRadius=2, aria=False)
    rules = [
        base.transform_filter(f"isValid(datum['{end}'])")
        .mark_tick(size=size, thickness=2, color="var(--limit)", aria=False)
        .encode(x=x(end))
        for end in ("from", "to")
    ]
    return [shade.encode(x=x("shade"), x2="shade2:Q"), *rules]


def _rows_of(rows: Sequence[_Row]) -> alt.Chart:
    order = list(dict.fromkeys(row["label"] for row in rows))
    y = alt.Y("label:N", title=None, sort=order, axis=alt.Axis(labelFontWeight=600, labelPadding=10))
    chart: alt.Chart = alt.Chart(alt.InlineData(values=list(rows))).encode(y=y)
    return chart


def _axis(domain: _Domain, title: str, numbers: str = _NUMBERS) -> Callable[[str], alt.X]:
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(format=numbers, tickCount=5, grid=True, title=title)
    return lambda field: alt.X(f"{field}:Q", scale=scale, axis=axis)


def _coloured(channel: str = "color") -> Any:
    kind = {"color": alt.Color, "stroke": alt.Stroke, "fill": alt.Fill}[channel]
    return kind("colour:N", scale=None, legend=None)


def _figure(title: str, note: str, layers: Sequence[alt.Chart], rows: Sequence[_Row], total: int) -> Figure:
    more = f" The first {len(rows)} of {total:,} are drawn." if len(rows) < total else ""
    return figure(title, note + more, layers, [row["description"] for row in rows], alt.Step(_STEP))


def figure(title: str, note: str, layers: Sequence[alt.Chart], said: Iterable[str], height: int | alt.Step) -> Figure:
    """Return the layers as one chart in the looks of the page; ``said`` tells in words what they show."""
    chart = (
        alt.layer(*layers)
        .properties(width=_WIDTH, height=height, background="transparent", padding=_PADDING)
        .properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="currentColor",
            titleColor="currentColor",
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
            titlePadding=8,
            labelLimit=190,
            gridColor="var(--grid)",
            domain=False,
            ticks=False,
        )
    )
    return Figure(title, note, svg(chart.to_dict(), f"{title}. {'; '.join(said)}"))
