"""New levels that somebody accepted, each with a reason: a TOML file beside the runs, for people and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import msgspec

from conformance.errors import HarnessFault, UsageError, unknown_name
from conformance.records import RUN_FILE, Run
from conformance.records.run_file import name_of, read_run
from conformance.tables import read_table

ACCEPTED_FILE = "accepted.toml"


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From ``run`` on, a case is judged by the level of that run; only in one ``metric`` where one is named.

    ``run`` is the name in the run's header, and ``stack`` whose level it is; entries of older harnesses have none.
    """

    run: str
    case: str
    reason: str
    accepted_at: str
    metric: str | None = None
    stack: str | None = None

    def holds_for(self, case: str, metric: str) -> bool:
        return self.case == case and self.metric in (None, metric)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    accepted: tuple[Accepted, ...] = ()


def read_accepted(directory: Path) -> tuple[Accepted, ...]:
    """Return what was accepted among the runs of a directory, in the order of the file; nothing without a file."""
    file = directory / ACCEPTED_FILE
    return read_table(file, _File).accepted if file.exists() else ()


def accepted_beside(runs: Iterable[Run]) -> list[Accepted]:
    """Return what was accepted in the directories in which these runs lie."""
    places = dict.fromkeys(Path(run.directory).absolute().parent for run in runs)
    return [entry for place in places for entry in read_accepted(place)]


def accept(run: Run, case: str, metric: str | None, reason: str, at: str, stack: str | None = None) -> Path:
    """Mark the level of a case on a stack of a run as accepted, and return the file that says so now.

    Without ``stack`` it is the only one that measured the case beside the base. Raises UsageError for a case, a stack
    or a metric that the run has not measured, several stacks beside the base, or a reason of no words.
    """
    cases = {record.case for record in run.records}
    if case not in cases:
        raise UsageError(unknown_name("case", case, cases), f"Choose a case of {run.header.run}.")
    stack, metrics = _measured(run, case, stack)
    if metric is not None and metric not in metrics:
        raise UsageError(unknown_name("metric", metric, metrics), f"Choose a metric of {case!r} in that run.")
    if not reason.strip() or re.search(r"[\x00-\x1f\x7f]", reason):
        raise UsageError(f"The reason {reason!r} says nothing, or not in one line.", "Say why the new level is right.")
    entry = Accepted(run=run.header.run, case=case, stack=stack, metric=metric, reason=reason.strip(), accepted_at=at)
    place = Path(run.directory).absolute().parent
    read_accepted(place)  # a file that cannot be read is told before it is written to
    return _append(place / ACCEPTED_FILE, entry)


def _measured(run: Run, case: str, stack: str | None) -> tuple[str, set[str]]:
    """Return whose level of a case is meant, and the metrics that were measured of it there."""
    measured: dict[str, set[str]] = {}
    for record in run.records:
        if record.case == case and record.verdict not in ("invalid", "not run"):
            measured.setdefault(record.stack, set()).update(record.metrics)
    if not any(measured.values()):
        raise UsageError(f"Nothing of {case!r} was measured in {run.header.run}.", "Choose a run that measured it.")
    if stack is None:
        base = "base" if "base" in run.header.stacks else next(iter(run.header.stacks), "")
        beside = sorted(measured.keys() - {base}) or [base]
        if len(beside) > 1:
            told = f"{case!r} was measured in {run.header.run} on {len(beside)} stacks: {', '.join(beside)}."
            raise UsageError(told, "Say whose level is right with --stack NAME.")
        stack = beside[0]
    if stack not in measured:
        raise UsageError(unknown_name("stack", stack, measured), f"Choose a stack that measured {case!r} in that run.")
    return stack, measured[stack]


def _append(file: Path, entry: Accepted) -> Path:
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in msgspec.structs.asdict(entry).items()
        if value is not None
    ]
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write("\n".join(["[[accepted]]", *lines]) + "\n\n")
    except OSError as error:
        told = f"Cannot write {str(file)!r}: {error.strerror}."
        raise HarnessFault(told, "Run the command where the runs may be written to.") from None
    return file


class Baseline:
    """An earlier run to judge from, and the runs beside it whose levels were accepted since."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def levels(self) -> tuple[tuple[Accepted, Run], ...]:
        """What was accepted since in newer runs, with these runs, in the order of the file.

        Raises UsageError for a file or a run that cannot be read, or a run that is not there.
        """
        begun = self.run.header.started_at
        since = [entry for entry in read_accepted(self._place) if entry.accepted_at > begun]
        runs: dict[str, Run] = {}
        for entry in since:
            if entry.run not in runs:
                runs[entry.run] = read_run(self._find(entry))
        return tuple((entry, runs[entry.run]) for entry in since if runs[entry.run].header.started_at > begun)

    @property
    def _place(self) -> Path:
        return Path(self.run.directory).absolute().parent

    def _find(self, entry: Accepted) -> Path:
        """Return the directory of an accepted run, which may have been renamed."""
        places = [self._place / entry.run, *sorted(file.parent for file in self._place.glob(f"*/{RUN_FILE}"))]
        found = next((place for place in places if name_of(place) == entry.run), None)
        if found is None:
            raise UsageError(
                f"{str(self._place / ACCEPTED_FILE)!r} accepts {entry.case!r} as in {entry.run!r}, "
                "and that run is not there.",
                "Put that run beside the baseline, or remove its entry from the file.",
            )
        return found
