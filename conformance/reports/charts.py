"""The charts of the page: rows of values against their bands, and rows of step durations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import altair as alt
import numpy as np
import numpy.typing as npt

from conformance.cases.metrics import milliseconds
from conformance.records import GRAVITY, Record
from conformance.reports.drawing import MAX_ROWS, Figure, Row, around, axis, bars, coloured, dots, row_figure, rows_of
from conformance.reports.entries import PRECISIONS, Entry, by_batch, label, row_labels, shown
from conformance.reports.frame import unit
from conformance.reports.tables import Cell, Table, batch_cell, first_of, heading, heads, table, verdict_on
from conformance.reports.tables import Row as TableRow

MAX_STEPS = 1200  # drawn in a chart, at most 240 in a row; quantiles are of all
_MARKS = "Shaded: where the band wants it. Full: inside, pale: unjudged, hollow: neither."
_RANKS = {"least": 0, "p25": 25, "p50": 50, "p75": 75, "p99": 99, "most": 100}
_AMOUNT = re.compile(r"(\d[\d,]*(?:\.\d+)?)(?: (ms|%|GFLOP/s|TFLOP/s))?")
_SCALES = {"ms": 1e-3, "%": 1e-2, "GFLOP/s": 1e9, "TFLOP/s": 1e12}


def accuracy_charts(chosen: Sequence[Entry]) -> list[Figure]:
    """Return one chart of top-1 with its Wilson interval for each dataset, network and suite that differ."""
    note = f"Dot: measured. Line: 95 % Wilson interval. {_MARKS}"
    measured = _having("top1", chosen)
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in measured:
        groups.setdefault((entry.record.dataset, entry.record.model, entry.record.suite), []).append(entry)
    figures = []
    for (dataset, model, suite), entries in groups.items():
        several = [len({group[part] for group in groups if group[0] == dataset}) > 1 for part in (1, 2)]
        title = f"Top-1{f' of {model}' * several[0]} on {dataset}{f', {suite}' * several[1]}"
        figures.append(_dots(title, note, "top1", entries))
    return [figure for figure in figures if figure]


def speed_charts(chosen: Sequence[Entry]) -> list[Figure]:
    """Return throughput, and the durations of the timed steps by batch size."""
    ordered = by_batch(chosen)
    throughput = _bars("Throughput", "Bar: measured.", "throughput_images_per_s", ordered)
    return [*([throughput] if throughput else []), *_duration_charts(ordered)]


def speedup_charts(chosen: Sequence[Entry]) -> list[Figure]:
    figure = _dots("Speed-up over fp32", f"Dot: measured. Line: its interval. {_MARKS}", "speedup_over_fp32", chosen)
    return [figure] if figure else []


def training_charts(chosen: Sequence[Entry]) -> list[Figure]:
    """Return the speeds of trainings: one of each process by itself, one of all ranks together."""
    named = {"Images a second": "training_images_per_s", "Images a second, all ranks": "global_images_per_s"}
    drawn = [_bars(title, "Bar: measured.", metric, by_batch(chosen)) for title, metric in named.items()]
    return [figure for figure in drawn if figure]


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


def _value_rows(metric: str, chosen: Sequence[Entry]) -> list[Row]:
    return [_value_row(metric, entry, name) for entry, name in zip(chosen, row_labels(chosen), strict=True)]


def _value_row(metric: str, entry: Entry, name: str) -> Row:
    record, repeats = entry.record, entry.values(metric)
    value = record.metrics[metric]
    low, high = record.intervals.get(metric, (value, value))
    judged = [judgement for judgement in record.judgements if judgement.metric == metric]
    from_, to = limits(judged[0].band if judged else None)
    verdict = verdict_on(record, [metric])
    text = shown(metric, value) + (f" {verdict}" if verdict not in ("inside", "unjudged") else "")
    interval = f", interval {shown(metric, low)} to {shown(metric, high)}" if low < high else ""
    interval += _of_repeats(metric, repeats)
    band = f", {judged[0].band}" if judged and judged[0].band else ""
    return {
        "label": name,
        "value": value,
        "low": low,
        "high": high,
        "from": from_,
        "to": to,
        "repeats": list(repeats) if len(repeats) > 1 else [],
        "text": text,
        "colour": colour_of(record.precision),
        "fill": {"inside": 1.0, "unjudged": 0.4}.get(verdict, 0.0),
        "description": f"{name}: {shown(metric, value)}{interval}{band}, {verdict}",
    }


def _of_repeats(metric: str, repeats: Sequence[float]) -> str:
    if len(repeats) < 2:
        return ""
    least, most = shown(metric, min(repeats)), shown(metric, max(repeats))
    return f", median of {len(repeats)} repeats from {least} to {most}"


def colour_of(precision: str) -> str:
    return f"var(--{precision})" if precision in PRECISIONS else "var(--other)"


def _having(metric: str, chosen: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in chosen if metric in entry.record.metrics]


def _dots(title: str, note: str, metric: str, chosen: Sequence[Entry]) -> Figure | None:
    measured = _having(metric, chosen)
    rows = _value_rows(metric, _gravest(measured))
    return dots(title, _noted(note, rows), _named(metric), rows, len(measured)) if rows else None


def _bars(title: str, note: str, metric: str, chosen: Sequence[Entry], ceiling: float | None = None) -> Figure | None:
    measured = _having(metric, chosen)
    rows = _value_rows(metric, _gravest(measured))
    if not rows:
        return None
    marks = "" if ceiling else f" {_MARKS}"
    return bars(title, _noted(note + marks, rows), _named(metric), rows, len(measured), ceiling)


def _named(metric: str) -> str:
    return ", ".join(filter(None, (label(metric), unit(metric))))


def _gravest(chosen: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return as many entries as a chart has room for, the gravest of them, in the order of speeds."""
    return by_batch(sorted(chosen, key=lambda entry: GRAVITY.index(entry.record.verdict))[:MAX_ROWS])


def _noted(note: str, rows: Sequence[Row]) -> str:
    return f"{note} Ticks: each repeat, of which the median is shown." if any(row["repeats"] for row in rows) else note


def _duration_charts(ordered: Sequence[Entry]) -> list[Figure]:
    timed = [entry for entry in ordered if any(series.step_s for series in entry.record.series)]
    sizes = dict.fromkeys(entry.record.batch_size for entry in timed)
    return [_durations(size, [entry for entry in timed if entry.record.batch_size == size]) for size in sizes]


def _durations(batch_size: int | None, timed: Sequence[Entry]) -> Figure:
    chosen = _gravest(timed)
    drawn = min(240, MAX_STEPS // len(chosen))
    rows = [_duration_row(entry.record, name, drawn) for entry, name in zip(chosen, row_labels(chosen), strict=True)]
    least, most = min(row["least"] for row in rows), max(row["most"] for row in rows)
    log = least > 0 and most / least > 4
    domain = (least / 1.1, most * 1.1) if log else around([least, most])
    x = axis(domain, "milliseconds a batch" + ", log scale" * log, log=log)
    base = rows_of(rows)
    ticks = [{"label": row["label"], "step": step, "colour": row["colour"]} for row in rows for step in row["steps"]]
    strip = rows_of(ticks).mark_tick(height=10, thickness=1, opacity=0.35, yOffset=10, aria=False)
    layers = [
        strip.encode(x=x("step"), color=coloured()),
        base.mark_rule(strokeWidth=1.5, yOffset=-4, aria=False).encode(x=x("least"), x2="p99:Q", color=coloured()),
        base.mark_bar(height=12, yOffset=-4, cornerRadius=2, fillOpacity=1).encode(
            x=x("p25"),
            x2="p75:Q",
            fill=alt.value("var(--paper)"),
            stroke=coloured("stroke"),
            description="description:N",
        ),
        base.mark_tick(height=12, thickness=3, yOffset=-4, aria=False).encode(x=x("p50"), color=coloured()),
    ]
    title = f"Time a batch, batch {batch_size}" if batch_size else "Time a batch"
    note = "Box: middle half, with the median. Line: least to p99. Below: each timed step."
    return row_figure(title, note, layers, [_without_steps(row) for row in rows], len(timed))


def duration_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    """Return what the charts of durations draw, or None where no steps are kept."""
    timed = [entry for entry in by_batch(chosen) if any(series.step_s for series in entry.record.series)]
    caption, first = first_of("The time a batch takes: quantiles of all timed steps", timed)
    rows = [TableRow((*heading(entry, several), *_duration_cells(entry.record))) for entry in first]
    columns = (*heads(several), "Batch", "Steps", "Least", "p25", "Median", "p75", "p99", "Longest")
    return table(caption, columns, rows, sortable=True) if rows else None


def _duration_cells(record: Record) -> tuple[Cell, ...]:
    step_s = _steps(record)
    quantiles = [Cell(milliseconds(value), "number", key=value) for value in _quantiles(step_s).values()]
    return batch_cell(record), Cell(f"{step_s.size:,}", "number", key=step_s.size), *quantiles


def _steps(record: Record) -> npt.NDArray[np.float64]:
    return np.array([step for series in record.series for step in series.step_s])


def _quantiles(step_s: npt.NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(_RANKS, np.percentile(step_s, list(_RANKS.values())).tolist(), strict=True))


def _duration_row(record: Record, name: str, drawn: int) -> Row:
    step_s = _steps(record)
    at = _quantiles(step_s)
    places = np.linspace(0, step_s.size - 1, min(step_s.size, drawn)).round().astype(int)
    doubt = f", {record.verdict}" * (record.verdict in ("unstable", "invalid"))
    said = f"median {milliseconds(at['p50'])}, p99 {milliseconds(at['p99'])}, longest {milliseconds(at['most'])}"
    return {
        "label": name + doubt,
        "colour": colour_of(record.precision),
        **{key: 1000 * value for key, value in at.items()},
        "steps": (1000 * np.sort(step_s)[places]).tolist(),
        "description": f"{name}: {said}, timed steps {step_s.size:,}{doubt}",
    }


def _without_steps(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "steps"}
