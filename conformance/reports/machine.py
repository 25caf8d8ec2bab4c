"""Where and with what the runs were made, and whether they ended by themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from conformance.records import Run
from conformance.reports.details import size, spans
from conformance.reports.entries import ABSENT, counted_aloud
from conformance.reports.tables import Cell, Row, Table, table

_EXITS = {2: "it was interrupted", 3: "pytest had an internal error", 4: "the harness could not go on"}


class Fact(NamedTuple):
    """A word and what it is here; long values are folded."""

    term: str
    value: str
    long: bool = False


def facts(runs: Sequence[Run]) -> list[Fact]:
    """Return what stands under the title."""
    if len(runs) > 1:
        return [Fact("Runs", str(len(runs))), Fact("Cases", f"{sum(len(run.records) for run in runs):,}")]
    head = runs[0].header
    return [
        Fact("Run", head.run),
        Fact("Started", moment(head.started_at)),
        Fact("Took", _took(runs[0])),
        Fact("Machine", str(head.host.get("model_name", "not recorded"))),
        Fact("Profile", head.profile),
        Fact("Stack", "; ".join(_stack_line(name, stack) for name, stack in head.stacks.items()) or ABSENT),
    ]


def banners(runs: Sequence[Run]) -> list[str]:
    """Return what a reader must know before any number."""
    return [sentence for n, run in enumerate(runs, start=1) for sentence in _warnings(run, f"Run {n}", len(runs) > 1)]


def _warnings(run: Run, name: str, several: bool) -> list[str]:
    this = f"{name} ({run.header.run})" if several else "This run"
    said = []
    if run.footer is None:
        said.append(f"{this} did not end by itself: its footer is missing. Cases it had not finished are not here.")
    elif run.footer.exit_status in _EXITS:
        said.append(f"{this} ended early: {_EXITS[run.footer.exit_status]} (exit status {run.footer.exit_status}).")
    counted = sum(run.footer.counts.values()) if run.footer else len(run.records)
    if counted != len(run.records):
        said.append(f"{this} counted {counted} cases in its footer, and its file holds {len(run.records)}.")
    if run.header.hardware_differences:
        differs = "; ".join(run.header.hardware_differences)
        said.append(f"{this} was made on a machine that is not {run.header.profile!r}: {differs}.")
    return said


def run_table(runs: Sequence[Run]) -> Table:
    rows = [
        Row(
            (
                Cell(str(n), href=f"#run-{n}"),
                Cell(run.header.run, "code", small=moment(run.header.started_at)),
                Cell(run.header.profile, small=str(run.header.host.get("model_name", ""))),
                Cell("; ".join(_stack_line(name, stack) for name, stack in run.header.stacks.items())),
                Cell(counted_aloud(record.verdict for record in run.records), "sentence"),
            )
        )
        for n, run in enumerate(runs, start=1)
    ]
    return table("The runs", ("Run", "Name", "Profile", "Stack", "Verdicts"), rows, stacked=True)


def host_facts(run: Run) -> list[Fact]:
    listed = [_fact(name, value) for name, value in run.header.host.items()]
    return [Fact("profile", run.header.profile), *sorted(listed, key=lambda fact: fact.long)]


def stack_table(runs: Sequence[Run]) -> Table | None:
    """Return the stacks side by side, a row for each thing that one of them says of itself."""
    stacks = {(n, name): stack for n, run in enumerate(runs, start=1) for name, stack in run.header.stacks.items()}
    names = dict.fromkeys(key for stack in stacks.values() for key in stack)
    rows = [
        Row((Cell(_spoken(name)), *(Cell(_value(name, stack.get(name)), "code") for stack in stacks.values())))
        for name in names
    ]
    heads = [f"{name}, run {n}" if len(runs) > 1 else name for n, name in stacks]
    return table("What each stack says of itself", ("", *heads), rows) if rows else None


def environment_table(runs: Sequence[Run]) -> Table | None:
    names = sorted({name for run in runs for name in run.header.environment})
    rows = [
        Row((Cell(name, "code"), *(Cell(run.header.environment.get(name, "not set"), "code") for run in runs)))
        for name in names
    ]
    heads = [f"Run {n}" for n in range(1, len(runs) + 1)] if len(runs) > 1 else ["Value"]
    return table("Variables of the session that change results", ("Variable", *heads), rows) if rows else None


def origin(run: Run) -> list[Fact]:
    ended = moment(run.footer.ended_at) if run.footer else "not by itself"
    status = str(run.footer.exit_status) if run.footer else ABSENT
    return [
        Fact("Directory", run.directory),
        Fact("Harness", run.header.harness),
        Fact("Started", moment(run.header.started_at)),
        Fact("Ended", ended),
        Fact("Exit status", status),
    ]


def command(run: Run) -> str:
    return shlex.join(run.header.command)


def moment(text: str) -> str:
    """Show an ISO time as people read it; what is none stays as it is.

    >>> moment("2026-11-21T12:03:01+00:00")
    '21 Nov 2026, 12:03:01 UTC'
    """
    try:
        return f"{_time(text):%d %b %Y, %H:%M:%S %Z}".strip()
    except ValueError:
        return text


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 reads no Z


def _took(run: Run) -> str:
    if run.footer is None:
        return "did not end by itself"
    try:
        took = _time(run.footer.ended_at) - _time(run.header.started_at)
    except (ValueError, TypeError):
        return ABSENT
    return str(timedelta(seconds=round(took.total_seconds())))


def _stack_line(name: str, stack: dict[str, Any]) -> str:
    version = stack.get("tensorflow")
    return f"{name} (TensorFlow {version})" if version else name


def _fact(name: str, value: Any) -> Fact:
    text = _value(name, value)
    return Fact(_spoken(name), text, len(text) > 120)


def _spoken(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _value(name: str, value: Any) -> str:
    if value is None or value == []:
        return "none" if value == [] else "not known"
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return spans(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return f"{len(value)} described in the run file"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
