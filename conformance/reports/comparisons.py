"""What changed: the same cases on two stacks, or beside an earlier run, metric by metric and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from conformance.cases.metrics import METRICS, percent, ratio
from conformance.records import CHANGE_GRAVITY, Change, Comparison, Run
from conformance.reports.changes import gravest_first, repeats_words
from conformance.reports.charts import colour_of
from conformance.reports.drawing import MAX_ROWS, Figure, dots
from conformance.reports.drawing import Row as Drawn
from conformance.reports.entries import ABSENT, ROWS, label, shown
from conformance.reports.tables import Cell, Row, Table, known, table, verdict_cell

_NOTE = "Dot: the ratio. Line: its 95 % interval. Ticks: each pair. Shaded: what counts as no change."
_FILLS = {"regressed": 1.0, "improved": 1.0, "same": 0.4}


class Section(NamedTuple):
    """All comparisons, their metrics, and folded away: layers and what else differs."""

    sentence: str
    overview: Table
    figures: tuple[Figure, ...]
    changes: Table | None
    kernels: Table | None
    differences: Table | None


def comparisons(runs: Sequence[Run]) -> Section | None:
    """Return the section, or None where no run compared anything."""
    listed = gravest_first(comparison for run in runs for comparison in run.comparisons)
    if not listed:
        return None
    changes = [(comparison, change) for comparison in listed for change in comparison.changes]
    return Section(
        _sentence(listed), _overview(listed), _figures(changes), _changes(changes), _kernels(listed), _differ(listed)
    )


def _sentence(listed: Sequence[Comparison]) -> str:
    found = [comparison.verdict for comparison in listed]
    counted = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in CHANGE_GRAVITY)
    return f"{len(listed):,} {'comparison' if len(listed) == 1 else 'comparisons'}: {counted}."


def _overview(listed: Sequence[Comparison]) -> Table:
    rows = [
        Row(
            (
                Cell(c.case, "code"),
                Cell(c.base),
                Cell(c.new),
                verdict_cell(c.verdict),
                Cell(c.reason or ABSENT, "sentence"),
                Cell(_order(c), "quiet"),
            )
        )
        for c in listed[:ROWS]
    ]
    more = f". The first {ROWS} of {len(listed):,}; the CSV has all" if len(listed) > ROWS else ""
    columns = ("Case", "Base", "New", "Verdict", "In words", "How it was compared")
    return table(f"Every comparison, the gravest first{more}", columns, rows, stacked=True, sortable=True)


def _order(comparison: Comparison) -> str:
    said = ["taking turns" if comparison.paired else "not in pairs"] if comparison.changes else []
    seed = [f"order drawn with seed {comparison.order_seed}"] if comparison.order_seed is not None else []
    return "; ".join([*said, *seed, f"profile {comparison.profile}"])


def _changes(changes: Sequence[tuple[Comparison, Change]]) -> Table | None:
    rows = [
        Row(
            (
                Cell(comparison.case, "code", f"{comparison.base} \N{RIGHTWARDS ARROW} {comparison.new}"),
                Cell(label(change.metric)),
                _value(change.metric, change.base),
                _value(change.metric, change.new),
                Cell(
                    ABSENT if change.ratio is None else ratio(change.ratio), "number", _ends(change), key=change.ratio
                ),
                Cell(ABSENT if change.p is None else f"{change.p:.2g}", "number", key=change.p),
                Cell(repeats_words(change, comparison.paired), "number", key=len(change.new_values)),
                Cell(_share(change.allowed), "number", key=change.allowed),
                Cell(_share(change.detectable), "number", key=change.detectable),
                verdict_cell(change.verdict),
            )
        )
        for comparison, change in changes[: 2 * ROWS]
    ]
    columns = (
        "Case", "Metric", "Base", "New", "New / base", "p", "Repeats", "Allowed", "Detectable", "Verdict",
    )  # fmt: skip
    caption = "Medians, their ratio with its 95 % interval, and the smallest change that so many repeats would show"
    return table(caption, columns, rows, sortable=True) if rows else None


def _value(metric: str, value: float | None) -> Cell:
    return Cell(shown(metric, value), "number", key=value)


def _ends(change: Change) -> str:
    return " to ".join(ratio(end) for end in change.interval) if change.interval else ""


def _share(share: float | None) -> str:
    return ABSENT if share is None else percent(share)


def _figures(changes: Sequence[tuple[Comparison, Change]]) -> tuple[Figure, ...]:
    """Return a chart of ratios for each metric that has any, those that decide first."""
    drawn = [(comparison, change) for comparison, change in changes if change.ratio is not None]
    figures = []
    metrics = known({change.metric for _, change in drawn})
    for metric in sorted(metrics, key=lambda name: name not in METRICS or METRICS[name].gate != "decides"):
        chosen = [(comparison, change) for comparison, change in drawn if change.metric == metric]
        rows = _told_apart([_drawn(comparison, change) for comparison, change in chosen[:MAX_ROWS]], chosen)
        name = label(metric)
        figures.append(
            dots(f"{name[:1].upper()}{name[1:]}, new over base", _NOTE, "new / base", rows, len(chosen)),
        )
    return tuple(figures)


def _told_apart(rows: Sequence[Drawn], chosen: Sequence[tuple[Comparison, Change]]) -> list[Drawn]:
    """Return rows whose labels name the stacks too, where cases alone would not tell them apart."""
    if len({row["label"] for row in rows}) == len(rows):
        return list(rows)
    named = [f"{c.case}, {c.new}" for c, _ in chosen[: len(rows)]]
    if len(set(named)) < len(named):
        named = [f"{n}: {name}" for n, name in enumerate(named, start=1)]
    return [row | {"label": name} for row, name in zip(rows, named, strict=True)]


def _drawn(comparison: Comparison, change: Change) -> Drawn:
    assert change.ratio is not None
    low, high = change.interval or (change.ratio, change.ratio)
    allowed = change.allowed
    pairs = (
        [new / base for base, new in zip(change.base_values, change.new_values, strict=True) if base]
        if comparison.paired and len(change.base_values) == len(change.new_values)
        else []
    )
    interval = f", interval {_ends(change)}" if change.interval else ""
    return {
        "label": comparison.case,
        "value": change.ratio,
        "low": low,
        "high": high,
        "from": None if allowed is None else 1 - allowed,
        "to": None if allowed is None else 1 + allowed,
        "repeats": pairs,
        "text": f"{ratio(change.ratio)} {change.verdict}",
        "colour": colour_of(comparison.precision),
        "fill": _FILLS.get(change.verdict, 0.0),
        "description": f"{comparison.case}, {comparison.base} to {comparison.new}: {ratio(change.ratio)}{interval}, "
        f"{repeats_words(change, comparison.paired)}, {change.verdict}",
    }


def _kernels(listed: Sequence[Comparison]) -> Table | None:
    rows = [
        Row(
            (
                Cell(c.case, "code", f"{c.base} \N{RIGHTWARDS ARROW} {c.new}"),
                Cell(kernel.layer, "code"),
                Cell(kernel.base or ABSENT, "code", _of_a_step(kernel.base_share)),
                Cell(kernel.new or ABSENT, "code", _of_a_step(kernel.new_share)),
            )
        )
        for c in listed
        for kernel in c.kernels
    ]
    more = f". The first {ROWS} of {len(rows):,}" if len(rows) > ROWS else ""
    caption = f"By kernel, data type or instruction set; {ABSENT} is not run by oneDNN there{more}"
    return table(caption, ("Case", "Layer", "Base", "New"), rows[:ROWS]) if rows else None


def _of_a_step(share: float | None) -> str:
    return "" if share is None else f"{percent(share)} of a step"


def _differ(listed: Sequence[Comparison]) -> Table | None:
    told = dict.fromkeys((c.base, c.new, difference) for c in listed for difference in c.differences)
    rows = [Row((Cell(base), Cell(new), Cell(difference, "sentence"))) for base, new, difference in told]
    return (
        table("What else differs between the two", ("Base", "New", "Difference"), rows, stacked=True) if rows else None
    )
