"""Runs and comparisons as short Markdown, for the summary of a job or a merge request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import median

from conformance.cases.metrics import METRICS
from conformance.records import GRAVITY, Comparison, Record, Run, Verdict, worst
from conformance.reports.changes import (
    common_differences,
    counted,
    gravest_first,
    kernel_words,
    ratio_words,
    repeats_words,
    sides,
)
from conformance.reports.entries import ABSENT, counted_aloud, label, shown

ROWS = 300  # the gravest: the summary of a GitHub step holds 1 MiB
NUMBERS = 3  # shown of a case
# Told of a case that no band judges, by what comes first in it.
TOLD = ("top1", "throughput_images_per_s", "latency_p50_s", "training_images_per_s", "global_images_per_s",
        "scaling_efficiency", "speedup_over_fp32", "ceiling_share", "final_loss")  # fmt: skip


def escaped(text: str) -> str:
    r"""Return text that Markdown shows as it is, on one line and inside of a table.

    >>> escaped("<script> a|b `c` x_1")
    '&lt;script&gt; a\\|b \\`c\\` x\\_1'
    """
    line = " ".join(text.split())
    plain = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!$@])", r"\\\1", plain)


def markdown(runs: Sequence[Run]) -> str:
    """Return each run in a table of its verdicts, the gravest first, and its comparisons before."""
    return "\n".join(_run(run) for run in runs)


def compared(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons in a table, the gravest first, and before it what differs; nothing for none."""
    if not comparisons:
        return ""
    common = common_differences(comparisons)
    rows = [row for comparison in gravest_first(comparisons) for row in _changes(comparison, common)]
    return "\n".join(
        [
            f"**{counted([comparison.verdict for comparison in comparisons])}**",
            "",
            *(f"- {escaped(told)}" for told in common),
            *([""] if common else []),
            *_table(("Verdict", "Case", "Metric", "Base", "New", "New / base (95 %)", "Repeats", "Why"), rows),
            *_kernels(comparisons),
        ]
    )


def _run(run: Run) -> str:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in run.records:
        groups.setdefault((record.suite, record.case, record.stack), []).append(record)
    verdicts = [worst([record.verdict for record in group]) for group in groups.values()]
    listed = sorted(zip(verdicts, groups.values(), strict=True), key=lambda each: GRAVITY.index(each[0]))
    several = len({record.stack for record in run.records}) > 1
    heads = ("Verdict", "Case", *(("Stack",) if several else ()), "Numbers", "Why")
    rows = [_case_row(verdict, group, several) for verdict, group in listed]
    ended = f"exit status {run.footer.exit_status}" if run.footer else "it did not end by itself"
    return "\n".join(
        [
            f"### {escaped(run.header.run)}",
            "",
            f"{counted_aloud(verdicts)}; {ended}. Profile {escaped(run.header.profile)}, "
            f"{escaped(str(run.header.host.get('model_name', 'unknown machine')))}.",
            "",
            *([compared(run.comparisons)] if run.comparisons else []),
            *_table(heads, rows),
        ]
    )


def _case_row(verdict: Verdict, records: Sequence[Record], several: bool) -> tuple[str, ...]:
    first = records[0]
    repeats = f" × {len(records)}" if len(records) > 1 else ""
    why = next((record.reason for record in records if record.verdict == verdict), "") if verdict != "inside" else ""
    stack = (escaped(first.stack),) if several else ()
    return (verdict, escaped(first.case) + repeats, *stack, escaped(_numbers(records)), escaped(why))


def _numbers(records: Sequence[Record]) -> str:
    """Return the judged numbers of a case, then what is told of any; medians where it was repeated."""
    judged = [judgement.metric for judgement in records[0].judgements]
    told = [name for name in dict.fromkeys([*judged, *TOLD]) if any(name in record.metrics for record in records)]
    medians = {name: median([r.metrics[name] for r in records if name in r.metrics]) for name in told[:NUMBERS]}
    return ", ".join(f"{label(name)} {shown(name, value)}" for name, value in medians.items()) or ABSENT


def _changes(comparison: Comparison, common: Sequence[str]) -> Iterable[tuple[str, ...]]:
    case = f"{escaped(comparison.case)}<br>{escaped(comparison.base)} → {escaped(comparison.new)}"
    own = [escaped(told) for told in comparison.differences if told not in common]
    if not comparison.changes:
        yield comparison.verdict, case, *(ABSENT,) * 5, "<br>".join([escaped(comparison.reason), *own])
        return
    for change in comparison.changes:
        known = METRICS[change.metric].label if change.metric in METRICS else change.metric
        watched = change.metric in METRICS and METRICS[change.metric].gate == "watched"
        told = change.verdict == "invalid" or (change.verdict == "inconclusive" and not watched)
        why = [escaped(change.text)] if told else []
        yield (
            change.verdict, case, escaped(known), *map(escaped, sides(change)), ratio_words(change),
            repeats_words(change, comparison.paired), "<br>".join([*why, *own]),
        )  # fmt: skip
        case, own = "", []


def _kernels(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the changed layers with the largest shares, of those cases that regressed."""
    regressed = [one for one in comparisons if one.verdict == "regressed" and one.kernels]
    told = [
        f"- {escaped(one.case)}: {escaped(kernel_words(kernel))}" for one in regressed for kernel in one.kernels[:3]
    ]
    return ["Layers with another kernel:", "", *told, ""] if told else []


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    left = len(rows) - ROWS
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows[:ROWS]),
        *(["", f"{left:,} rows more are in the run file."] if left > 0 else []),
        "",
    ]
