"""New levels that somebody accepted, each with a reason: a TOML file beside the runs, for people and for programs."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path

import msgspec

from conformance.errors import HarnessFault, UsageError, unknown_name
from conformance.records import Run
from conformance.records.run_file import read_run
from conformance.tables import read_table

ACCEPTED_FILE = "accepted.toml"


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From ``run`` on, a case is judged by the level of that run; only in one ``metric`` where one is named."""

    run: str
    case: str
    reason: str
    accepted_at: str
    metric: str | None = None

    def holds_for(self, case: str, metric: str) -> bool:
        return self.case == case and self.metric in (None, metric)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    accepted: tuple[Accepted, ...] = ()


def read_accepted(directory: Path) -> tuple[Accepted, ...]:
    """Return what was accepted among the runs of a directory, in the order of the file; nothing without a file."""
    file = directory / ACCEPTED_FILE
    return read_table(file, _File).accepted if file.exists() else ()


def accept(run: Run, case: str, metric: str | None, reason: str, at: str) -> Path:
    """Mark the level of a case in a run as accepted, and return the file that says so now.

    Raises UsageError for a case or a metric that the run has not measured, or a reason of no words.
    """
    measured: dict[str, set[str]] = {}
    for record in run.records:
        measured.setdefault(record.case, set()).update(record.metrics)
    if case not in measured:
        raise UsageError(unknown_name("case", case, measured), f"Choose a case of {run.header.run}.")
    if not measured[case]:
        raise UsageError(f"Nothing of {case!r} was measured in {run.header.run}.", "Choose a run that measured it.")
    if metric is not None and metric not in measured[case]:
        raise UsageError(unknown_name("metric", metric, measured[case]), f"Choose a metric of {case!r} in that run.")
    if not reason.strip() or re.search(r"[\x00-\x1f\x7f]", reason):
        raise UsageError(f"The reason {reason!r} says nothing, or not in one line.", "Say why the new level is right.")
    entry = Accepted(run=run.header.run, case=case, metric=metric, reason=reason.strip(), accepted_at=at)
    place = Path(run.directory).absolute().parent
    read_accepted(place)  # a file that cannot be read is told before it is written to
    return _append(place / ACCEPTED_FILE, entry)


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
        self._read: dict[str, Run] = {run.header.run: run}

    @cached_property
    def accepted(self) -> tuple[Accepted, ...]:
        return read_accepted(self._place)

    @property
    def _place(self) -> Path:
        return Path(self.run.directory).absolute().parent

    def level(self, case: str, metric: str) -> Accepted | None:
        """Return what was accepted last of a metric in a run that is newer than this one."""
        begun = self.run.header.started_at
        held = [entry for entry in self.accepted if entry.holds_for(case, metric) and entry.accepted_at > begun]
        newer = [entry for entry in held if self._run(entry).header.started_at > begun]
        return newer[-1] if newer else None

    def run_for(self, case: str, metric: str) -> Run:
        """Return the run from which a metric of a case is judged: this one, or that of the level accepted last."""
        entry = self.level(case, metric)
        return self._run(entry) if entry else self.run

    def _run(self, entry: Accepted) -> Run:
        if entry.run not in self._read:
            path = self._place / entry.run
            if not path.is_dir():
                raise UsageError(
                    f"{str(self._place / ACCEPTED_FILE)!r} accepts {entry.case!r} as in {entry.run!r}, "
                    "and that run is not there.",
                    "Put that run beside the baseline, or remove its entry from the file.",
                )
            self._read[entry.run] = read_run(path)
        return self._read[entry.run]
