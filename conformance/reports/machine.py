"""Where and with what the runs were made, and whether they ended by themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from conformance.records import Run
from conformance.records.exit_status import FAULT, INTERRUPTED, MEANINGS, USAGE
from conformance.reports.details import size, spans
from conformance.reports.entries import ABSENT, Entry, counted_aloud, moment, package_version, time_of
from conformance.reports.tables import Cell, Row, Table, table
from conformance.stacks.compatibility import TENSORFLOWS

# By what people know a stack, and the keys that may hold its version, the first that is there.
_KNOWN = {
    "TensorFlow": TENSORFLOWS,
    "ITEX": ("intel-extension-for-tensorflow",),
    "SynapseAI": ("synapse", "habana-tensorflow"),
}
_EARLY = (INTERRUPTED, FAULT, USAGE)
_NAMED = 4  # machines or stacks at the top of a page of several runs


class Fact(NamedTuple):
    """A word and what it is here; long values are folded."""

    term: str
    value: str
    long: bool = False


def facts(runs: Sequence[Run]) -> list[Fact]:
    """Return what stands under the title."""
    if len(runs) > 1:
        return _facts_of_several(runs)
    head = runs[0].header
    return [
        Fact("Run", head.run),
        Fact("Started", moment(head.started_at)),
        Fact("Took", _took(runs[0])),
        Fact("Machine", machine_name(runs[0])),
        Fact("Profile", head.profile),
        Fact("Stack", "; ".join(_stack_line(name, stack) for name, stack in head.stacks.items()) or ABSENT),
        Fact("Exit status", _ended_with(runs[0])),
    ]


def _facts_of_several(runs: Sequence[Run]) -> list[Fact]:
    started = sorted((run.header.started_at for run in runs), key=_seconds)
    machines = dict.fromkeys(machine_name(run) for run in runs)
    stacks = dict.fromkeys(_stack_line(name, stack) for run in runs for name, stack in run.header.stacks.items())
    return [
        Fact("Runs", str(len(runs))),
        Fact("First started", moment(started[0])),
        Fact("Last started", moment(started[-1])),
        Fact("Machine" if len(machines) == 1 else f"{len(machines)} machines", _first_of(list(machines))),
        Fact("Stack" if len(stacks) == 1 else f"{len(stacks)} stacks", _first_of(list(stacks)) or ABSENT),
        Fact("Profile", _first_of(list(dict.fromkeys(run.header.profile for run in runs)))),
    ]


def _seconds(text: str) -> float:
    time = time_of(text)
    return time.timestamp() if time else 0.0


def _first_of(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _NAMED} more"] * (len(names) > _NAMED)
    return "; ".join([*names[:_NAMED], *more])


def _ended_with(run: Run) -> str:
    if run.footer is None:
        return ABSENT
    meaning = MEANINGS.get(run.footer.exit_status)
    return f"{run.footer.exit_status}: {meaning}" if meaning else str(run.footer.exit_status)


def banners(runs: Sequence[Run]) -> list[str]:
    """Return what a reader must know before any number."""
    return [sentence for n, run in enumerate(runs, start=1) for sentence in _warnings(run, f"Run {n}", len(runs) > 1)]


def _warnings(run: Run, name: str, several: bool) -> list[str]:
    this = f"{name} ({run.header.run})" if several else "This run"
    said = []
    if run.footer is None:
        said.append(f"{this} did not end by itself: its footer is missing. Cases it had not finished are not here.")
    elif run.footer.exit_status in _EARLY:
        said.append(f"{this} ended early: {MEANINGS[run.footer.exit_status]} (exit status {run.footer.exit_status}).")
    counted = sum(run.footer.counts.values()) if run.footer else len(run.records)
    if counted != len(run.records):
        said.append(f"{this} counted {counted} records in its footer, and its file holds {len(run.records)}.")
    if run.header.hardware_differences:
        differs = "; ".join(run.header.hardware_differences)
        said.append(f"{this} was made on a machine that is not {run.header.profile!r}: {differs}.")
    return said


def run_table(runs: Sequence[Run], listed: Sequence[Entry]) -> Table:
    """Return a row for each run, which counts cases as the top of the page does: the repeats of one are one."""
    rows = [
        Row(
            (
                Cell(str(n), href=f"#run-{n}"),
                Cell(run.header.run, "code", small=moment(run.header.started_at)),
                Cell(run.header.profile, small=str(run.header.host.get("model_name", ""))),
                Cell("; ".join(_stack_line(name, stack) for name, stack in run.header.stacks.items())),
                Cell(
                    counted_aloud(entry.record.verdict for entry in listed if entry.run == n),
                    "sentence",
                    small=f"exit status {run.footer.exit_status}" if run.footer else "did not end by itself",
                ),
            )
        )
        for n, run in enumerate(runs, start=1)
    ]
    return table("The runs", ("Run", "Name", "Profile", "Stack", "Cases"), rows, stacked=True)


def hosts(runs: Sequence[Run]) -> list[tuple[str, list[Fact]]]:
    """Return each machine once, named by the runs on it."""
    columns = _alike([(run.header.profile, run.header.host) for run in runs], range(1, len(runs) + 1))
    return [
        (f"{_runs(of).capitalize()}" if len(runs) > 1 else runs[0].header.run, _host_facts(profile, host))
        for (profile, host), of in columns
    ]


def _host_facts(profile: str, host: dict[str, Any]) -> list[Fact]:
    listed = [_fact(name, value) for name, value in host.items()]
    return [Fact("profile", profile), *sorted(listed, key=lambda fact: fact.long)]


def stack_table(runs: Sequence[Run]) -> Table | None:
    """Return the stacks side by side, a row for each thing that one of them says of itself."""
    stacks = [(name, stack) for run in runs for name, stack in run.header.stacks.items()]
    numbers = [n for n, run in enumerate(runs, start=1) for _ in run.header.stacks]
    columns = _alike(stacks, numbers)
    names = dict.fromkeys(key for (_, stack), _ in columns for key in _flat(stack))
    rows = [Row((Cell(_spoken(name)), *(_said(name, stack) for (_, stack), _ in columns))) for name in names]
    heads = [f"{name}, {_runs(of)}" if len(runs) > 1 else name for (name, _), of in columns]
    return table("What each stack says of itself", ("What", *heads), rows) if rows else None


def _alike(things: Sequence[Any], numbers: Sequence[int]) -> list[tuple[Any, list[int]]]:
    """Return each thing once, with the numbers of the runs that have it."""
    found: dict[str, tuple[Any, list[int]]] = {}
    for thing, number in zip(things, numbers, strict=True):
        found.setdefault(json.dumps(thing, sort_keys=True), (thing, []))[1].append(number)
    return list(found.values())


def _runs(numbers: Sequence[int]) -> str:
    return f"run{'s' if len(numbers) > 1 else ''} {spans(numbers)}"


def _said(name: str, stack: dict[str, Any]) -> Cell:
    """Return what a stack says of one thing; beneath a package the digest of its files."""
    digest = str((stack.get("hashes") or {}).get(name, ""))
    return Cell(_value(name, _flat(stack).get(name)), "code", digest and f"SHA-256 {digest[:16]}")


def environment_table(runs: Sequence[Run]) -> Table | None:
    columns = _alike([run.header.environment for run in runs], range(1, len(runs) + 1))
    names = sorted({name for environment, _ in columns for name in environment})
    rows = [
        Row((Cell(name, "code"), *(Cell(environment.get(name, "not set"), "code") for environment, _ in columns)))
        for name in names
    ]
    heads = [_runs(of).capitalize() for _, of in columns] if len(runs) > 1 else ["Value"]
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


def machine_name(run: Run) -> str:
    """Return the processor's name, and the accelerators where there are any."""
    host = run.header.host
    named = (host.get("model_name", "not recorded"), host.get("accelerators"))
    return ", ".join(str(name) for name in named if name)


def versions_of(stack: dict[str, Any]) -> str:
    """Return the versions by which people know a stack, or nothing where it tells none.

    >>> versions_of({"packages": {"tensorflow": "2.9.1", "habana-tensorflow": "1.6.1.92"}})
    'TensorFlow 2.9.1, SynapseAI 1.6.1.92'
    """
    told = {name: package_version(stack, *keys) for name, keys in _KNOWN.items()}
    return ", ".join(f"{name} {version}" for name, version in told.items() if version)


def _flat(stack: dict[str, Any]) -> dict[str, Any]:
    """Return what a stack says of itself, its packages among the rest."""
    packages = stack.get("packages")
    if not isinstance(packages, dict):
        return stack
    return {**{name: value for name, value in stack.items() if name not in ("packages", "hashes")}, **packages}


def _took(run: Run) -> str:
    if run.footer is None:
        return "did not end by itself"
    started, ended = time_of(run.header.started_at), time_of(run.footer.ended_at)
    return str(timedelta(seconds=round((ended - started).total_seconds()))) if started and ended else ABSENT


def _stack_line(name: str, stack: dict[str, Any]) -> str:
    versions = versions_of(stack)
    return f"{name} ({versions})" if versions else name


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
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return "; ".join(f"{key} {item}" for key, item in value.items() if item)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
