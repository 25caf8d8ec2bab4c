"""What is claimed: rows of TOML tables, parsed once into cases with bands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from conformance.cases.metrics import METRICS
from conformance.cases.training import Positive, Recipe
from conformance.errors import UsageError, unknown_name
from conformance.tables import read_table

Precision = Literal["fp32", "bf16", "int8"]
Mode = Literal["accuracy", "throughput", "latency", "speedup", "training"]
Dataset = Literal["dummy", "synthetic", "digits", "imagenet"]
Launcher = Literal["mpirun", "horovodrun", "srun"]
Device = Literal["cpu", "hpu"]


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where one metric must lie, and who says so.

    Exactly one of ``at_least``, ``at_most`` and ``within`` (both ends included) is given, in
    the unit of the metric's name. ``hw`` limits the band to the hardware profiles named.
    """

    metric: str
    source: str
    at_least: float | None = None
    at_most: float | None = None
    within: tuple[float, float] | None = None
    hw: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(unknown_name("metric", self.metric, METRICS))
        if [self.at_least, self.at_most, self.within].count(None) != 2:
            raise ValueError(f"Band of {self.metric!r} needs one of at_least, at_most, within.")
        for limit in self.limits:
            if not METRICS[self.metric].is_possible(limit):
                raise ValueError(f"Limit {limit!r} of {self.metric!r} is not {METRICS[self.metric].range}.")
        if self.low > self.high:
            raise ValueError(f"Band of {self.metric!r} is within {self.low!r} to {self.high!r}, which is empty.")

    @property
    def limits(self) -> tuple[float, ...]:
        return self.within or tuple(limit for limit in (self.at_least, self.at_most) if limit is not None)

    @property
    def low(self) -> float:
        if self.within is not None:
            return self.within[0]
        return self.at_least if self.at_least is not None else float("-inf")

    @property
    def high(self) -> float:
        if self.within is not None:
            return self.within[1]
        return self.at_most if self.at_most is not None else float("inf")

    def words(self, show: Callable[[float], str]) -> str:
        if self.within is not None:
            return f"within {show(self.low)} to {show(self.high)}"
        return f"at least {show(self.low)}" if self.at_least is not None else f"at most {show(self.high)}"

    def __str__(self) -> str:
        return self.words(METRICS[self.metric].show)


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A figure that somebody published on a machine of theirs: shown, never a gate."""

    metric: str
    value: float
    machine: str
    source: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(unknown_name("metric", self.metric, METRICS))
        if not METRICS[self.metric].is_possible(self.value):
            raise ValueError(f"Value {self.value!r} of {self.metric!r} is not {METRICS[self.metric].range}.")


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One claim: a documented run and the bands that its metrics must lie in.

    A case with a ``world_size`` is trained by so many ranks; what else is said of ranks, and threads, belongs to it.
    Scaling is measured from one rank, or from ``base_world_size`` of them. ``device`` is that of the recipe, a CPU
    where none is said. ``slow`` ones have a marker to leave them out by.
    """

    id: str
    model: Literal["resnet50_v1_5", "resnext101_32x4d"]
    mode: Mode
    precision: Precision
    dataset: Dataset
    batch_size: Positive
    source: str
    warmup_steps: Positive | None = None
    steps: Positive | None = None
    time_limit_s: Positive = 3600
    slow: bool = False
    device: Literal["hpu"] | None = None
    world_size: Positive | None = None
    base_world_size: Positive | None = None
    ranks_per_socket: Positive | None = None
    launcher: Launcher | None = None
    oversubscribe: bool = False
    inter_op_threads: Positive | None = None
    intra_op_threads: Positive | None = None
    training: Recipe | None = None
    band: tuple[Band, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        told = {
            "ranks": self.world_size is not None,
            "slow": self.slow,
            "gaudi": self.device == "hpu",
            "profiler": self.training is not None and self.training.profile_steps is not None,
        }
        of_data = () if self.dataset in ("dummy", "synthetic") else (self.dataset,)
        return (self.precision, self.mode, *of_data, *(name for name, holds in told.items() if holds))


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    case: tuple[Case, ...]


def load_cases(path: Path) -> tuple[Case, ...]:
    """Read the table of cases beside a test file; an id that stands twice is an error."""
    cases = read_table(path, _Table).case
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise UsageError(f"Case id {case.id!r} stands twice in {path.name}.", "Give each row an id of its own.")
        seen.add(case.id)
        complaint = _misfit(case)
        if complaint:
            raise UsageError(f"Case {case.id!r} of {path.name} {complaint}.", f"Correct {path}.")
    return cases


def _misfit(case: Case) -> str | None:
    """Return what does not go together in a row: training has a table, a type and images of its own."""
    of_ranks = (
        "ranks_per_socket", "launcher", "oversubscribe", "inter_op_threads", "intra_op_threads", "base_world_size",
    )  # fmt: skip
    given = [name for name in of_ranks if getattr(case, name) not in (None, False)]
    if case.world_size is None and given:
        return f"has {given[0]!r}, which is for ranks, and no 'world_size'"
    if case.world_size is not None and (case.base_world_size or 1) >= max(2, case.world_size):
        return f"scales from {case.base_world_size} ranks to {case.world_size}; allowed are fewer to more"
    if case.device is not None and case.mode != "training":
        return f"has device {case.device!r} and mode {case.mode!r}; an HPU is for training"
    if case.world_size is not None and case.mode != "training":
        return f"has a 'world_size' and mode {case.mode!r}; ranks are for training"
    if case.training is None:
        if case.mode == "training":
            return "has mode 'training' and no table [case.training]"
        return "has dataset 'synthetic', which is for training" if case.dataset == "synthetic" else None
    if case.mode != "training":
        return f"has a table [case.training] and mode {case.mode!r}"
    if case.precision == "int8":
        return "trains in 'int8'; allowed are fp32 and bf16"
    if case.dataset == "dummy":
        return "trains on 'dummy' images, which nothing can be learnt of; allowed are synthetic, digits and imagenet"
    if case.dataset == "synthetic" and case.training.max_train_steps is None:
        return "trains on synthetic images without max_train_steps, by which their epochs are counted"
    if case.training.layout == "jpeg" and case.dataset != "imagenet":
        return f"reads JPEGs of {case.dataset!r}; class folders are of ImageNet"
    return None
