"""How training goes on several ranks: what their reports come to, and their efficiency beside a single one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import msgspec

from conformance.errors import SubjectFailed
from conformance.judging.statistics import Ratio, all_positive, ratio_interval
from conformance.judging.training import WARMUP_STEPS
from conformance.records import Scaling, ScalingPoint


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a rank's report; it tells more.

    A step waits first, for ``wait_s``, and then takes ``step_s``, in which it computes and reduces. ``compute_s`` is
    what ``step_s`` has before the reduction, empty where that was not timed.
    """

    rank: int
    step_s: tuple[float, ...]
    wait_s: tuple[float, ...]
    compute_s: tuple[float, ...] = ()
    weights_sha256: str | None = None


class Block(NamedTuple):
    """A measured block of steps: the batch of all ranks together, and the images/s of all."""

    ranks: int
    global_batch_size: int
    images_per_s: float


def rank_metrics(
    reports: Sequence[Mapping[str, Any]],
    world_size: int,
    batch_size: int,
    allreduce_s: float | None = None,
    warmup: int = WARMUP_STEPS,
) -> dict[str, float]:
    """Return images/s of all ranks, and what keeps them from more; ``batch_size`` is that of one rank.

    All ranks wait for the slowest one in every step, so that its median step counts for all. The share of an allreduce
    is ``allreduce_s``, timed apart from the steps, of that. Skew is what the fastest and the slowest rank's medians of
    computing differ by, as share of the median rank's. A straggler is the rank that is most often the only last one to
    have its images and its gradients. The first ``warmup`` steps are left out. What a subject did not time is absent.

    Raises SubjectFailed unless each of the ranks reports once, as many steps as the others, and only possible times.
    """
    ranks = _parsed(reports, world_size)
    digests = [rank.weights_sha256 for rank in ranks]
    found: dict[str, float] = {}
    if None not in digests:
        found["weights_differ"] = float(sum(digest != digests[0] for digest in digests))
    taken = [steps_taken(rank.rank, warmup, rank.wait_s, rank.step_s) for rank in ranks]
    if not taken[0]:
        return found
    slowest_s = max(median(steps) for steps in taken)
    found["global_images_per_s"] = world_size * batch_size / slowest_s
    if world_size > 1 and allreduce_s is not None:
        all_positive("Allreduce", [allreduce_s])
        found["allreduce_share"] = allreduce_s / slowest_s
    if world_size > 1 and all(rank.compute_s for rank in ranks):
        computed = [median(steps_taken(rank.rank, warmup, rank.compute_s)) for rank in ranks]
        found["rank_skew"] = (max(computed) - min(computed)) / median(computed)
        found["straggler_share"] = _straggler_share([steps_taken(r.rank, warmup, r.wait_s, r.compute_s) for r in ranks])
    return found


def _parsed(reports: Sequence[Mapping[str, Any]], world_size: int) -> list[Rank]:
    hint = "See the log of the launch, which has the output of all ranks."
    try:
        ranks = sorted(msgspec.convert(list(reports), list[Rank]), key=lambda rank: rank.rank)
    except msgspec.ValidationError as error:
        raise SubjectFailed(f"The report of the ranks does not fit: {error}.", hint) from None
    if [rank.rank for rank in ranks] != list(range(world_size)):
        listed = ", ".join(str(rank.rank) for rank in ranks) or "none"
        raise SubjectFailed(f"Of {world_size} ranks these reported: {listed}; needed is each of them once.", hint)
    lengths = {len(times) for rank in ranks for times in (rank.step_s, rank.wait_s, rank.compute_s or rank.step_s)}
    if len(lengths) > 1:
        told = ", ".join(f"{length:,}" for length in sorted(lengths))
        raise SubjectFailed(f"The ranks report series of {told} steps; all do the same steps.", hint)
    return ranks


def steps_taken(rank: int, warmup: int, *parts_s: Sequence[float]) -> list[float]:
    """Return the time of each step after the warm-up, as the sum of its parts, such as waiting and computing."""
    taken = [sum(parts) for parts in zip(*parts_s, strict=True)]
    all_positive(f"Rank {rank}: step", taken)
    return taken[warmup:]


def _straggler_share(ready_s: Sequence[Sequence[float]]) -> float:
    steps = list(zip(*ready_s, strict=True))
    slowest = [times.index(max(times)) for times in steps if times.count(max(times)) == 1]
    return max(Counter(slowest).values(), default=0) / len(steps)


def measured_scaling(blocks: Sequence[Block], base: int = 1) -> Scaling:
    """Return the efficiency of N ranks: their images/s over N times those of one, measured in turns (A B B A).

    Weak where each rank keeps its batch, strong where all together keep that of one; N ranks and one are on as many
    cores a rank. In place of one there may be ``base`` ranks, and N / base times their images/s. The k-th block of one
    rank is held against the k-th of N; the efficiency is the median of these ratios, with its interval. Whether the
    ranks tell one another anything is not decided here: those that do not are perfectly efficient, and end with
    different weights.

    Raises SubjectFailed for blocks that are no such pairs.
    """
    sizes = sorted({(block.ranks, block.global_batch_size) for block in blocks})
    if len(sizes) != 2 or sizes[0][0] != base or sizes[1][0] == base:
        told = ", ".join(f"{ranks} with batch {batch_size}" for ranks, batch_size in sizes) or "none"
        message = f"Blocks were measured of ranks: {told}; needed are {base} and one other number, each with one batch."
        raise SubjectFailed(message, "Measure one pair of launches at a time.")
    (_, alone), (ranks, batch_size) = sizes
    times = ranks / base
    if batch_size not in (alone, times * alone):
        message = f"{ranks} ranks have a batch of {batch_size}; {times * alone:g} is weak scaling, {alone} is strong."
        raise SubjectFailed(message, "Keep the batch of one rank, or that of all together.")
    one, many = ([block for block in blocks if block.ranks == number] for number in (base, ranks))
    ratio = ratio_interval([b.images_per_s for b in many], [times * b.images_per_s for b in one])
    points = (_measured(one, Ratio(1.0, None, None)), _measured(many, ratio))
    return Scaling(kind="strong" if batch_size == alone else "weak", measured=points)


def _measured(blocks: Sequence[Block], efficiency: Ratio) -> ScalingPoint:
    images_per_s = median(block.images_per_s for block in blocks)
    low, high = efficiency.low, efficiency.high
    return ScalingPoint(
        ranks=blocks[0].ranks,
        step_s=blocks[0].global_batch_size / images_per_s,
        images_per_s=images_per_s,
        efficiency=efficiency.median,
        interval=None if low is None or high is None else (low, high),
    )
