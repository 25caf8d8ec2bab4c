"""What MLPerf Training asks of one run of ResNet-50, held against what the run did. Never an official result.

The rules are data, by round and division, in ``mlperf.toml``. A subject's answer carries ``times``, in milliseconds
since 1970: of one reading of the clock when it started, plus what a monotonic clock counted since::

    {"init_start_ms": int, "init_stop_ms": int,  # before, and when the network is built and no image was touched
     "run_start_ms": int, "run_stop_ms": int,    # training images may be touched from here; the last step or evaluation
     "evaluations": [[start_ms, stop_ms], ...]}  # one for each of the answer's ``evaluations``, in their order

What lies between two evaluations is a block of training. A resumed run has no whole clock and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from conformance.errors import UsageError, unknown_name
from conformance.records import Verdict
from conformance.schedules import Plan, plan, schedule
from conformance.tables import read_table

TABLE = Path(__file__).with_name("mlperf.toml")
UNOFFICIAL = "Not an official result."
TARGET = "eval_accuracy"
NAMES = {"momentum": "sgd", "lars": "lars"}  # of optimizers: a job's and the log's


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which hyperparameters an optimizer may have; the rate decays polynomially."""

    name: Literal["sgd", "lars"]
    end: float
    power: float
    decay_unit: float
    momentum: float
    rate_multiple: float | None = None
    momentum_below_batch: int | None = None


class Ruleset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rules of a round and division; ``version`` is that of mlperf_logging's rule files."""

    round: str
    division: Literal["closed", "open"]
    version: str
    train_images: int
    eval_images: int
    init_limit_min: int
    runs: int
    target: float
    evaluated_every_epochs: int
    label_smoothing: tuple[float, ...] = ()
    optimizer: tuple[Optimizer, ...] = ()

    @property
    def name(self) -> str:
        return f"MLPerf Training {self.round}, {self.division} division (ruleset {self.version})"


class Exempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rule: str
    reason: str


class BaseRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    base: float
    source: str


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    ruleset: tuple[Ruleset, ...]
    only_full_data: tuple[Exempt, ...]
    base_rate: tuple[BaseRate, ...]


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    init_start_ms: int
    init_stop_ms: int
    run_start_ms: int
    run_stop_ms: int
    evaluations: tuple[tuple[int, int], ...]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """``epoch`` is how many were done: 4 after the fourth, as the rules count."""

    epoch: float
    top1_hits: int
    images: int

    @property
    def top1(self) -> float:
        return self.top1_hits / self.images


class TrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A whole training; ``batch`` is that of one rank, over which a batch normalisation spans."""

    seed: int
    batch: int
    accumulate: int
    ranks: int
    train_images: int
    optimizer: str
    momentum: float
    weight_decay: float
    label_smoothing: float
    plan: Plan
    evaluations: tuple[Evaluation, ...]
    times: Times

    @property
    def global_batch(self) -> int:
        return self.batch * self.accumulate * self.ranks

    def reached(self, target: float) -> int | None:
        """Return the index of the first evaluation with at least the target, None where there is none."""
        return next((i for i, evaluation in enumerate(self.evaluations) if evaluation.top1 >= target), None)


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that was not met; ``rule`` is the key of MLPerf's log that it is about."""

    rule: str
    text: str


@cache
def table() -> Table:
    return read_table(TABLE, Table)


def ruleset(round: str = "4.0", division: str = "closed") -> Ruleset:
    """Return the rules of a round and division; raises UsageError for others than the table has."""
    known = {f"{row.round} {row.division}": row for row in table().ruleset}
    wanted = f"{round} {division}"
    if wanted not in known:
        raise UsageError(unknown_name("round and division of MLPerf Training", wanted, known), "Name one of them.")
    return known[wanted]


def training_run(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> TrainingRun:
    """Return the run that a training job's arguments and the subject's answer describe.

    Raises UsageError for a run that was resumed, was never evaluated, or whose times are missing or in disorder.
    """
    if result["first_step"]:
        found = f"The run was resumed at step {result['first_step']}"
        raise UsageError(f"{found}, and MLPerf times a run as a whole.", "Train from step 0, in a new directory.")
    if not result["evaluations"]:
        raise UsageError("The run was never evaluated.", "Give data and epochs between evaluations.")
    ranks = (arguments.get("ranks") or {}).get("world_size", 1)
    images = arguments["batch_size"] * arguments["accumulate"] * ranks
    names = ("seed", "accumulate", "train_images", "optimizer", "momentum", "weight_decay", "label_smoothing")
    return TrainingRun(
        **{name: arguments[name] for name in names},
        batch=arguments["batch_size"],
        ranks=ranks,
        plan=plan(schedule(arguments["schedule"]), images, arguments["train_images"]),
        evaluations=msgspec.convert(result["evaluations"], tuple[Evaluation, ...]),
        times=_times(result),
    )


def _times(result: Mapping[str, Any]) -> Times:
    try:
        times = msgspec.convert(result.get("times"), Times)
    except msgspec.ValidationError as error:
        raise UsageError(f"The run's times are {result.get('times')!r}: {error}.", "Train again.") from None
    within = [instant for span in times.evaluations for instant in span]
    order = [times.init_start_ms, times.init_stop_ms, times.run_start_ms, *within, times.run_stop_ms]
    if order != sorted(order):
        raise UsageError(f"The run's times are not in order: {order}.", "Look at the clock of the machine.")
    if len(times.evaluations) != len(result["evaluations"]):
        counts = f"{len(times.evaluations)} of {len(result['evaluations'])} evaluations"
        raise UsageError(f"The run tells the times of {counts}.", "Train again.")
    return times


def misses(run: TrainingRun, rules: Ruleset) -> tuple[Miss, ...]:
    """Return which rules a run missed, also those that the compliance checker does not look at."""
    return tuple(
        Miss(rule=rule, text=text)
        for rule, text in (
            *_convergence(run, rules),
            *_data(run, rules),
            *_hyperparameters(run, rules),
        )
    )


def verdict(rules: Ruleset, missed: Iterable[Miss]) -> tuple[Verdict, str]:
    """Return ``inside`` where nothing is missed but what only the whole of ImageNet can meet, and the sentence.

    A missed accuracy alone is ``outside``; a run that misses another rule is ``invalid``, no run by these rules.
    """
    first = _by_rule(missed)
    exempt = {row.rule: row.reason for row in table().only_full_data}
    real = [text for rule, text in first.items() if rule not in exempt]
    needs = [f"{rule} ({exempt[rule]})" for rule in first if rule in exempt]
    apart = f", apart from what only the full data can meet: {' and '.join(needs)}" if needs else ""
    judged: Verdict = "inside" if not real else "outside" if set(first) - set(exempt) == {TARGET} else "invalid"
    found = "; ".join(real) or "every rule that is checked here is met"
    return judged, f"{rules.name}: {found}{apart}. {UNOFFICIAL}"


def missed_rules(missed: Iterable[Miss]) -> tuple[str, ...]:
    """Return the rules that were missed, each once, but for those that only the whole of ImageNet can meet."""
    exempt = {row.rule for row in table().only_full_data}
    return tuple(rule for rule in _by_rule(missed) if rule not in exempt)


def _by_rule(missed: Iterable[Miss]) -> dict[str, str]:
    first: dict[str, str] = {}
    for miss in missed:
        first.setdefault(miss.rule, miss.text)
    return first


def documented_base(base: float) -> str | None:
    """Return which of the recipe's two base rates, for 256 images of the batch, this is."""
    return next((row.source for row in table().base_rate if math.isclose(row.base, base)), None)


def _convergence(run: TrainingRun, rules: Ruleset) -> Iterable[tuple[str, str]]:
    reached = run.reached(rules.target)
    if reached is None:
        best = max(run.evaluations, key=lambda evaluation: evaluation.top1)
        found = f"the best of {len(run.evaluations)} evaluations is {best.top1:.5f} after epoch {best.epoch:g}"
        yield TARGET, f"top-1 never reached {rules.target:g}: {found}"
    epochs = [evaluation.epoch for evaluation in run.evaluations[: None if reached is None else reached + 1]]
    if any(after - before > rules.evaluated_every_epochs for before, after in pairwise([0, *epochs])):
        listed = ", ".join(f"{epoch:g}" for epoch in epochs)
        yield "eval_start", f"evaluated after epoch {listed}; needed is every {rules.evaluated_every_epochs} epochs"
    init_min = (run.times.init_stop_ms - run.times.init_start_ms) / 60_000
    if init_min >= rules.init_limit_min:
        yield "init_stop", f"it took {init_min:.1f} min to begin; allowed are less than {rules.init_limit_min} min"


def _data(run: TrainingRun, rules: Ruleset) -> Iterable[tuple[str, str]]:
    if run.train_images != rules.train_images:
        yield "train_samples", f"{run.train_images:,} training images; needed are {rules.train_images:,}"
    images = {evaluation.images for evaluation in run.evaluations}
    if images != {rules.eval_images}:
        counts = ", ".join(f"{count:,}" for count in sorted(images))
        yield "eval_samples", f"{counts} images in an evaluation; needed are {rules.eval_images:,}"


def _hyperparameters(run: TrainingRun, rules: Ruleset) -> Iterable[tuple[str, str]]:
    name, rate = NAMES[run.optimizer], run.plan.schedule
    allowed = next((row for row in rules.optimizer if row.name == name), None)
    if allowed is None:
        return
    if rate.decay != "polynomial":
        yield f"{name}_opt_learning_rate_decay_poly_power", f"the rate decays by {rate.decay!r}; allowed is polynomial"
    elif rate.power != allowed.power:
        yield (
            f"{name}_opt_learning_rate_decay_poly_power",
            f"the rate decays with power {rate.power:g}; allowed is {allowed.power:g}",
        )
    end = end_rate(run.plan)
    if end != allowed.end:
        yield f"{name}_opt_end_learning_rate", f"the last rate is {end:g}; allowed is {allowed.end:g}"
    if allowed.rate_multiple and not _whole(run.plan.peak / allowed.rate_multiple):
        multiples = f"multiples of {allowed.rate_multiple:g}"
        yield f"{name}_opt_base_learning_rate", f"the peak of the rate is {run.plan.peak!r}; allowed are {multiples}"
    if run.weight_decay <= 0 or not _whole(math.log2(run.weight_decay / allowed.decay_unit)):
        powers = f"{allowed.decay_unit:g} times a power of 2"
        yield f"{name}_opt_weight_decay", f"the weight decay is {run.weight_decay!r}; allowed is {powers}"
    bound = allowed.momentum_below_batch
    if run.momentum != allowed.momentum and (bound is None or run.global_batch < bound):
        yield f"{name}_opt_momentum", f"the momentum is {run.momentum:g}; allowed is {allowed.momentum:g}"
    if rules.label_smoothing and run.label_smoothing not in rules.label_smoothing:
        known = " or ".join(f"{value:g}" for value in rules.label_smoothing)
        yield "label_smoothing", f"the label smoothing is {run.label_smoothing:g}; allowed is {known}"


def end_rate(plan: Plan) -> float:
    """Return the rate that a schedule ends with."""
    rate = plan.schedule
    return plan.peak * rate.factors[-1] if rate.decay == "steps" else rate.end


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-5  # as the compliance checker
