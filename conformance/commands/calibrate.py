"""``conformance calibrate``: a stack beside itself, and what a gate could show above the noise of that."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command
from conformance.errors import HarnessFault, UsageError
from conformance.records import RUN_FILE
from conformance.records.exit_status import FAULT, INTERRUPTED, JUDGED_INSIDE

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers
    from conformance.fixtures.floors import Calibrated
    from conformance.hardware.host import Host
    from conformance.records import Run

SHOWN_REPEATS = (3, 5, 10, 20, 30)
LEAST = 3
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add(subparsers: Subparsers) -> None:
    about = "measure how much cases differ from themselves here, and the smallest change that N repeats can show"
    calibrate = command(subparsers, "calibrate", calibrate_command, about)
    calibrate.passes_on = True
    calibrate.epilog = "What stands after -- is passed on to pytest, for example: -- -m int8 --batch-size 1"
    calibrate.add_argument("suites", metavar="SUITE", nargs="*", help="default: suites/inference")
    calibrate.add_argument("--hw", metavar="NAME", default="auto", help="profile of this machine (default: auto)")
    calibrate.add_argument("--stack", metavar="NAME", help="tox environment or path of a Python (default: this)")
    calibrate.add_argument("--repeats", metavar="N", type=int, default=10, help="pairs of each case (default: 10)")
    calibrate.add_argument("--output-dir", metavar="DIR", type=Path, default=Path("runs"), help="default: runs")
    known = calibrate.add_mutually_exclusive_group()
    known.add_argument("--show", action="store_true", help="measure nothing, print what is known of this machine")
    about = "measure nothing, take an earlier run of a stack beside itself on this machine"
    known.add_argument("--from", metavar="RUN", type=Path, dest="from_run", help=about)


def calibrate_command(args: argparse.Namespace) -> int:
    from conformance.fixtures.cache import default_root
    from conformance.fixtures.floors import calibration_file, keep_floors, read_floors
    from conformance.hardware.detect import detect, digest

    if args.repeats < LEAST:
        told = f"--repeats {args.repeats} says nothing of noise; give {LEAST} or more."
        raise UsageError(told, "Ten are the default.")
    asked = [*args.suites, *args.passed_on]
    if asked and (args.show or args.from_run):
        told = f"{'--show' if args.show else '--from'} measures nothing, and {asked[0]!r} is to be measured."
        raise UsageError(told, "Leave one of them out.")
    host = detect()
    file = calibration_file(default_root(), digest(host))
    if args.show:
        known = read_floors(file)
        if not known:
            raise UsageError("Nothing was calibrated on this machine.", "Run `conformance calibrate`.")
        print_floors(known)
        return JUDGED_INSIDE
    run, status = (_earlier(args.from_run, host), JUDGED_INSIDE) if args.from_run else _beside_itself(args)
    ended_early = status in (INTERRUPTED, FAULT)
    fresh = tuple(floors_of(run, digest(host), args.repeats if ended_early else 2)) if run else ()
    if run and fresh:
        keep_floors(file, fresh)
        print_floors(fresh)
        busy = sum(record.verdict == "unstable" for record in run.records)
        if busy:
            count = f"{busy} of {len(run.records)} repeats"
            print(f"The machine was not quiet in {count}: a quieter hour shows a lower floor.")
        print(f"Kept in {file}")
    elif run is None or ended_early:
        print("No case was whole when the session ended: no noise floor was kept.")
    else:
        told = f"No case of {run.header.run} has two pairs that could be measured."
        raise UsageError(told, "See its verdicts, or choose others; a calibration is of a stack beside itself.")
    return status if ended_early else JUDGED_INSIDE


def _earlier(path: Path, host: Host) -> Run:
    from conformance.hardware.detect import identity
    from conformance.records.run_file import read_run

    run = read_run(path)
    if run.header.host != identity(host):
        told = f"{run.header.run} was made on another machine, and noise belongs to a machine."
        raise UsageError(told, "Run the command there, or calibrate here.")
    return run


def _beside_itself(args: argparse.Namespace) -> tuple[Run | None, int]:
    """Run the cases with the same stack twice, in turns, and return the run and how the session ended.

    None stands for a session that ended early, before there was a run.
    """
    from conformance.records.run_file import read_run

    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="calibration-", dir=args.output_dir))
    except OSError as error:
        told = f"Cannot write to {str(args.output_dir)!r}: {error.strerror or error}."
        raise HarnessFault(told, "Give another directory with --output-dir.") from None
    stack = args.stack or sys.executable
    argv = [
        sys.executable, "-m", "pytest", *(args.suites or ["suites/inference"]), *args.passed_on, "--hw", args.hw,
        "--stack", f"base={stack}", "--stack", f"new={stack}", "--repeats", str(args.repeats),
        "--output-dir", str(place),
    ]  # fmt: skip
    status = _session(argv)
    runs = sorted(file.parent for file in place.glob(f"run-*/{RUN_FILE}"))
    if not runs:
        with suppress(OSError):  # it is not empty
            place.rmdir()
        if status not in (INTERRUPTED, FAULT):
            raise UsageError(f"The session ended with status {status} and left no run.", "See what pytest says above.")
    return read_run(runs[0]) if runs else None, status


def _session(argv: Sequence[str]) -> int:
    """Run a session of pytest and return its status; where this process is asked to end, the session does so itself.

    It is out of the reach of ctrl-C and hears of it from here, as a SIGTERM, which it takes once: a second interrupt
    would cut short what it does at its end.
    """
    child = subprocess.Popen(argv, start_new_session=True)
    heard = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: child.send_signal(signal.SIGTERM)) for number in heard}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status == -signal.SIGTERM:  # it had not begun yet
        return INTERRUPTED
    return FAULT if status < 0 else status


def floors_of(run: Run, machine: str, least: int = 2) -> Iterator[Calibrated]:
    """Return the noise floors of every case of a run of two equal stacks that has so many whole pairs or more.

    Raises UsageError for stacks that are not equal.
    """
    from conformance.fixtures.floors import Calibrated
    from conformance.judging.change import gate_metrics, share_of_alpha
    from conformance.judging.floor import floor
    from conformance.judging.runs import gated

    stacks = list(dict.fromkeys(record.stack for record in run.records))
    if len(stacks) < 2:
        return
    base, new, *_ = stacks
    digests = {record.stack_digest for record in run.records if record.stack in (base, new)}
    if len(digests) > 1:
        told = f"{base!r} and {new!r} of {run.header.run} are not the same stack, or it changed while it was measured."
        raise UsageError(told, "Calibrate a stack beside itself, and install nothing meanwhile.")
    for suite, case in dict.fromkeys((record.suite, record.case) for record in run.records):
        of_case = [record for record in run.records if (record.suite, record.case) == (suite, case) and record.metrics]
        by_repeat = {(record.stack, record.repeat): record for record in of_case}
        numbers = [n for stack, n in by_repeat if stack == base and (new, n) in by_repeat]
        sides = [[by_repeat[stack, n] for n in sorted(numbers)] for stack in (base, new)]
        if len(numbers) < least:
            continue
        values = [gated(side) for side in sides]
        both = [name for name in values[0] if name in values[1] and _positive(*values[0][name], *values[1][name])]
        names = gate_metrics(dict.fromkeys(both))
        first = sides[0][0]
        yield Calibrated(
            machine=machine, profile=first.profile, suite=suite, case=case, batch_size=first.batch_size,
            stack=str(run.header.stacks.get(base, {}).get("interpreter", base)), stack_digest=first.stack_digest,
            run=run.header.run, measured_at=run.header.started_at,
            floors=tuple(
                floor(name, values[0][name], values[1][name], share_of_alpha(name, names)) for name in names
            ),
        )  # fmt: skip


def _positive(*values: float) -> bool:
    return all(value > 0 for value in values)  # NaN is not


def print_floors(known: Sequence[Calibrated]) -> None:
    """Print a line for each metric: how far pairs are apart, and the smallest change that numbers of pairs can show."""
    from conformance.cases.metrics import METRICS
    from conformance.judging.change import ALPHA, POWER, WATCHED_ALPHA
    from conformance.judging.floor import REPEATS
    from conformance.reports.entries import label

    heads = " ".join(f"{f'N={repeats}':>7}" for repeats in SHOWN_REPEATS)
    told = f"{100 * POWER:g} % of the time at a p of {ALPHA:g}, or {WATCHED_ALPHA:g} where it is only watched,"
    print(
        f"Smallest change that N pairs show, {told}\n"
        "shared out among the metrics of a case (t test; Cohen 1988), of the noise of each case beside itself:"
    )
    print(f"{'':<44} {'pairs':>5} {'sd':>7} {'95 %':>7} {heads}")
    for entry in known:
        batch = f", batch {entry.batch_size}" if entry.batch_size else ""
        print(f"{entry.suite} {entry.case}{batch}, profile {entry.profile}, {entry.measured_at[:10]}, {entry.stack}")
        for floor in entry.floors:
            shown = " ".join(f"{_percent(floor.detectable[n - REPEATS[0]]):>7}" for n in SHOWN_REPEATS)
            noise = f"{floor.pairs:>5} {_percent(floor.pair_sd):>7} {_percent(floor.ratio_95):>7}"
            only = ", watched" if floor.metric in METRICS and METRICS[floor.metric].gate == "watched" else ""
            print(f"  {label(floor.metric) + only:<42} {noise} {shown}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
