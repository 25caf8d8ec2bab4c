"""What a case is judged from: an earlier run, or a level that was accepted since, where the two can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from conformance.judging.differences import machine_differences, same_machine
from conformance.records import MEASURED, Record, Run
from conformance.records.accepted import Accepted, Baseline


class Base(NamedTuple):
    """The repeats of a case in a run, from which it is judged; ``level`` where that run's level was accepted."""

    run: Run
    records: tuple[Record, ...]
    level: Accepted | None = None


def bases(
    baseline: Baseline, new: Run, records: Sequence[Record], metrics: Iterable[str], cross_machine: bool
) -> dict[str, Base]:
    """Return what each metric of a case is judged from, the level accepted last or the baseline; under "" without any.

    A level counts where it can be compared with these repeats, and was not measured after them. Between machines it
    stands in for the baseline, whose machine it must be of.
    """
    record = records[0]
    own = Base(baseline.run, same_case(baseline.run, record))
    found = []
    for entry, run in reversed(baseline.levels):
        level = Base(run, _accepted(run, entry, record), entry)
        against = same_machine(run, baseline.run) if cross_machine else True
        earlier = run.header.started_at <= new.header.started_at
        if against and earlier and not not_comparable(level, new, records, cross_machine):
            found.append(level)
    return {
        name: next((one for one in found if one.level and one.level.holds_for(record.case, name)), own)
        for name in metrics or ("",)
    }


def same_case(run: Run, record: Record) -> tuple[Record, ...]:
    """Return the repeats of a record's case: on the stack of that name, or on the base where there is none."""
    stacks = _stacks(run, record)
    stack = record.stack if record.stack in stacks else "base" if "base" in stacks else next(iter(stacks), "")
    return _on(run, record, stack)


def representative(records: Sequence[Record]) -> Record:
    """Return the first repeat that was measured, or the first."""
    return next((record for record in records if record.verdict in MEASURED), records[0])


def not_comparable(base: Base, new: Run, records: Sequence[Record], cross_machine: bool) -> str:
    """Return why a case of a run has nothing to be compared with; empty where it has."""
    case, run = records[0].case, base.run.header.run
    if not base.records:
        return f"{run} holds no record of {case!r}."
    if not any(one.verdict in MEASURED for one in base.records):
        return f"{run} has not measured {case!r}: {base.records[0].reason}"
    if cross_machine:
        return ""
    if not same_machine(base.run, new):
        return other_machine(base.run, new)
    one, other = representative(base.records), representative(records)
    if one.profile != other.profile:
        return f"{run} was driven as profile {one.profile!r} says, and this run as {other.profile!r}."
    if None not in (one.batch_size, other.batch_size) and one.batch_size != other.batch_size:
        return f"{run} measured {case!r} with batch {one.batch_size}, and this run with batch {other.batch_size}."
    return ""


def other_machine(base: Run, new: Run) -> str:
    """Return in a sentence how the machine of a run is another; empty where it is the same."""
    told = f"{base.header.run} was made on another machine: {machine_differences(base, new)}."
    return "" if same_machine(base, new) else told


def _accepted(run: Run, entry: Accepted, record: Record) -> tuple[Record, ...]:
    """Return the repeats whose level was accepted; none where a record's own stack is in that run, and is another."""
    if entry.case != record.case:
        return ()
    if entry.stack is None:  # an entry of an older harness
        return same_case(run, record)
    another = record.stack in _stacks(run, record) and record.stack != entry.stack
    return () if another else _on(run, record, entry.stack)


def _on(run: Run, record: Record, stack: str) -> tuple[Record, ...]:
    wanted = (record.suite, record.case, stack)
    return tuple(one for one in run.records if (one.suite, one.case, one.stack) == wanted)


def _stacks(run: Run, record: Record) -> list[str]:
    """Return the stacks that ran a record's case, in the order of the header: repeats come in the order of turns."""
    ran = {one.stack: None for one in run.records if (one.suite, one.case) == (record.suite, record.case)}
    return [stack for stack in dict.fromkeys([*run.header.stacks, *ran]) if stack in ran]
