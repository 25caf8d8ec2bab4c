"""``conformance compare``: runs made at different times, the first of them the base, or the stacks of one run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command, max_slowdown
from conformance.errors import UsageError

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers
    from conformance.records import Comparison, Run

KERNELS = 10  # changed layers that are printed, those with the largest share of a step


def add(subparsers: Subparsers) -> None:
    about = "judge runs made at different times, case by case, beside the first of them"
    compare = command(subparsers, "compare", compare_command, about)
    compare.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="directory of a run; the first is the base, and of one its stacks are compared",
    )
    max_slowdown(compare)
    compare.add_argument(
        "--cross-machine", action="store_true", help="let the machines differ, and compare ratios and accuracies only"
    )
    compare.add_argument("--strict", action="store_true", help="exit 6 where something is inconclusive")
    compare.add_argument("--md", metavar="FILE", type=Path, help="write it as Markdown")
    compare.add_argument("--csv", metavar="FILE", type=Path, help="write one row for each case and metric")


def compare_command(args: argparse.Namespace) -> int:
    from conformance.judging.runs import compare_run, compare_stacks
    from conformance.records.accepted import Baseline
    from conformance.records.run_file import read_run

    base, *others = (read_run(path) for path in args.runs)
    if not others and len(base.header.stacks) < 2:
        told = f"{str(args.runs[0])!r} is one run of one stack."
        raise UsageError(told, "Give the base first, then each run to judge; or a run in which stacks took turns.")
    baseline = Baseline(base)
    judged = [
        (run, compare_run(baseline, run, max_slowdown=args.max_slowdown, cross_machine=args.cross_machine))
        for run in others
    ] or [(base, compare_stacks(base, max_slowdown=args.max_slowdown))]
    for run, comparisons in judged:
        _print(base, run, comparisons)
    _write(args, judged)
    return _status([comparison for _, comparisons in judged for comparison in comparisons], args.strict)


def _status(comparisons: Sequence[Comparison], strict: bool) -> int:
    """Return the exit status, as the gate's; where nothing was decided, nothing was judged."""
    from conformance.records.exit_status import INCONCLUSIVE, JUDGED_INSIDE, MISSED, NOTHING_JUDGED

    verdicts = {comparison.verdict for comparison in comparisons}
    if verdicts & {"regressed", "invalid"}:
        return MISSED
    if strict and "inconclusive" in verdicts:
        return INCONCLUSIVE
    return JUDGED_INSIDE if verdicts & {"same", "improved"} else NOTHING_JUDGED


def _print(base: Run, new: Run, comparisons: Sequence[Comparison]) -> None:
    from conformance.reports.changes import common_differences, counted, gravest_first

    print(f"run   {_run_line(new)}" if base is new else f"base  {_run_line(base)}\nnew   {_run_line(new)}")
    common = common_differences(comparisons)
    for told in common:
        print(f"differs: {told}")
    if comparisons and not any(comparison.differences for comparison in comparisons):
        print("differs: nothing that the runs tell")
    print()
    for comparison in gravest_first(comparisons):
        _print_case(comparison, common)
    missing = {(r.suite, r.case) for r in base.records if r.metrics} - {(r.suite, r.case) for r in new.records}
    for suite, case in sorted(missing):
        print(f"{'not in new':>12}  {suite} {case}")
    told = counted([comparison.verdict for comparison in comparisons]) or "nothing could be compared"
    print(f"\n{told}{f', {len(missing)} only in the base' if missing else ''}.\n")


def _print_case(comparison: Comparison, common: Sequence[str]) -> None:
    from conformance.reports.changes import kernel_words

    stacks = f", {comparison.base} -> {comparison.new}" if comparison.paired else ""
    print(f"{comparison.verdict:>12}  {comparison.suite} {comparison.case}{stacks}")
    for told in comparison.differences:
        if told not in common:
            print(f"{'':14}differs: {told}")
    for change in comparison.changes:
        print(f"{'':14}{change.text}")
    if not comparison.changes:
        print(f"{'':14}{comparison.reason}")
    for kernel in comparison.kernels[:KERNELS]:
        print(f"{'':14}{kernel_words(kernel)}")
    if len(comparison.kernels) > KERNELS:
        print(f"{'':14}{len(comparison.kernels) - KERNELS} layers more have another kernel: see the report")


def _run_line(run: Run) -> str:
    from conformance.records.exit_status import INTERRUPTED

    head = run.header
    status = run.footer.exit_status if run.footer else None
    ended = {None: "; it did not end by itself", INTERRUPTED: "; it was interrupted"}.get(status, "")
    return f"{head.run}, {head.started_at}, profile {head.profile}{ended}"


def _write(args: argparse.Namespace, judged: Sequence[tuple[Run, Sequence[Comparison]]]) -> None:
    from conformance.reports import write_file
    from conformance.reports.changes import change_rows, changes_csv
    from conformance.reports.markdown import compared, escaped

    if args.md:
        parts = [f"### {escaped(run.header.run)}\n\n{compared(comparisons)}" for run, comparisons in judged]
        write_file(args.md, "\n".join(parts))
    if args.csv:
        rows = [row for run, comparisons in judged for row in change_rows(run.header.run, comparisons)]
        write_file(args.csv, changes_csv(rows))
    for path in filter(None, (args.md, args.csv)):
        print(f"Wrote {path}")
