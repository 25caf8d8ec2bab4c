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
    for path in write_report(runs, args.html, args.csv, args.md, _shifts(runs) if args.html else {}):
        print(f"Wrote {path}")


def _shifts(runs: Sequence[Run]) -> dict[tuple[str, str, str], str]:
    """Return where a case went to another level, in words; nothing for runs too few to tell."""
    from conformance.cases.metrics import METRICS
    from conformance.judging.history import FEWEST_RUNS, histories

    if len(runs) < FEWEST_RUNS:
        return {}
    found: dict[tuple[str, str, str], list[str]] = {}
    for history in histories(runs):
        metric = METRICS[history.key.metric]
        for shift in history.shifts:
            place = shift.first.run.header.run, shift.first.record.case, shift.first.record.stack
            said = f"{metric.label} {shift.step}, from {metric.show(shift.before)} to {metric.show(shift.after)}"
            found.setdefault(place, []).append(said)
    return {place: "; ".join(told) for place, told in found.items()}
