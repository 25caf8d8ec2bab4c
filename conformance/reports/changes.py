"""Comparisons as one tidy table, a row for each metric, and as words: for the terminal, CSV and Markdown alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from conformance.records import CHANGE_GRAVITY, Change, ChangeVerdict, Comparison, KernelChange
from conformance.reports.entries import ABSENT, shown

# The columns of the CSV file. Values are medians, in the unit that the metric's name ends in; else they are shares.
COLUMNS = (
    "run",  # the run that holds the newer side
    "case",
    "suite",
    "model",
    "mode",
    "precision",
    "dataset",
    "profile",
    "base",  # stack of the base, with its run where that is another one
    "new",
    "paired",  # true where repeats took turns
    "case_verdict",
    "metric",  # empty where nothing could be compared: the text says why
    "base_value",
    "new_value",
    "ratio",  # new / base
    "interval_low",  # of the ratio, 95 %
    "interval_high",
    "p",
    "base_repeats",
    "new_repeats",
    "allowed",  # the greatest change that counts as none, a share
    "detectable",  # the smallest change that so many repeats would show, a share
    "verdict",
    "text",
)

Value = str | float | int | bool | None


def change_rows(run: str, comparisons: Iterable[Comparison]) -> list[dict[str, Value]]:
    """Return a row for each metric that was compared, and one for a comparison without any."""
    return [row for comparison in comparisons for row in _rows(run, comparison)]


def changes_csv(rows: Sequence[dict[str, Value]]) -> str:
    """Return rows as CSV; floats are written so that they are read back exactly, and what is absent is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def ratio_words(change: Change) -> str:
    """Return the ratio of new to base with its interval.

    >>> ratio_words(Change(metric="top1", verdict="same", text="", ratio=1.05, interval=(1.01, 1.0871)))
    '1.050 (1.010 to 1.087)'
    """
    if change.ratio is None:
        return ABSENT
    interval = f" ({change.interval[0]:.3f} to {change.interval[1]:.3f})" if change.interval else ""
    return f"{change.ratio:.3f}{interval}"


def repeats_words(change: Change, paired: bool) -> str:
    """
    >>> repeats_words(Change(metric="top1", verdict="same", text="", base_values=(0.7, 0.7), new_values=(0.7,)), False)
    '2 against 1'
    """
    base, new = len(change.base_values), len(change.new_values)
    return f"{base} {'pair' if base == 1 else 'pairs'}" if paired and base == new else f"{base} against {new}"


def sides(change: Change) -> tuple[str, str]:
    """Return the medians of base and new as their metric is shown."""
    return shown(change.metric, change.base), shown(change.metric, change.new)


def kernel_words(change: KernelChange) -> str:
    """
    >>> kernel_words(KernelChange(layer="convolution", base="brgconv:avx512_core f32", new="", base_share=0.25))
    'convolution: brgconv:avx512_core f32 (25.0 % of a step) -> not run by oneDNN'
    """

    def side(kernel: str, share: float | None) -> str:
        told = kernel or "not run by oneDNN"
        return told if share is None else f"{told} ({100 * share:.1f} % of a step)"

    return f"{change.layer}: {side(change.base, change.base_share)} -> {side(change.new, change.new_share)}"


def gravest_first(comparisons: Iterable[Comparison]) -> list[Comparison]:
    return sorted(comparisons, key=lambda comparison: CHANGE_GRAVITY.index(comparison.verdict))


def counted(verdicts: Sequence[ChangeVerdict]) -> str:
    """
    >>> counted(["same", "same", "regressed"])
    '1 regressed, 2 same'
    """
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in CHANGE_GRAVITY if verdict in verdicts)


def common_differences(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Return what differs in all comparisons alike, to be told once."""
    if not comparisons:
        return ()
    return tuple(told for told in comparisons[0].differences if all(told in one.differences for one in comparisons))


def _rows(run: str, comparison: Comparison) -> list[dict[str, Value]]:
    about: dict[str, Value] = {
        "run": run,
        **{name: getattr(comparison, name) for name in COLUMNS[1:11]},
        "case_verdict": comparison.verdict,
    }
    if not comparison.changes:
        return [{**about, "verdict": comparison.verdict, "text": comparison.reason}]
    return [about | _change_columns(change) for change in comparison.changes]


def _change_columns(change: Change) -> dict[str, Value]:
    low, high = change.interval or (None, None)
    return {
        "metric": change.metric,
        "base_value": change.base,
        "new_value": change.new,
        "ratio": change.ratio,
        "interval_low": low,
        "interval_high": high,
        "p": change.p,
        "base_repeats": len(change.base_values),
        "new_repeats": len(change.new_values),
        "allowed": change.allowed,
        "detectable": change.detectable,
        "verdict": change.verdict,
        "text": change.text,
    }
