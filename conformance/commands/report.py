"""``conformance report``: a page, a table or Markdown of one run or of several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command
from conformance.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.commands.parser import Subparsers
    from conformance.records import Run
    from conformance.reports.history import ShiftPlace, Shifts

DIFFERENCES = 3  # told of a change of level; `conformance history` tells all


def add(subparsers: Subparsers) -> None:
    report = command(subparsers, "report", report_command, "write a page or a table of one run or of several")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="directory of a run, or its run.jsonl")
    report.add_argument("--html", metavar="FILE", type=Path, help="write a page that needs no other file")
    report.add_argument("--csv", metavar="FILE", type=Path, help="write one row for each case and metric")
    report.add_argument("--md", metavar="FILE", type=Path, help="write a short table of verdicts, for a job's summary")


def report_command(args: argparse.Namespace) -> None:
    if not (args.html or args.csv or args.md):
        raise UsageError("A report needs a file to be written to.", "Give --html FILE, --csv FILE or --md FILE.")
    from conformance.records.run_file import read_run
    from conformance.reports import write_report

    runs = [read_run(path) for path in args.runs]
    for path in write_report(runs, args.html, args.csv, args.md, level_shifts(runs) if args.html else {}):
        print(f"Wrote {path}")


def level_shifts(runs: Sequence[Run]) -> Shifts:
    """Return where a case went to another level, in words, and what differs there; nothing for runs too few to tell.

    Raises UsageError for a file of accepted levels that cannot be read.
    """
    from conformance.cases.metrics import METRICS
    from conformance.commands.history import step_words
    from conformance.judging.history import FEWEST_RUNS, histories
    from conformance.records.accepted import accepted_beside

    if len(runs) < FEWEST_RUNS:
        return {}
    said: dict[ShiftPlace, list[str]] = {}
    differ: dict[ShiftPlace, tuple[str, ...]] = {}
    for history in histories(runs, accepted_beside(runs)):
        metric = METRICS[history.key.metric]
        for shift in history.shifts:
            record = shift.first.record
            place = shift.first.run.header.run, record.case, record.stack, record.batch_size
            levels = f"from {metric.show(shift.before)} to {metric.show(shift.after)}"
            if shift.reference != shift.before:
                levels += f", judged by {metric.show(shift.reference)}"
            said.setdefault(place, []).append(f"{metric.label} {levels}: {step_words(shift)}")
            differ[place] = shift.differences
    return {place: f"{'; '.join(told).rstrip('.')}. {_differ(differ[place])}" for place, told in said.items()}


def _differ(differences: Sequence[str]) -> str:
    more = len(differences) - DIFFERENCES
    left = f" and {more} more" if more > 0 else ""
    return f"Differs: {'; '.join(differences[:DIFFERENCES]) or 'nothing that the runs tell'}{left}"
