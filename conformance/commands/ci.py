"""``conformance ci``: ready pipelines of a gate for release branches, and a run's misses as annotations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command, group

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers
    from conformance.records import Run

TEMPLATES = {"github": "ci_github.yml", "gitlab": "ci_gitlab.yml"}
ERRORS = ("outside", "invalid", "regressed")
WARNINGS = ("unstable", "inconclusive", "no baseline")


def add(subparsers: Subparsers) -> None:
    commands = group(subparsers, "ci", "pipelines of a gate for release branches")
    for name, where in (("github", ".github/workflows/conformance.yml"), ("gitlab", ".gitlab-ci.yml")):
        command(commands, name, template_command, f"print the pipeline, ready for {where}").set_defaults(template=name)
    about = "print a run's misses as GitHub shows them beside a change"
    annotate = command(commands, "annotate", annotate_command, about)
    annotate.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="directory of a run")


def template_command(args: argparse.Namespace) -> None:
    sys.stdout.write((Path(__file__).parent / TEMPLATES[args.template]).read_text(encoding="utf-8"))


def annotate_command(args: argparse.Namespace) -> None:
    from conformance.records.run_file import read_run

    for path in args.runs:
        for line in misses(read_run(path)):
            print(line)


def misses(run: Run) -> Iterator[str]:
    """Return a command of GitHub Actions for each case that missed, once for its repeats, and for each comparison."""
    told: set[str] = set()
    for record in run.records:
        line = _annotation(record.verdict, f"{record.suite} {record.case}", record.reason)
        if line and line not in told:
            told.add(line)
            yield line
    for comparison in run.comparisons:
        line = _annotation(comparison.verdict, f"{comparison.suite} {comparison.case}", comparison.reason)
        if line:
            yield line


def _annotation(verdict: str, case: str, reason: str) -> str:
    kind = "error" if verdict in ERRORS else "warning" if verdict in WARNINGS else ""
    title = _escaped(f"{case}: {verdict}").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{_escaped(reason)}" if kind else ""


def _escaped(text: str) -> str:
    """Escape text for a workflow command, which ends with its line.

    >>> _escaped("5 %" + chr(10) + "slower")
    '5 %25%0Aslower'
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
