"""The tables of the page, as words: the template only lays them out."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from conformance.cases.metrics import METRICS, count, percent
from conformance.records import ChangeVerdict, Noise, Record, Verdict, worst
from conformance.reports.entries import ABSENT, ROWS, Entry, by_batch, label, shown

_ACCURACY = {
    "images": "Images",
    "top1": "Top-1",
    "top5": "Top-5",
    "top1_of_fp32": "Of fp32",
    "mcnemar_p": "McNemar p",
}
_SPEED = {
    "throughput_images_per_s": "Throughput",
    "latency_p50_s": "Median",
    "latency_p90_s": "p90",
    "latency_p95_s": "p95",
    "latency_p99_s": "p99",
    "spread": "Spread",
}
_TRAINING = {
    "final_loss": "Last loss",
    "loss_drop": "Drop",
    "loss_trend_tau": "Trend",
    "loss_trend_p": "p",
    "training_images_per_s": "Speed",
    "step_p99_over_p50": "p99 / median",
    "wait_share": "Waiting",
    "resident_growth_bytes": "Memory",
}
_SCALING = {
    "global_images_per_s": "All ranks",
    "scaling_efficiency": "Efficiency",
    "allreduce_share": "Allreduce",
    "rank_skew": "Skew",
    "straggler_share": "Straggler",
    "weights_differ": "Other weights",
}
_TIED = "\N{NO-BREAK SPACE}"  # an interval takes two lines at most
_SPEEDUP = {"speedup_over_fp32": "Speed-up"}
_NOISE = {
    "Steal": "processor time that other guests of the host took",
    "Foreign": "processor time that other processes took",
    "Throttled": "times that a core was slowed for heat",
    "Spread": METRICS["spread"].label,
    "Ceiling drift": "by how much the ceiling differed before and after",
}
_CEILING = {"achieved_flop_per_s": "Achieved", "ceiling_flop_per_s": "Ceiling", "ceiling_share": "Share"}


class Cell(NamedTuple):
    """What a cell says. ``kind`` chooses its looks: ``number``, ``code``, ``bar`` or a ``verdict-...``.

    ``key`` is what a number is sorted by.
    """

    text: str
    kind: str = ""
    small: str = ""
    href: str = ""
    width: str = ""
    rows: int = 1
    key: float | None = None


class Row(NamedTuple):
    """Cells of which the first names the row, and what others published beneath it."""

    cells: tuple[Cell, ...]
    published: tuple[str, ...] = ()


class Table(NamedTuple):
    """``stacked`` tables of words become cards on a narrow screen; the others scroll in their place.

    The heads of ``sortable`` ones sort them. ``note`` says what short heads stand for. ``wide`` says that there are
    more columns than a page has room for in the usual type.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: tuple[bool, ...] = ()
    stacked: bool = False
    sortable: bool = False
    note: str = ""

    @property
    def wide(self) -> bool:
        return len(self.columns) > 7


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Row],
    stacked: bool = False,
    sortable: bool = False,
    note: str = "",
) -> Table:
    """Return a table whose heads stand over numbers where its cells are numbers."""
    listed = tuple(rows)
    full = [row.cells for row in listed if len(row.cells) == len(columns)]
    numbers = tuple(any(cells[i].kind == "number" for cells in full) for i in range(len(columns)))
    return Table(caption, tuple(columns), listed, numbers, stacked, sortable and len(listed) > 1, note)


def verdict_on(record: Record, metrics: Container[str]) -> Verdict:
    """Return the gravest verdict on those of these metrics that are judged, or the doubt that a case leaves on all."""
    found = [judgement.verdict for judgement in record.judgements if judgement.metric in metrics]
    judged: list[Verdict] = [verdict for verdict in found if verdict != "unjudged"]
    if judged:
        return worst(judged)
    return record.verdict if record.verdict in ("unstable", "invalid", "not run") else "unjudged"


def verdict_cell(verdict: Verdict | ChangeVerdict) -> Cell:
    return Cell(verdict, f"verdict-{verdict.replace(' ', '-')}")


def accuracy_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    judged = [entry for entry in chosen if entry.record.verdict != "not run" and _is_of_accuracy(entry.record)]
    return _metric_table("Accuracy, with its 95 % interval", _ACCURACY, judged, several)


def _is_of_accuracy(record: Record) -> bool:
    return record.mode == "accuracy" or (record.mode == "training" and "top1" in record.metrics)


def training_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    trained = [entry for entry in chosen if entry.record.metrics.keys() & _TRAINING.keys()]
    return _metric_table(
        "The loss of training, and how fast and how steadily its steps went", _TRAINING, trained, several
    )


def scaling_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    trained = [entry for entry in chosen if entry.record.metrics.keys() & _SCALING.keys()]
    return _metric_table("Training on several ranks, and what keeps them from more", _SCALING, trained, several)


def speed_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    timed = [entry for entry in chosen if entry.record.metrics.keys() & _SPEED.keys()]
    return _metric_table("Throughput and the time a batch takes", _SPEED, timed, several)


def speedup_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    compared = [entry for entry in chosen if entry.record.metrics.keys() & _SPEEDUP.keys()]
    return _metric_table("Speed-up over fp32, with its interval", _SPEEDUP, compared, several)


def ceiling_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    timed = [entry for entry in chosen if entry.record.metrics.keys() & _CEILING.keys()]
    return _metric_table("Achieved, of what a matrix product reaches on the same cores", _CEILING, timed, several)


def _metric_table(caption: str, named: dict[str, str], chosen: Sequence[Entry], several: bool) -> Table | None:
    """Return a row for each entry; a metric that none of them has gets no column."""
    metrics = [metric for metric in named if any(metric in entry.record.metrics for entry in chosen)]
    caption, ordered = first_of(caption, by_batch(chosen))
    sized = named is not _ACCURACY
    published = _published(ordered, named)
    rows = [
        Row(
            (
                *heading(entry, several),
                *([batch_cell(entry.record)] if sized else []),
                *(_with_interval(entry.record, metric) for metric in metrics),
                verdict_cell(verdict_on(entry.record, named)),
            ),
            published.get(_place(entry), ()),
        )
        for entry in ordered
    ]
    columns = (
        *heads(several),
        *(["Batch"] if sized else []),
        *(named[metric] for metric in metrics),
        "Verdict",
    )
    note = f"{_explained({named[metric]: label(metric) for metric in metrics})} Verdict: on the metrics of this table."
    return table(caption, columns, rows, sortable=True, note=note.strip()) if rows else None


def _explained(heads_of: Mapping[str, str]) -> str:
    """Say what heads stand for that are not what they name."""
    told = [f"{head}: {meant}" for head, meant in heads_of.items() if head.lower() != meant.lower()]
    return f"{'; '.join(told)}." if told else ""


def first_of(caption: str, chosen: Sequence[Entry]) -> tuple[str, Sequence[Entry]]:
    """Return as many entries as a page has room for, and a caption that says so where there are more."""
    if len(chosen) <= ROWS:
        return caption, chosen
    return f"{caption}. The first {ROWS} of {len(chosen):,}; the CSV has all", chosen[:ROWS]


def kernel_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    """Return one row for each kernel; a case spans the rows of its kernels."""
    proven = [entry for entry in by_batch(chosen) if entry.record.kernels]
    caption, first = first_of("Convolution work by the kernels that did it", proven)
    rows = [row for entry in first for row in _kernel_rows(entry, several)]
    columns = (*heads(several), "Claimed", "Kernel", "Data type", "Calls", "Share of the FLOPs")
    return table(caption, columns, rows) if rows else None


def _kernel_rows(entry: Entry, several: bool) -> list[Row]:
    record = entry.record
    named = [cell._replace(rows=len(record.kernels)) for cell in (*heading(entry, several), Cell(record.precision))]
    return [
        Row(
            (
                *(named if place == 0 else ()),
                Cell(kernel.name, "code"),
                Cell(kernel.data_type, "code"),
                Cell(count(kernel.calls), "number"),
                Cell(percent(kernel.flop_share), "bar", width=f"{100 * min(max(kernel.flop_share, 0), 1):.1f}%"),
            )
        )
        for place, kernel in enumerate(record.kernels)
    ]


def noise_table(chosen: Sequence[Entry], several: bool) -> Table | None:
    caption, first = first_of(
        f"How quiet the machine was; {ABSENT} could not be read there",
        [entry for entry in by_batch(chosen) if entry.record.noise],
    )
    rows = [Row((*heading(entry, several), *_noise_cells(noise))) for entry in first if (noise := entry.record.noise)]
    columns = (*heads(several), "Steal", "Foreign", "Throttled", "Spread", "Ceiling drift", "In words")
    return table(caption, columns, rows, sortable=True, note=_explained(_NOISE)) if rows else None


def _noise_cells(noise: Noise) -> tuple[Cell, ...]:
    shares = (noise.steal_share, noise.foreign_share, noise.spread, noise.ceiling_drift)
    steal, foreign, spread, drift = (Cell(ABSENT if s is None else percent(s), "number", key=s) for s in shares)
    throttled = Cell(ABSENT if noise.throttle_events is None else count(noise.throttle_events), "number")
    return steal, foreign, throttled, spread, drift, Cell("; ".join(noise.reasons) or "quiet", "sentence")


def case_cell(entry: Entry) -> Cell:
    return Cell(entry.record.case, "code", small=entry.about, href=entry.anchor and f"#{entry.anchor}")


def batch_cell(record: Record) -> Cell:
    return Cell(str(record.batch_size or ABSENT), "number", key=record.batch_size)


def heading(entry: Entry, several: bool) -> tuple[Cell, ...]:
    return (case_cell(entry), Cell(str(entry.run))) if several else (case_cell(entry),)


def heads(several: bool) -> tuple[str, ...]:
    return ("Case", "Run") if several else ("Case",)


def _with_interval(record: Record, metric: str) -> Cell:
    interval = record.intervals.get(metric)
    ends = [shown(metric, end).replace(" ", _TIED) for end in interval or ()]
    small = f" to{_TIED}".join(ends)
    value = record.metrics.get(metric)
    return Cell(shown(metric, value), "number", small, key=value)


def _published(ordered: Sequence[Entry], named: Container[str]) -> dict[tuple[int, str, str], tuple[str, ...]]:
    """Return by run, case and stack what others published: a figure stands once, below its case's last run."""
    last = {entry.record.case: entry for entry in ordered}
    return {
        _place(entry): tuple(_published_sentence(f) for f in entry.record.published if f.get("metric") in named)
        for entry in last.values()
    }


def _place(entry: Entry) -> tuple[int, str, str]:
    return entry.run, entry.record.case, entry.record.stack


def _published_sentence(figure: dict[str, Any]) -> str:
    metric, value = str(figure.get("metric", "")), figure.get("value")
    number = shown(metric, value) if isinstance(value, (int, float)) else str(value)
    machine, source = figure.get("machine", "not named"), figure.get("source", "source not named")
    return f"Published, on the machine {machine}: {label(metric)} {number} ({source}). Not a gate."


def known(metrics: Iterable[str]) -> list[str]:
    """Return metrics in the registry's order, those that it does not know last."""
    order = list(METRICS)
    return sorted(metrics, key=lambda name: (order.index(name) if name in METRICS else len(order), name))
