"""``conformance calibrate``: a stack beside itself, and what a gate could show above the noise of that."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.commands.parser import command
from conformance.errors import HarnessFault, UsageError

if TYPE_CHECKING:
    from conformance.commands.parser import Subparsers
    from conformance.fixtures.floors import Calibrated
    from conformance.records import Run

SHOWN_REPEATS = (3, 5, 10, 20, 30)
LEAST = 3


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
    calibrate.add_argument("--show", action="store_true", help="measure nothing, print what is known of this machine")


def calibrate_command(args: argparse.Namespace) -> None:
    from conformance.fixtures.cache import default_root
    from conformance.fixtures.floors import calibration_file, keep_floors, read_floors
    from conformance.hardware.detect import detect, digest

    if args.repeats < LEAST:
        told = f"--repeats {args.repeats} says nothing of noise; give {LEAST} or more."
        raise UsageError(told, "Ten are the default.")
    file = calibration_file(default_root(), digest(detect()))
    if args.show:
        known = read_floors(file)
        if not known:
            raise UsageError("Nothing was calibrated on this machine.", "Run `conformance calibrate`.")
        print_floors(known)
        return
    run = _beside_itself(args)
    fresh = tuple(floors_of(run, digest(detect())))
    if not fresh:
        told = f"No case of {run.header.run} has two pairs that could be measured."
        raise UsageError(told, "See the verdicts above, or choose other cases.")
    keep_floors(file, fresh)
    print_floors(fresh)
    busy = sum(record.verdict == "unstable" for record in run.records)
    if busy:
        print(f"The machine was not quiet in {busy} of {len(run.records)} repeats: a quieter hour shows a lower floor.")
    print(f"Kept in {file}")


def _beside_itself(args: argparse.Namespace) -> Run:
    """Run the cases with the same stack twice, in turns, and return the run."""
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
    status = subprocess.run(argv).returncode
    runs = sorted(place.glob("run-*"))
    if not runs:
        place.rmdir()
        raise UsageError(f"The session ended with status {status} and left no run.", "See what pytest says above.")
    return read_run(runs[0])


def floors_of(run: Run, machine: str) -> Iterator[Calibrated]:
    """Return the noise floors of every case of a run of two equal stacks that has two whole pairs or more."""
    from conformance.fixtures.floors import Calibrated
    from conformance.fixtures.session import now
    from conformance.judging.floor import floor
    from conformance.judging.runs import gated

    base, new = list(dict.fromkeys(record.stack for record in run.records))[:2]
    digests = {record.stack_digest for record in run.records if record.stack in (base, new)}
    if len(digests) > 1:
        told = f"{base!r} and {new!r} of {run.header.run} are not the same stack: it changed while it was measured."
        raise UsageError(told, "Calibrate again, and install nothing meanwhile.")
    for suite, case in dict.fromkeys((record.suite, record.case) for record in run.records):
        of_case = [record for record in run.records if (record.suite, record.case) == (suite, case) and record.metrics]
        by_repeat = {(record.stack, record.repeat): record for record in of_case}
        numbers = [n for stack, n in by_repeat if stack == base and (new, n) in by_repeat]
        sides = [[by_repeat[stack, n] for n in sorted(numbers)] for stack in (base, new)]
        if len(numbers) < 2:
            continue
        values = [gated(side) for side in sides]
        names = [name for name in values[0] if name in values[1] and _positive(*values[0][name], *values[1][name])]
        first = sides[0][0]
        yield Calibrated(
            machine=machine, profile=first.profile, suite=suite, case=case, batch_size=first.batch_size,
            stack=str(run.header.stacks.get(base, {}).get("interpreter", base)), stack_digest=first.stack_digest,
            run=run.header.run, measured_at=now(),
            floors=tuple(floor(name, values[0][name], values[1][name]) for name in names),
        )  # fmt: skip


def _positive(*values: float) -> bool:
    return all(value > 0 for value in values)  # NaN is not


def print_floors(known: Sequence[Calibrated]) -> None:
    """Print a line for each metric: how far pairs are apart, and the smallest change that numbers of pairs can show."""
    from conformance.judging.change import ALPHA, POWER
    from conformance.judging.floor import REPEATS
    from conformance.reports.entries import label

    heads = " ".join(f"{f'N={repeats}':>7}" for repeats in SHOWN_REPEATS)
    print(
        f"Smallest change that N pairs show, {100 * POWER:g} % of the time at a p of {ALPHA:g} (t test; Cohen 1988), "
        "of the noise of each case beside itself:"
    )
    print(f"{'':<44} {'pairs':>5} {'sd':>7} {'95 %':>7} {heads}")
    for entry in known:
        batch = f", batch {entry.batch_size}" if entry.batch_size else ""
        print(f"{entry.suite} {entry.case}{batch}, profile {entry.profile}, {entry.measured_at[:10]}, {entry.stack}")
        for floor in entry.floors:
            shown = " ".join(f"{_percent(floor.detectable[n - REPEATS[0]]):>7}" for n in SHOWN_REPEATS)
            noise = f"{floor.pairs:>5} {_percent(floor.pair_sd):>7} {_percent(floor.ratio_95):>7}"
            print(f"  {label(floor.metric):<42} {noise} {shown}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
