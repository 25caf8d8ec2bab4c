"""A case in one run beside the same case in an earlier run, made at another time: unpaired, and with the ceilings.

Runs of different days meet different machines: a neighbour, a warmer room, another clock. A speed is therefore judged
as it was measured, and beside the ceiling that its own process measured. Where the ceilings of both runs are not shown
to differ, the measured speed decides. Where they are, the share of the ceiling must say the same: a machine that was
slower looks like a regression, which the share does not show; and a matrix product of the stack that is slower lowers
the ceiling too, and hides in the share. What the two disagree in is ``inconclusive``, and the stacks side by side can
tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from conformance.cases.metrics import METRICS
from conformance.errors import UsageError
from conformance.judging.answers import judge_answers, read_answers
from conformance.judging.attribution import changed_between
from conformance.judging.change import ALPHA, judge_change, judge_changes, verdict_of
from conformance.judging.differences import differences, machine_differences, same_machine
from conformance.records import Change, ChangeVerdict, Comparison, Record, Run
from conformance.records.accepted import Baseline

CEILING, SHARE, SPEED = "ceiling_flop_per_s", "ceiling_share", "throughput_images_per_s"
CHANGED: tuple[ChangeVerdict, ...] = ("regressed", "improved")
BITS = "correct_bits"
SIDE_BY_SIDE = "Run both stacks side by side: --stack base=NAME --stack new=NAME."
MEASURED = ("inside", "outside", "unjudged", "unstable")
# What is comparable between machines: ratios of two measurements of the same machine, and accuracies.
BETWEEN_MACHINES = ("top1", "top5", "ceiling_share", "speedup_over_fp32", "scaling_efficiency")

Values = dict[str, tuple[float, ...]]


def compare_case(
    baseline: Baseline, new: Run, records: Sequence[Record], *, max_slowdown: float, cross_machine: bool = False,
    alpha: float = ALPHA,
) -> Comparison:  # fmt: skip
    """Judge all repeats of one case on one stack beside those of an earlier run, or of the level accepted since.

    ``no baseline`` where that run has not measured the case, or has on another machine, profile or batch: other
    machines are compared by ratios only, with ``cross_machine``. Lower accuracies and missing metrics are no accident
    of a machine: they are judged as they are. ``alpha`` is the error of this look, where there are several.
    """
    record = _representative(records)
    metrics = [name for name, values in gated(records).items() if not cross_machine or name in BETWEEN_MACHINES]
    bases = {name: baseline.run_for(record.case, name) for name in metrics} or {"": baseline.run}
    main = next(iter(bases.values()))
    base_records = same_case(main, record)
    about = f"{base_records[0].stack if base_records else 'none'} of {main.header.run}"
    why_not = _no_baseline(main, base_records, new, records, cross_machine)
    if why_not:
        known = differences(main, _representative(base_records), new, record) if base_records else ()
        return _comparison(record, new, about, "no baseline", why_not, (), known)
    changes: list[Change] = []
    for run in {id(run): run for run in bases.values()}.values():
        judged = _judged(same_case(run, record), records, max_slowdown, cross_machine, alpha)
        answers = _answers(run, same_case(run, record), new, records)
        changes += [
            answers if answers and change.metric == answers.metric else change
            for change in judged
            if bases.get(change.metric, main) is run
        ]
    verdict, reason = verdict_of(changes)
    if not any(one.metrics for one in records):
        reason = f"It was not measured: {record.reason} {reason}"
    base = _representative(base_records)
    told = [*_accepted(baseline, record, metrics), *differences(main, base, new, record), *_noise(base, record)]
    compared = _comparison(record, new, about, verdict, reason, tuple(changes), tuple(told))
    kernels = changed_between(base, Path(main.directory), record, Path(new.directory))
    return msgspec.structs.replace(compared, kernels=kernels)


def compare_run(
    baseline: Baseline, new: Run, *, max_slowdown: float, cross_machine: bool = False
) -> tuple[Comparison, ...]:
    """Compare every case of a run that one of the two runs has measured; raises UsageError for another machine."""
    if not cross_machine and not same_machine(baseline.run, new):
        raise UsageError(
            f"{baseline.run.header.run} and {new.header.run} were made on different machines: "
            f"{machine_differences(baseline.run, new)}.",
            "Compare their ratios only with --cross-machine, or run both on one machine.",
        )
    cases: dict[tuple[str, str, str], list[Record]] = {}
    for record in new.records:
        cases.setdefault((record.suite, record.case, record.stack), []).append(record)
    return tuple(
        compare_case(baseline, new, records, max_slowdown=max_slowdown, cross_machine=cross_machine)
        for records in cases.values()
        if any(record.metrics for record in [*records, *same_case(baseline.run, records[0])])
    )


def same_case(run: Run, record: Record) -> tuple[Record, ...]:
    """Return the repeats of a record's case: on the stack of that name, or on the first where there is none."""
    found = [one for one in run.records if (one.suite, one.case) == (record.suite, record.case)]
    stacks = list(dict.fromkeys(one.stack for one in found))
    stack = record.stack if record.stack in stacks else "base" if "base" in stacks else next(iter(stacks), "")
    return tuple(one for one in found if one.stack == stack)


def gated(records: Sequence[Record]) -> Values:
    """Return the values of every repeat by metric, of those that are a gate's business; NaN where one has none.

    The repeats of a training may be the seeds of one record.
    """
    names = dict.fromkeys(name for record in records for name in record.metrics)
    kept = [name for name in names if name in METRICS and METRICS[name].gate != "no"]
    return {name: _values(records, name) for name in kept}


def _values(records: Sequence[Record], name: str) -> tuple[float, ...]:
    each = (record.each.get(name, (record.metrics.get(name, math.nan),)) for record in records)
    return tuple(value for values in each for value in values)


def _no_baseline(
    base: Run, base_records: Sequence[Record], new: Run, records: Sequence[Record], cross_machine: bool
) -> str:
    """Return why a case of a run has nothing to be compared with; empty where it has."""
    record, run = records[0], base.header.run
    if not base_records:
        return f"{run} holds no record of {record.case!r}."
    if not any(one.verdict in MEASURED for one in base_records):
        return f"{run} has not measured {record.case!r}: {base_records[0].reason}"
    if cross_machine:
        return ""
    if not same_machine(base, new):
        return f"{run} was made on another machine: {machine_differences(base, new)}."
    one, other = _representative(base_records), _representative(records)
    if one.profile != other.profile:
        return f"{run} was driven as profile {one.profile!r} says, and this run as {other.profile!r}."
    if None not in (one.batch_size, other.batch_size) and one.batch_size != other.batch_size:
        return (
            f"{run} measured {record.case!r} with batch {one.batch_size}, and this run with batch {other.batch_size}."
        )
    return ""


def _judged(
    base: Sequence[Record], new: Sequence[Record], max_slowdown: float, cross_machine: bool, alpha: float
) -> tuple[Change, ...]:
    gate: dict[str, Any] = {"paired": False, "max_slowdown": max_slowdown, "alpha": alpha}
    one, other = gated(base), gated(new)
    if cross_machine:
        one, other = ({name: side[name] for name in BETWEEN_MACHINES if name in side} for side in (one, other))
        return judge_changes(one, other, **gate)
    measured = judge_changes(one, other, **gate)
    ceilings = _values(base, CEILING), _values(new, CEILING)
    if not all(math.isfinite(value) for side in ceilings for value in side):
        return measured
    ceiling = judge_change(CEILING, *ceilings, **gate)
    beside = {}
    if ceiling.verdict in CHANGED:
        shares = judge_changes(_of_ceiling(one, ceilings[0]), _of_ceiling(other, ceilings[1]), **gate)
        beside = {change.metric: change for change in shares}
    speeds = {change.metric: change.verdict for change in measured}
    return tuple(
        _both(change, beside[change.metric], ceiling) if change.metric in beside else _of_share(change, speeds)
        for change in measured
    )


def _answers(base: Run, base_records: Sequence[Record], new: Run, records: Sequence[Record]) -> Change | None:
    """Return how top-1 differs by the answers to the same images; None where these are not known."""
    one, other = (next((r for r in side if BITS in r.artefacts), None) for side in (base_records, records))
    if one is None or other is None or one.metrics.get("images") != other.metrics.get("images"):
        return None
    data = [record.inputs["data"].sha256 for record in (one, other) if "data" in record.inputs]
    files = [Path(run.directory, record.artefacts[BITS].path) for run, record in ((base, one), (new, other))]
    if len(data) < 2 or None in data or data[0] != data[1] or not all(file.is_file() for file in files):
        return None
    return judge_answers(read_answers(one, Path(base.directory)), read_answers(other, Path(new.directory)))


def _of_ceiling(values: Mapping[str, tuple[float, ...]], ceilings: Sequence[float]) -> Values:
    """Return what depends on the machine beside the ceiling of its repeat: images a FLOP, seconds times FLOP/s."""
    return {
        name: tuple(
            value / ceiling if METRICS[name].better == "higher" else value * ceiling
            for value, ceiling in zip(each, ceilings, strict=True)
        )
        for name, each in values.items()
        if METRICS[name].speed and name.endswith("_s")
    }


def _both(measured: Change, share: Change, ceiling: Change) -> Change:
    """Return a change as measured, which its share of the ceiling must confirm, for the ceilings differ."""
    told = f"the ceilings differ, new / base {_ratio(ceiling)}, and as share of them it is {_ratio(share)}"
    if measured.verdict in (share.verdict, "invalid"):
        return msgspec.structs.replace(measured, text=f"{measured.text} Confirmed: {told}.")
    text = f"{measured.text} Not decided by that: {told}. {SIDE_BY_SIDE}"
    return msgspec.structs.replace(measured, verdict="inconclusive", text=text)


def _of_share(change: Change, speeds: Mapping[str, ChangeVerdict]) -> Change:
    """Return a change of the share of the ceiling, which counts only where the speed itself has changed alike."""
    unconfirmed = change.verdict in CHANGED and speeds.get(SPEED, change.verdict) != change.verdict
    if change.metric != SHARE or not unconfirmed:
        return change
    text = f"{change.text} Not decided by that: the speed itself is {speeds[SPEED]}."
    return msgspec.structs.replace(change, verdict="inconclusive", text=text)


def _ratio(change: Change) -> str:
    if change.ratio is None:
        return "not known"
    interval = f" ({change.interval[0]:.3f} to {change.interval[1]:.3f})" if change.interval else ""
    return f"{change.ratio:.3f}{interval}"


def _accepted(baseline: Baseline, record: Record, metrics: Sequence[str]) -> list[str]:
    levels = {name: baseline.level(record.case, name) for name in metrics}
    told: dict[str, list[str]] = {}
    for name, level in levels.items():
        if level is not None:
            told.setdefault(f"accepted in {level.run}: {level.reason}", []).append(METRICS[name].label)
    return [
        f"{'everything is' if len(names) == len(metrics) else ', '.join(names) + ':'} judged by the level {text}"
        for text, names in told.items()
    ]


def _noise(base: Record, new: Record) -> list[str]:
    """Return on which side the machine was not quiet, and why."""
    sides = (("base", base), ("new", new))
    return [
        f"the machine was not quiet for {name}: {'; '.join(one.noise.reasons)}"
        for name, one in sides
        if one.noise and one.noise.reasons
    ]


def _representative(records: Sequence[Record]) -> Record:
    """Return the first repeat that was measured, or the first."""
    return next((record for record in records if record.verdict in MEASURED), records[0])


def _comparison(
    record: Record, new: Run, base: str, verdict: ChangeVerdict, reason: str, changes: tuple[Change, ...],
    told: tuple[str, ...],
) -> Comparison:  # fmt: skip
    return Comparison(
        case=record.case, suite=record.suite, model=record.model, mode=record.mode, precision=record.precision,
        dataset=record.dataset, profile=record.profile, base=base, new=f"{record.stack} of {new.header.run}",
        paired=False, verdict=verdict, reason=reason, started_at=record.started_at, changes=changes, differences=told,
    )  # fmt: skip
