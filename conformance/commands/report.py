"""``conformance report``: a page or a table of one run or of several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command
from conformance.errors import UsageError

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers


def add(subparsers: Subparsers) -> None:
    report = command(subparsers, "report", report_command, "write a page or a table of one run or of several")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="directory of a run, or its run.jsonl")
    report.add_argument("--html", metavar="FILE", type=Path, help="write a page that needs no other file")
    report.add_argument("--csv", metavar="FILE", type=Path, help="write one row for each case and metric")


def report_command(args: argparse.Namespace) -> None:
    if args.html is None and args.csv is None:
        raise UsageError("A report needs a file to be written to.", "Give --html FILE, --csv FILE, or both.")
    from conformance.records.run_file import read_run
    from conformance.reports import write_report

    write_report([read_run(path) for path in args.runs], args.html, args.csv)
    for path in filter(None, (args.html, args.csv)):
        print(f"Wrote {path}")
