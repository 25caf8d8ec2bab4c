"""What changed: the same cases on two stacks, or beside an earlier run, metric by metric and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from conformance.cases.metrics import METRICS, percent, ratio
from conformance.records import CHANGE_GRAVITY, Change, Comparison, Run
from conformance.reports.changes import repeats_words
from conformance.reports.charts import colour_of
from conformance.reports.drawing import MAX_ROWS, Figure, dots
from conformance.reports.drawing import Row as Drawn
from conformance.reports.entries import ABSENT, ROWS, Entry, label, shown
from conformance.reports.tables import Cell, Row, Table, known, table, verdict_cell

CHANGES = 2 * ROWS  # metrics in the table
CASES = 3  # named of those that alone differ in something
_NOTE = (
    "Dot: the ratio. Line: its 95 % interval. Ticks: each pair. Shaded: what counts as no change. "
    "Full: regressed or improved, pale: same, hollow: neither."
)
_FILLS = {"regressed": 1.0, "improved": 1.0, "same": 0.4}


class Section(NamedTuple):
    """All comparisons, their metrics, and folded away: layers and what else differs."""

    sentence: str
    overview: Table
    figures: tuple[Figure, ...]
    changes: Table | None
    kernels: Table | None
    differences: Table | None


class _Told(NamedTuple):
    """A comparison with the run that tells it, counted from 1, and where the page shows its case in full."""

    comparison: Comparison
    run: int
    href: str
    several: bool  # runs compared something

    @property
    def sides(self) -> str:
        return f"{self.comparison.base} \N{RIGHTWARDS ARROW} {self.comparison.new}"

    @property
    def of(self) -> str:
        return f"run {self.run}" if self.several else ""

    def case_cell(self, small: str = "") -> Cell:
        told = " \N{MIDDLE DOT} ".join(filter(None, [small, self.of]))
        return Cell(self.comparison.case, "code", told, self.href)


def comparisons(runs: Sequence[Run], listed: Sequence[Entry] = ()) -> Section | None:
    """Return the section, or None where no run compared anything; cases link to the entries that have an anchor."""
    told = _told(runs, listed)
    if not told:
        return None
    changes = [(each, change) for each in told for change in each.comparison.changes]
    return Section(
        _sentence(told), _overview(told), _figures(changes), _changes(changes), _kernels(told), _differ(told)
    )


def _told(runs: Sequence[Run], listed: Sequence[Entry]) -> list[_Told]:
    """Return all comparisons, the gravest first."""
    anchors: dict[tuple[int, str, str], str] = {}
    for entry in listed:
        for stack in (entry.record.stack, ""):  # the stack's own, or the first of the case
            anchors.setdefault((entry.run, entry.record.case, stack), entry.anchor)
    several = sum(bool(run.comparisons) for run in runs) > 1
    told = []
    for n, run in enumerate(runs, start=1):
        for one in run.comparisons:
            anchor = anchors.get((n, one.case, one.new)) or anchors.get((n, one.case, ""))
            told.append(_Told(one, n, f"#{anchor}" if anchor else "", several))
    return sorted(told, key=lambda each: CHANGE_GRAVITY.index(each.comparison.verdict))


def _sentence(told: Sequence[_Told]) -> str:
    found = [each.comparison.verdict for each in told]
    counted = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in CHANGE_GRAVITY)
    return f"{len(told):,} {'comparison' if len(told) == 1 else 'comparisons'}: {counted}."


def _overview(told: Sequence[_Told]) -> Table:
    rows = [
        Row(
            (
                each.case_cell(),
                Cell(each.comparison.base),
                Cell(each.comparison.new),
                verdict_cell(each.comparison.verdict),
                Cell(each.comparison.reason or ABSENT, "sentence"),
                Cell(_order(each.comparison), "quiet"),
            )
        )
        for each in told[:ROWS]
    ]
    caption = f"Every comparison, the gravest first{_left(ROWS, len(told))}"
    columns = ("Case", "Base", "New", "Verdict", "In words", "How it was compared")
    return table(caption, columns, rows, stacked=True, sortable=True)


def _left(drawn: int, total: int) -> str:
    return f". The first {drawn} of {total:,}; the CSV has all" if total > drawn else ""


def _order(comparison: Comparison) -> str:
    said = ["taking turns" if comparison.paired else "not in pairs"] if comparison.changes else []
    seed = [f"order drawn with seed {comparison.order_seed}"] if comparison.order_seed is not None else []
    return "; ".join([*said, *seed, f"profile {comparison.profile}"])


def _changes(changes: Sequence[tuple[_Told, Change]]) -> Table | None:
    rows = [
        Row(
            (
                each.case_cell(each.sides),
                Cell(label(change.metric)),
                _value(change.metric, change.base),
                _value(change.metric, change.new),
                Cell(
                    ABSENT if change.ratio is None else ratio(change.ratio), "number", _ends(change), key=change.ratio
                ),
                Cell(ABSENT if change.p is None else f"{change.p:.2g}", "number", key=change.p),
                Cell(repeats_words(change, each.comparison.paired), "number", key=len(change.new_values)),
                Cell(_share(change.allowed), "number", key=change.allowed),
                Cell(_share(change.detectable), "number", key=change.detectable),
                verdict_cell(change.verdict),
            )
        )
        for each, change in changes[:CHANGES]
    ]
    columns = (
        "Case", "Metric", "Base", "New", "New / base", "p", "Repeats", "Allowed", "Detectable", "Verdict",
    )  # fmt: skip
    caption = "Medians, their ratio with its 95 % interval, and the smallest change that so many repeats would show"
    return table(f"{caption}{_left(CHANGES, len(changes))}", columns, rows, sortable=True) if rows else None


def _value(metric: str, value: float | None) -> Cell:
    return Cell(shown(metric, value), "number", key=value)


def _ends(change: Change) -> str:
    return " to ".join(ratio(end) for end in change.interval) if change.interval else ""


def _share(share: float | None) -> str:
    return ABSENT if share is None else percent(share)


def _figures(changes: Sequence[tuple[_Told, Change]]) -> tuple[Figure, ...]:
    """Return a chart of ratios for each metric that has any, those that decide first."""
    drawn = [(each, change) for each, change in changes if change.ratio is not None]
    figures = []
    metrics = known({change.metric for _, change in drawn})
    for metric in sorted(metrics, key=lambda name: name not in METRICS or METRICS[name].gate != "decides"):
        chosen = [(each, change) for each, change in drawn if change.metric == metric]
        first = chosen[:MAX_ROWS]
        names = _names([each for each, _ in first])
        rows = [_drawn(each.comparison, change, name) for (each, change), name in zip(first, names, strict=True)]
        name = label(metric)
        title = f"{name[:1].upper()}{name[1:]}, new over base"
        figures.append(dots(title, _NOTE, f"new / base{_sense(metric)}", rows, len(chosen)))
    return tuple(figures)


def _sense(metric: str) -> str:
    """Return what it means that a metric is greater than it was.

    >>> _sense("latency_p50_s"), _sense("throughput_images_per_s"), _sense("top1")
    (', right is slower (worse)', ', right is faster (better)', ', right is better')
    """
    better = METRICS[metric].better if metric in METRICS else "neither"
    if better == "neither":
        return ""
    told = "better" if better == "higher" else "worse"
    pace = "faster" if metric.endswith("_per_s") else "slower" if metric.endswith("_s") else ""
    return f", right is {pace} ({told})" if pace else f", right is {told}"


def _names(told: Sequence[_Told]) -> list[str]:
    """Return the names of the cases, with as much else as tells them apart: runs, stacks, profiles."""
    names = cases = [each.comparison.case for each in told]
    traits = [(f"run {each.run}", each.comparison.new, each.comparison.base, each.comparison.profile) for each in told]
    varying = [i for i in range(4) if len({of[i] for of in traits}) > 1]
    for enough in range(len(varying) + 1):
        parts = [[case, *(of[i] for i in varying[:enough])] for case, of in zip(cases, traits, strict=True)]
        names = [" \N{MIDDLE DOT} ".join(each) for each in parts]
        if len(set(names)) == len(names):
            return names
    seen = [names[:n].count(name) for n, name in enumerate(names)]
    return [f"{name} ({before + 1})" if before else name for name, before in zip(names, seen, strict=True)]


def _drawn(comparison: Comparison, change: Change, name: str) -> Drawn:
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
        "label": name,
        "value": change.ratio,
        "low": low,
        "high": high,
        "from": None if allowed is None else 1 / (1 + allowed),  # logarithms are judged
        "to": None if allowed is None else 1 + allowed,
        "repeats": pairs,
        "text": f"{ratio(change.ratio)} {change.verdict}",
        "colour": colour_of(comparison.precision),
        "fill": _FILLS.get(change.verdict, 0.0),
        "description": f"{name}, {comparison.base} to {comparison.new}: {ratio(change.ratio)}{interval}, "
        f"{repeats_words(change, comparison.paired)}, {change.verdict}",
    }


def _kernels(told: Sequence[_Told]) -> Table | None:
    rows = [
        Row(
            (
                each.case_cell(each.sides),
                Cell(kernel.layer, "code"),
                Cell(kernel.base or ABSENT, "code", _of_a_step(kernel.base_share)),
                Cell(kernel.new or ABSENT, "code", _of_a_step(kernel.new_share)),
            )
        )
        for each in told
        for kernel in each.comparison.kernels
    ]
    more = f". The first {ROWS} of {len(rows):,}" if len(rows) > ROWS else ""
    caption = f"By kernel, data type or instruction set; {ABSENT} is not run by oneDNN there{more}"
    return table(caption, ("Case", "Layer", "Base", "New"), rows[:ROWS]) if rows else None


def _of_a_step(share: float | None) -> str:
    return "" if share is None else f"{percent(share)} of a step"


def _differ(told: Sequence[_Told]) -> Table | None:
    """Return what differs, once for each two that were compared in a run, and of which cases where not of all."""
    together: dict[tuple[int, str], list[_Told]] = {}
    for each in told:
        if each.comparison.differences:
            together.setdefault((each.run, each.sides), []).append(each)
    rows = [row for _, same in sorted(together.items()) for row in _difference_rows(same)]
    return table("What else differs between the two", ("Compared", "Difference"), rows) if rows else None


def _difference_rows(same: Sequence[_Told]) -> list[Row]:
    cases: dict[str, list[str]] = {}
    for each in same:
        for difference in each.comparison.differences:
            cases.setdefault(difference, []).append(each.comparison.case)
    heading = Cell(same[0].sides, small=same[0].of, rows=len(cases))
    told = [Cell(difference, "sentence", _only(of, len(same))) for difference, of in cases.items()]
    return [Row((heading, cell) if n == 0 else (cell,)) for n, cell in enumerate(told)]


def _only(cases: Sequence[str], total: int) -> str:
    more = f" and {len(cases) - CASES} more" if len(cases) > CASES else ""
    return f"in {', '.join(cases[:CASES])}{more}" if len(cases) < total else ""
