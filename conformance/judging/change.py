"""Is it slower? Repeats of a case beside those of another stack, or of an earlier run.

A change needs significance and size. Significance is an exact test of ranks, size the median ratio. Metrics of higher
and of lower values being better are the same here: everything is computed on logarithms of ratios, positive for worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, median
from typing import NamedTuple

import msgspec

from conformance.cases.metrics import METRICS, Metric
from conformance.judging.exact_tests import attainable, least_repeats, rank_sum_p, signed_rank_p
from conformance.judging.median_interval import median_interval
from conformance.records import CHANGE_GRAVITY, Change, ChangeVerdict

# Two-sided: equal sides are called regressed half as often at most, by what decides and what is watched together 1 %.
ALPHA, WATCHED_ALPHA = 0.016, 0.004
MAX_SLOWDOWN = 0.03
# An accuracy that is less than 99 % of what it was is worse: MLPerf Inference's rule for a lower precision.
MAX_LOSS = 0.01
POWER = 0.8
MOST_REPEATS = 200  # what is told to somebody as a number of repeats that would do


class Sides(NamedTuple):
    """The values of both sides, all of them possible; as many of each where they are pairs."""

    metric: Metric
    base: tuple[float, ...]
    new: tuple[float, ...]
    paired: bool

    @property
    def worse(self) -> list[float]:
        """The logarithm of each pair's ratio, positive where the new side is worse."""
        return [self.sign * math.log(new / base) for base, new in zip(self.base, self.new, strict=True)]

    @property
    def sign(self) -> int:
        return 1 if self.metric.better == "lower" else -1

    @property
    def ratio(self) -> float:
        """New / base, in the metric's own unit: the median of the pairs' ratios, or the ratio of the medians."""
        if self.paired:
            return math.exp(self.sign * median(self.worse))
        return median(self.new) / median(self.base)

    @property
    def worsening(self) -> float:
        return self.sign * math.log(self.ratio)


def judge_change(
    metric_name: str,
    base_values: Sequence[float],
    new_values: Sequence[float],
    *,
    paired: bool,
    max_slowdown: float = MAX_SLOWDOWN,
    alpha: float = ALPHA,
) -> Change:
    """Compare the repeats of one metric, looked at once.

    In this order: ``invalid`` for a side without values, a value that is impossible or 0, or pairs of which one is
    missing; ``regressed`` or ``improved`` for a change that is significant at ``alpha``, two-sided, and larger than
    ``max_slowdown`` (1 % for an accuracy); ``same`` where the whole 95 % interval of the ratio is within it; else
    ``inconclusive``. Of pairs that are too few for the signed-rank test, the rank-sum test is taken, which the noise
    that pairs have in common makes cautious.
    """
    sides, change = sides_of(metric_name, base_values, new_values, paired, max_slowdown)
    if sides is None:
        return change
    p = exact_p(sides, alpha)
    return decided(sides, change, p, significant=p is not None and p <= alpha, alpha=alpha)


def judge_changes(
    base: Mapping[str, Sequence[float]],
    new: Mapping[str, Sequence[float]],
    *,
    paired: bool,
    max_slowdown: float = MAX_SLOWDOWN,
    alpha: float = ALPHA,
) -> tuple[Change, ...]:
    """Compare all metrics of a gate's business that either side has; what one of them has not is ``invalid``.

    ``alpha`` is the error of all metrics that decide together; those that are watched have less.
    """
    names = gate_metrics({**base, **new})
    return tuple(
        judge_change(
            name, base.get(name, ()), new.get(name, ()),
            paired=paired, max_slowdown=max_slowdown, alpha=share_of_alpha(name, names, alpha),
        )
        for name in names
    )  # fmt: skip


def gate_metrics(names: Mapping[str, object]) -> tuple[str, ...]:
    """Return those metrics that are a gate's business, the deciding ones first."""
    known = [METRICS[name] for name in names if name in METRICS and METRICS[name].gate != "no"]
    return tuple(metric.name for metric in sorted(known, key=lambda metric: metric.gate))


def share_of_alpha(name: str, names: Sequence[str], alpha: float = ALPHA, deciding: Sequence[str] = ()) -> float:
    """Return a metric's share of the error, which those that decide share out, and those that are watched (Bonferroni).

    ``alpha`` is of all that decide together; ``deciding`` are metrics that decide as well.

    >>> share_of_alpha("latency_p50_s", ("latency_p50_s", "latency_p90_s", "latency_p99_s"))
    0.016
    """
    decide = [other for other in names if _decides(other, deciding)]
    if name in decide:
        return alpha / len(decide)
    return alpha * WATCHED_ALPHA / ALPHA / (len(names) - len(decide))


def _decides(name: str, deciding: Sequence[str]) -> bool:
    return METRICS[name].gate == "decides" or name in deciding


def verdict_of(changes: Sequence[Change], deciding: Sequence[str] = ()) -> tuple[ChangeVerdict, str]:
    """Return the verdict of a case and the sentences that decide it: the gravest of its deciding metrics.

    A metric that is only watched counts where it regressed or is invalid; ``deciding`` are metrics that decide as well.
    """
    counting = [c for c in changes if _decides(c.metric, deciding) or c.verdict in ("regressed", "invalid")]
    if not counting:
        return "inconclusive", "Nothing was measured that decides."
    verdict = min((change.verdict for change in counting), key=CHANGE_GRAVITY.index)
    telling = [change for change in counting if change.verdict == verdict]
    first = [change for change in telling if _decides(change.metric, deciding)]
    return verdict, " ".join(change.text for change in first or telling)


def exact_p(sides: Sides, alpha: float) -> float | None:
    """Return the two-sided p of the exact test that can reach ``alpha`` at these counts; None where none can."""
    m, n = len(sides.base), len(sides.new)
    if sides.paired and attainable(n) <= alpha:
        return signed_rank_p(sides.worse)
    return rank_sum_p(sides.base, sides.new) if attainable(m, n) <= alpha else None


def sides_of(
    name: str, base_values: Sequence[float], new_values: Sequence[float], paired: bool, max_slowdown: float
) -> tuple[Sides | None, Change]:
    """Return both sides, or None where they cannot be compared, and a change with what is known of them so far."""
    metric = METRICS.get(name)
    change = Change(
        metric=name,
        verdict="invalid",
        text="",
        base_values=tuple(value for value in base_values if math.isfinite(value)),
        new_values=tuple(value for value in new_values if math.isfinite(value)),
        allowed=max_slowdown if metric is None or metric.speed else MAX_LOSS,
    )
    problem = _problem(name, metric, base_values, new_values, paired)
    if problem or metric is None:
        return None, msgspec.structs.replace(change, verdict="invalid", text=problem)
    sides = Sides(metric, tuple(base_values), tuple(new_values), paired)
    return sides, msgspec.structs.replace(change, base=median(sides.base), new=median(sides.new), ratio=sides.ratio)


def _problem(
    name: str, metric: Metric | None, base_values: Sequence[float], new_values: Sequence[float], paired: bool
) -> str:
    if metric is None or metric.better == "neither":
        return f"{name!r} is no metric that can be better or worse."
    for side, values in (("base", base_values), ("new", new_values)):
        if not values:
            return f"{metric.label} is missing from the {side} side."
        for repeat, value in enumerate(values, start=1):
            if value == 0 or not metric.is_possible(value):
                possible = metric.range if metric.possible[0] > 0 else f"{metric.range}, and 0 has no ratio"
                return f"{metric.label} is {value!r} in repeat {repeat} of the {side} side; possible is {possible}."
    if paired and len(base_values) != len(new_values):
        return f"{metric.label} has {len(base_values)} repeats of the base and {len(new_values)} new ones: no pairs."
    return ""


def decided(
    sides: Sides, change: Change, p: float | None, *, significant: bool, alpha: float, looking: bool = False,
    final: bool = True,
) -> Change:  # fmt: skip
    assert change.allowed is not None
    worsening, limit = sides.worsening, math.log1p(change.allowed)
    # It takes milliseconds: a look that cannot decide anything goes without.
    interval = ratio_interval(sides) if final or significant or abs(worsening) <= limit else None
    verdict: ChangeVerdict = "inconclusive"
    if significant and worsening > limit:
        verdict = "regressed"
    elif significant and worsening < -limit:
        verdict = "improved"
    elif interval is not None and max(abs(math.log(end)) for end in interval) <= limit:
        verdict = "same"
    noise = spread(sides)
    found = msgspec.structs.replace(
        change, verdict=verdict, interval=interval, p=p,
        detectable=None if noise is None else detectable(noise, sides, alpha, limit),
    )  # fmt: skip
    return msgspec.structs.replace(found, text=_text(sides, found, alpha, noise, looking))


def spread(sides: Sides) -> float | None:
    """Return the standard deviation of the logarithm of a ratio, estimated so that outliers hardly count.

    By the median distance from the median. None of fewer than 3 pairs, or repeats of a side.
    """
    each = [sides.worse] if sides.paired else [[math.log(v) for v in side] for side in (sides.base, sides.new)]
    if min(map(len, each)) < 3:
        return None
    scale = NormalDist().inv_cdf(0.75)
    found = [median(abs(value - median(values)) for value in values) / scale for values in each]
    return math.hypot(*found)


def detectable(noise: float, sides: Sides, alpha: float, limit: float) -> float:
    """Return the smallest slow-down that so many repeats of this noise show with 80 % power, as a share.

    It is significant, and its median is beyond the limit: the greater of both, with the standard error of a median.
    """
    error = _median_error(noise, min(len(sides.base), len(sides.new)))
    z, power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(POWER)
    return math.expm1(max(z * error, limit) + power * error)


def _median_error(noise: float, n: int) -> float:
    return math.sqrt(math.pi / 2) * noise / math.sqrt(n)


def repeats_to_decide(sides: Sides, noise: float, limit: float) -> int:
    """Return how many repeats would bring the median's 95 % interval to one side of the limit, if nothing changed."""
    distance = abs(abs(sides.worsening) - limit)
    more = len(sides.new) + 1
    if distance == 0:
        return MOST_REPEATS + 1
    return max(more, math.ceil((1.96 * _median_error(noise, 1) / distance) ** 2))


def ratio_interval(sides: Sides) -> tuple[float, float] | None:
    """Return the 95 % interval of the ratio; None of one repeat."""
    if sides.paired:
        ends = median_interval((sides.worse,))
    else:
        ends = median_interval(([math.log(v) for v in sides.base], [math.log(v) for v in sides.new]))
    if ends is None:
        return None
    low, high = sorted(math.exp(end * (sides.sign if sides.paired else 1)) for end in ends)
    return low, high


def _text(sides: Sides, change: Change, alpha: float, noise: float | None, looking: bool) -> str:
    assert change.base is not None and change.new is not None and change.ratio is not None and change.allowed
    metric, count = sides.metric, _count(sides)
    told = f"{metric.label}: {metric.show(change.base)} -> {metric.show(change.new)}, ratio {change.ratio:.4f}"
    if change.interval:
        told += f" (95 % interval {change.interval[0]:.4f} to {change.interval[1]:.4f})"
    told += f", {count}"
    p = "" if change.p is None else f"p = {change.p:.2g}, "
    allowed = f"allowed is {100 * change.allowed:g} %"
    if change.verdict in ("regressed", "improved"):
        return f"{told}: {change.verdict}, {p}{allowed}."
    if change.verdict == "same":
        return f"{told}: same, the interval is within {100 * change.allowed:g} %."
    return f"{told}: inconclusive, {p}{allowed}; {_more(sides, change, alpha, noise, looking)}."


def _count(sides: Sides) -> str:
    if sides.paired:
        return f"{len(sides.new)} pair{'s' * (len(sides.new) > 1)}"
    return f"{len(sides.base)} against {len(sides.new)} repeats"


def _more(sides: Sides, change: Change, alpha: float, noise: float | None, looking: bool) -> str:
    """Say what would decide."""
    assert change.allowed
    n = len(sides.new)
    if not looking and change.p is None:
        return f"too few for a test at {100 * alpha:.2g} %, {least_repeats(alpha, len(sides.base), sides.paired)}"
    if noise is None:
        return "more repeats are needed"
    needed = repeats_to_decide(sides, noise, math.log1p(change.allowed))
    if needed > MOST_REPEATS:
        return f"more than {MOST_REPEATS} repeats would be needed at this noise"
    return f"about {max(needed, n + 1)} repeats would do"
