"""How a chart is drawn: rows of dots or bars in front of where a band wants them, in the looks of the page."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt

from conformance.reports.svg import svg

MAX_ROWS = 40
_WIDTH = 480
_STEP = 40
_LINE, _CHARACTERS, _LINES = 16, 22, 4  # of a row's label: pixels from line to line, how long, how many
_INK = "var(--ink)"
_PADDING = {"right": 12, "top": 4, "bottom": 4}
_LEFT, _LONG = 18, 16  # fonts of the reader may be wider, which shows in labels of so many characters
_NUMBERS = ",.6~g"
_CHARACTER = 8.2  # pixels: of labels and values, in the widest of the fonts that readers have
_FILL = alt.FillOpacity("fill:Q", scale=None, legend=None)

Row = dict[str, Any]
Domain = tuple[float, float]


class Figure(NamedTuple):
    """A chart as SVG with what stands above and below it."""

    title: str
    note: str
    svg: str


def dots(title: str, note: str, axis_title: str, rows: Sequence[Row], total: int) -> Figure:
    """Return a row for each value with its interval.

    A row holds ``label``, ``value``, ``low`` and ``high``, ``from`` and ``to`` (the ends of its band, or None),
    ``repeats`` (values, each a small tick), ``text``, ``colour``, ``fill`` (0 to 1) and ``description``; ``total`` is
    how many rows there are, drawn or not.
    """
    ends = [row[key] for row in rows for key in ("low", "high", "from", "to") if row[key] is not None]
    domain = around([*ends, *(repeat for row in rows for repeat in row["repeats"])])
    base = rows_of(_with_band(rows, domain))
    x = axis(domain, axis_title)
    layers = [
        *_bands(base, x),
        *_ticks(rows, x),
        base.mark_rule(strokeWidth=2.5, strokeCap="round", aria=False).encode(
            x=x("low"), x2="high:Q", color=coloured()
        ),
        base.mark_point(size=90, filled=True, opacity=1, color="var(--paper)", aria=False).encode(x=x("value")),
        base.mark_point(size=90, filled=True, opacity=1, strokeWidth=2).encode(
            x=x("value"),
            fill=coloured("fill"),
            fillOpacity=_FILL,
            stroke=coloured("stroke"),
            description="description:N",
        ),
        base.mark_text(dy=-13, fontSize=13, fontWeight=600, aria=False, color=_INK).encode(x=x("at"), text="text:N"),
    ]
    return row_figure(title, note, layers, rows, total)


def bars(
    title: str, note: str, axis_title: str, rows: Sequence[Row], total: int, ceiling: float | None = None
) -> Figure:
    """Return a bar for each row, its text above it where it always has room.

    A row holds what those of ``dots`` hold; ``ceiling`` is 1.0 for an axis of shares.
    """
    top = max(value for row in rows for value in (row["value"], row["from"], row["to"], *row["repeats"]) if value)
    domain = (0.0, max(top * 1.05, ceiling or 0.0) or 1.0)
    base = rows_of(_with_band(rows, domain))
    x = axis(domain, axis_title, ".0%" if ceiling else _NUMBERS)
    layers = [
        *_bands(base, x),
        base.mark_bar(height=12, yOffset=2, cornerRadiusEnd=2, strokeWidth=1.5).encode(
            x=x("value"),
            x2=alt.datum(0),
            fill=coloured("fill"),
            fillOpacity=_FILL,
            stroke=coloured("stroke"),
            description="description:N",
        ),
        *_ticks(rows, x),
        base.mark_text(align="left", dx=2, dy=-12, fontSize=13, fontWeight=600, aria=False, color=_INK).encode(
            x=x("left"), text="text:N"
        ),
    ]
    return row_figure(title, note, layers, rows, total)


def around(values: Sequence[float]) -> Domain:
    """Return the span of values with room for the text of the outermost ones."""
    low, high = min(values), max(values)
    room = 0.16 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _order(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows))


def rows_of(rows: Sequence[Row], order: Sequence[str] = ()) -> alt.Chart:
    """Return a chart with a row for each label, in that order or in the given one: layers of a chart share it."""
    lines = json.dumps({row["label"]: _lines(row["label"]) for row in rows})
    labels = alt.Axis(
        labelFontWeight=600,
        labelPadding=10,
        labelLineHeight=_LINE,
        labelExpr=f"({lines})[datum.label]",
        labelOffset=alt.ExprRef(f"{-_LINE / 2} * (length(({lines})[datum.value]) - 1)"),  # the middle line at the mark
    )
    y = alt.Y("label:N", title=None, sort=list(order) or _order(rows), axis=labels)
    chart: alt.Chart = alt.Chart(alt.InlineData(values=list(rows))).encode(y=y)
    return chart


def _lines(label: str) -> list[str]:
    """Break a label where its words end, numbers with the word before them, and leave out the middle of a long one.

    >>> _lines("resnext101_32x4d-digits-bf16-2-ranks-mpirun")
    ['resnext101_32x4d-', 'digits-bf16-2-ranks-', 'mpirun']
    """
    lines = textwrap.wrap(re.sub(r" (?=\d)|(?<=·) ", "\N{NO-BREAK SPACE}", label), _CHARACTERS)
    left_out = "\N{HORIZONTAL ELLIPSIS}"
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 2], f"{lines[_LINES - 2][:-1]}{left_out}", lines[-1]]


def axis(domain: Domain, title: str, numbers: str = _NUMBERS, log: bool = False) -> Callable[[str], alt.X]:
    kind = {"type": "log"} if log else {"zero": False}
    scale = alt.Scale(domain=list(domain), nice=False, **kind)
    drawn = alt.Axis(format=numbers, tickCount=5, grid=True, title=title, labelOverlap="greedy", labelSeparation=14)
    return lambda field: alt.X(f"{field}:Q", scale=scale, axis=drawn)


def coloured(channel: str = "color") -> Any:
    kind = {"color": alt.Color, "stroke": alt.Stroke, "fill": alt.Fill}[channel]
    return kind("colour:N", scale=None, legend=None)


def _ticks(rows: Sequence[Row], x: Callable[[str], alt.X]) -> list[alt.Chart]:
    """Return a small tick for each repeat, below the mark of its row."""
    each = [
        {"label": row["label"], "repeat": repeat, "colour": row["colour"]} for row in rows for repeat in row["repeats"]
    ]
    ticks = rows_of(each, _order(rows)).mark_tick(height=9, thickness=1.5, yOffset=13, aria=False)
    return [ticks.encode(x=x("repeat"), color=coloured())] if each else []


def _with_band(rows: Sequence[Row], domain: Domain) -> list[Row]:
    """Add the ends of the shaded part of a row, none where it has no band, and where its text has room."""
    shaded = []
    plot = _WIDTH - _left(rows) - _PADDING["right"] - _CHARACTER * _longest(rows) - 10
    for row in rows:
        judged = row["from"] is not None or row["to"] is not None
        ends = [
            row["from"] if row["from"] is not None else domain[0],
            row["to"] if row["to"] is not None else domain[1],
        ]
        bands = {"shade": ends[0], "shade2": ends[1]} if judged else {}
        half = (domain[1] - domain[0]) * min(_CHARACTER * len(row["text"]) / plot, 1.0) / 2
        at = min(max(row["value"], domain[0] + half), domain[1] - half)
        shaded.append({**row, **bands, "at": at, "left": domain[0]})
    return [{key: value for key, value in row.items() if key != "repeats"} for row in shaded]


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


def row_figure(title: str, note: str, layers: Sequence[alt.Chart], rows: Sequence[Row], total: int) -> Figure:
    more = f" The gravest {len(rows)} of {total:,} are drawn." if len(rows) < total else ""
    step = max(_STEP, _LINE * max(len(_lines(row["label"])) for row in rows) + 10)
    return figure(title, note + more, layers, [row["description"] for row in rows], alt.Step(step), _left(rows))


def _left(rows: Sequence[Row]) -> int:
    return _LEFT * (2 if _longest(rows) > _LONG else 1)


def _longest(rows: Sequence[Row]) -> int:
    """Return how many characters the longest line of the rows' labels has."""
    return max(len(line) for row in rows for line in _lines(row["label"]))


def figure(
    title: str,
    note: str,
    layers: Sequence[alt.Chart],
    said: Iterable[str],
    height: int | alt.Step,
    left: int = _LEFT,
) -> Figure:
    """Return the layers as one chart in the looks of the page; ``said`` tells in words what they show."""
    chart = (
        alt.layer(*layers)
        .properties(width=_WIDTH, height=height, background="transparent", padding={"left": left, **_PADDING})
        .properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="currentColor",
            titleColor="currentColor",
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
            titlePadding=8,
            labelLimit=0,
            gridColor="var(--grid)",
            domain=False,
            ticks=False,
        )
    )
    return Figure(title, note, svg(chart.to_dict(), title, "; ".join(said)))
