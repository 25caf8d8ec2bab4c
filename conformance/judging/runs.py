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
from conformance.judging.answers import judge_top1
from conformance.judging.attribution import changed_between
from conformance.judging.baseline import Base, bases, not_comparable, representative, same_case
from conformance.judging.change import ALPHA, judge_change, judge_changes, share_of_alpha, verdict_of
from conformance.judging.differences import differences, machine_differences, same_machine
from conformance.records import Change, ChangeVerdict, Comparison, Record, Run
from conformance.records.accepted import Baseline

CEILING, SHARE, SPEED = "ceiling_flop_per_s", "ceiling_share", "throughput_images_per_s"
CHANGED: tuple[ChangeVerdict, ...] = ("regressed", "improved")
SIDE_BY_SIDE = "Run both stacks side by side: --stack base=NAME --stack new=NAME."
# What is comparable between machines: ratios of two measurements of the same machine, and accuracies. All but top-5
# decide there, for no speed does.
BETWEEN_MACHINES = ("top1", "top5", SHARE, "speedup_over_fp32", "scaling_efficiency")
DECIDE_BETWEEN_MACHINES = tuple(name for name in BETWEEN_MACHINES if name != "top5")

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
    record = representative(records)
    metrics = [name for name in gated(records) if not cross_machine or name in BETWEEN_MACHINES]
    judged_from = bases(baseline, new, records, metrics, cross_machine)
    main = next(iter(judged_from.values()))
    about = f"{main.records[0].stack if main.records else 'none'} of {main.run.header.run}"
    each = list({id(base): base for base in judged_from.values()}.values())
    why_not = next(filter(None, (not_comparable(base, new, records, cross_machine) for base in each)), "")
    base = representative(main.records) if main.records else None
    known = differences(main.run, base, new, record) if base else ()
    if base is None or why_not:
        return _comparison(record, new, about, "no baseline", why_not, (), known)
    changes: list[Change] = []
    for one in each:
        judged = _by_images(_judged(one.records, records, max_slowdown, cross_machine, alpha), one, new, records)
        changes += [change for change in judged if judged_from.get(change.metric, main) is one]
    if cross_machine and not changes:
        told = f"Machines are compared by ratios and accuracies, and {record.case!r} has neither."
        return _comparison(record, new, about, "no baseline", told, (), known)
    verdict, reason = verdict_of(changes, DECIDE_BETWEEN_MACHINES if cross_machine else ())
    if not any(one.metrics for one in records):
        reason = f"It was not measured: {record.reason} {reason}"
    kernels, unread = changed_between(base, Path(main.run.directory), record, Path(new.directory))
    told_too = (*_accepted(judged_from), *known, *unread, *_noise(base, record))
    compared = _comparison(record, new, about, verdict, reason, tuple(changes), told_too)
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


def compare_stacks(run: Run, *, max_slowdown: float) -> tuple[Comparison, ...]:
    """Compare the stacks of a run that took turns: as its session did, or by the whole pairs of a case that it lost."""
    known: dict[tuple[str, str], list[Comparison]] = {(one.suite, one.case): [] for one in run.records}
    for comparison in run.comparisons:
        known[comparison.suite, comparison.case].append(comparison)
    return tuple(
        comparison
        for (suite, case), compared in known.items()
        for comparison in compared or _by_whole_pairs(run, suite, case, max_slowdown)
    )


def _by_whole_pairs(run: Run, suite: str, case: str, max_slowdown: float) -> list[Comparison]:
    found = [record for record in run.records if (record.suite, record.case) == (suite, case) and record.metrics]
    base, *others = ({r.repeat: r for r in found if r.stack == stack} for stack in run.header.stacks)
    directory, compared = Path(run.directory), []
    for other in others:
        numbers = sorted(base.keys() & other.keys())
        if not numbers:
            continue
        sides = [tuple(side[number] for number in numbers) for side in (base, other)]
        judged = judge_changes(gated(sides[0]), gated(sides[1]), paired=True, max_slowdown=max_slowdown)
        changes = _by_images(judged, Base(run, sides[0]), run, sides[1])
        verdict, reason = verdict_of(changes)
        first, new = sides[0][0], sides[1][0]
        kernels, unread = changed_between(first, directory, new, directory)
        told = (*differences(run, first, run, new), *unread)
        one = _comparison(new, run, first.stack, verdict, reason, changes, told)
        turns = {"new": new.stack, "paired": True, "order_seed": run.header.order_seed}
        compared.append(msgspec.structs.replace(one, **turns, kernels=kernels))
    return compared


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


def _judged(
    base: Sequence[Record], new: Sequence[Record], max_slowdown: float, cross_machine: bool, alpha: float
) -> tuple[Change, ...]:
    gate: dict[str, Any] = {"paired": False, "max_slowdown": max_slowdown, "alpha": alpha}
    one, other = gated(base), gated(new)
    if cross_machine:
        return _between_machines(one, other, max_slowdown, alpha)
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


def _between_machines(base: Values, new: Values, max_slowdown: float, alpha: float) -> tuple[Change, ...]:
    names = [name for name in BETWEEN_MACHINES if name in base or name in new]
    return tuple(
        judge_change(
            name, base.get(name, ()), new.get(name, ()), paired=False, max_slowdown=max_slowdown,
            alpha=share_of_alpha(name, names, alpha, DECIDE_BETWEEN_MACHINES),
        )
        for name in names
    )  # fmt: skip


def _by_images(changes: Sequence[Change], base: Base, new: Run, records: Sequence[Record]) -> tuple[Change, ...]:
    """Return changes with that of top-1 by images, where it was measured once on each side: seeds differ, too."""
    if any(len(_values(side, "top1")) != 1 for side in (base.records, records)):
        return tuple(changes)
    top1 = judge_top1(base.records[0], Path(base.run.directory), records[0], Path(new.directory))
    return tuple(top1 if top1 and change.metric == "top1" else change for change in changes)


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


def _accepted(bases: Mapping[str, Base]) -> list[str]:
    told: dict[str, list[str]] = {}
    for name, base in bases.items():
        if base.level is not None:
            told.setdefault(f"accepted in {base.level.run}: {base.level.reason}", []).append(name)
    everything = "everything is"
    return [
        f"{everything if len(names) == len(bases) else ', '.join(METRICS[name].label for name in names) + ':'} "
        f"judged by the level {text}"
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


def _comparison(
    record: Record, new: Run, base: str, verdict: ChangeVerdict, reason: str, changes: tuple[Change, ...],
    told: tuple[str, ...],
) -> Comparison:  # fmt: skip
    return Comparison(
        case=record.case, suite=record.suite, model=record.model, mode=record.mode, precision=record.precision,
        dataset=record.dataset, profile=record.profile, base=base, new=f"{record.stack} of {new.header.run}",
        paired=False, verdict=verdict, reason=reason, started_at=record.started_at, changes=changes, differences=told,
    )  # fmt: skip
