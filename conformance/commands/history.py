"""``conformance history`` and ``conformance accept``: a case over many runs, and the levels that somebody agreed to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command, max_slowdown
from conformance.errors import UsageError

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers
    from conformance.judging.history import History, Key, Shift


def add(subparsers: Subparsers) -> None:
    about = "find in many runs since when a case is slower, faster, better or worse"
    history = command(subparsers, "history", history_command, about)
    places = "runs, or directories of runs"
    history.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=places)
    history.add_argument("--case", metavar="ID", help="of this case only")
    max_slowdown(history)

    about = "accept the level of a case in a run, with a reason: it is judged from there on"
    accepting = command(subparsers, "accept", accept_command, about)
    accepting.add_argument("level", metavar="RUN", type=Path, help="directory of the run")
    accepting.add_argument("--case", metavar="ID", required=True, help="the case")
    accepting.add_argument("--stack", metavar="NAME", help="of this stack (default: the one beside the base)")
    accepting.add_argument("--metric", metavar="NAME", help="this metric only (default: all of the case)")
    accepting.add_argument("--reason", metavar="TEXT", required=True, help="why the new level is right, in one line")


def accept_command(args: argparse.Namespace) -> None:
    from conformance.fixtures.session import now
    from conformance.records.accepted import accept
    from conformance.records.run_file import read_run

    file = accept(read_run(args.level), args.case, args.metric, args.reason, now(), args.stack)
    print(f"Wrote {file}")


def history_command(args: argparse.Namespace) -> int:
    """Print each history in which something changed; exit 1 where a regression stands."""
    from conformance.errors import unknown_name
    from conformance.judging.history import FEWEST_RUNS, histories
    from conformance.records.accepted import accepted_beside
    from conformance.records.exit_status import JUDGED_INSIDE, MISSED
    from conformance.records.run_file import read_run

    runs = []
    for path, given in found_runs(args.runs).items():
        try:
            runs.append(read_run(path))
        except UsageError as error:
            if given:
                raise
            print(f"left out: {error.message}")
    if not runs:
        raise UsageError("There is no run with a record.", "Give runs that judged something.")
    found = histories(runs, accepted_beside(runs), args.max_slowdown)
    if args.case is not None:
        known = {history.key.case for history in found}
        if args.case not in known:
            raise UsageError(unknown_name("case", args.case, known), "Choose a case that these runs measured.")
        found = tuple(history for history in found if history.key.case == args.case)
    for machine in dict.fromkeys(history.key.machine for history in found):
        _print_machine(machine, [history for history in found if history.key.machine == machine])
    short = sum(len(history.points) < FEWEST_RUNS for history in found)
    changed = [shift for history in found for shift in history.shifts]
    standing = [shift for shift in changed if shift.stands]
    small = sum(shift.step == "within the limit" for shift in changed)
    within = f" ({small} within the limit)" if small else ""
    print(
        f"{len(runs)} runs, {len(found)} histories: {len(changed)} changes{within}, {len(standing)} regressions stand"
        + (f"; {short} have fewer than {FEWEST_RUNS} runs, too few to tell." if short else ".")
    )
    if standing:
        print("Accept a level with `conformance accept RUN --case ID --reason TEXT`.")
    return MISSED if standing else JUDGED_INSIDE


def found_runs(paths: Sequence[Path]) -> dict[Path, bool]:
    """Return the runs that were given (True), and those that lie in a directory that was given (False); none twice."""
    from conformance.records import RUN_FILE

    found: dict[Path, bool] = {}
    for path in paths:
        inside = sorted(file.parent for file in path.glob(f"*/{RUN_FILE}")) if path.is_dir() else []
        here = (path.is_file() and path.name == RUN_FILE) or (path / RUN_FILE).exists()
        if not here and not inside:
            raise UsageError(f"{str(path)!r} is no run and holds none.", "Give runs, or the directory that holds them.")
        for run in [path] if here else inside:
            directory = (run.parent if run.is_file() else run).resolve()
            found[directory] = here or found.get(directory, False)
    return found


def _print_machine(machine: str, found: Sequence[History]) -> None:
    from conformance.judging.history import FEWEST_RUNS

    print(f"machine {machine}")
    for history in found:
        if history.shifts:
            _print_history(history)
    steady = sum(not history.shifts for history in found if len(history.points) >= FEWEST_RUNS)
    if steady:
        print(f"  {steady} {'history has' if steady == 1 else 'histories have'} no change")
    print()


def _print_history(history: History) -> None:
    from conformance.reports.entries import label, shown

    key, points = history.key, history.points
    print(f"  {_name(key)}: {label(key.metric)}, {len(points)} runs from {points[0].run.header.started_at[:10]}")
    before = history.levels[0]
    print(f"    {shown(key.metric, before.value)} in {before.end} runs from {points[0].run.header.run}")
    for level, shift in zip(history.levels[1:], history.shifts, strict=True):
        first = shift.first.run.header
        runs = level.end - level.first
        change = _percent(shift.after, shift.before)
        if shift.reference != shift.before:
            change += f", {_percent(shift.after, shift.reference)} from {shown(key.metric, shift.reference)}"
        print(
            f"    {shown(key.metric, level.value)} in {runs} runs from {first.run} of {first.started_at[:10]}: "
            f"{step_words(shift)}, {change}"
        )
        for told in shift.differences or ("nothing that the runs tell",):
            print(f"      differs: {told}")


def step_words(shift: Shift) -> str:
    """Return what a change of level is, and whether it was accepted or is over."""
    if shift.accepted:
        return f"{shift.step}, accepted: {shift.accepted}"
    return f"{shift.step}, reached again since" if shift.step == "regressed" and not shift.stands else shift.step


def _percent(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


def _name(key: Key) -> str:
    stack = f" on {key.stack}" if key.stack else ""
    batch = f", batch {key.batch_size}" if key.batch_size else ""
    return f"{key.suite} {key.case}{stack}{batch}, profile {key.profile}"
