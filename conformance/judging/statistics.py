"""Statistics as pure functions on sequences; NumPy and SciPy are imported where they are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, median, stdev
from typing import NamedTuple

from conformance.errors import SubjectFailed

# Below this many pairs a resampled median is too sure of itself: its 95 % interval covers 73 % at 3 pairs.
BOOTSTRAP_PAIRS = 6
RESAMPLES = 9999


class McNemar(NamedTuple):
    """Two models on the same images: only the first is right ``b`` times, only the second ``c`` times."""

    b: int
    c: int
    p: float


class Ratio(NamedTuple):
    """The median of paired ratios with its 95 % interval, which one pair alone does not have."""

    median: float
    low: float | None
    high: float | None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile by linear interpolation between closest ranks (NumPy's default).

    >>> percentile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def summary(step_s: Sequence[float], batch_size: int) -> dict[str, float]:
    """Return throughput, latencies and spread of the timed steps; nothing for an empty series.

    Percentiles are linear interpolations; of n steps, the p99 leans on the slowest n / 100.
    Raises SubjectFailed for a duration that is not a positive number.
    """
    all_positive("Step", step_s)
    if not step_s:
        return {}
    mean, middle = fmean(step_s), percentile(step_s, 0.5)
    return {
        "throughput_images_per_s": batch_size / mean,
        "latency_mean_s": mean,
        "latency_p50_s": middle,
        "latency_p90_s": percentile(step_s, 0.90),
        "latency_p95_s": percentile(step_s, 0.95),
        "latency_p99_s": percentile(step_s, 0.99),
        "spread": (percentile(step_s, 0.75) - percentile(step_s, 0.25)) / middle,
    }


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share, without continuity correction (Newcombe 1998, method 3).

    Of nothing, nothing is known: 0 to 1. Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (
        0.0 if successes == 0 else max(0.0, centre - half),
        1.0 if successes == n else min(1.0, centre + half),
    )


def share_difference(right: int, n: int, other_right: int, other_n: int) -> tuple[float, float]:
    """Return the 95 % interval of the second share less the first, of different images.

    From Wilson's intervals of both shares (Newcombe 1998, method 10), without continuity correction.
    """
    (low, high), (other_low, other_high) = wilson(right, n), wilson(other_right, other_n)
    share, other = right / n, other_right / other_n
    below, above = math.hypot(other - other_low, high - share), math.hypot(other_high - other, share - low)
    return other - share - below, other - share + above


def mcnemar(first: Sequence[bool | int], second: Sequence[bool | int]) -> McNemar:
    """Compare two models by their correctness bits of the same images, in the same order.

    ``p`` is exact and two-sided: ``scipy.stats.binomtest(b, b + c)``, which for a fair coin is
    twice the smaller tail. Raises SubjectFailed when the series differ in length.
    """
    _same_length("correctness bits", first, second)
    b = sum(1 for one, other in zip(first, second, strict=True) if one and not other)
    c = sum(1 for one, other in zip(first, second, strict=True) if other and not one)
    if b == c:
        return McNemar(b, c, 1.0)
    from scipy.special import bdtr  # a third of the import time of scipy.stats

    return McNemar(b, c, min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5))))


def paired_difference(b: float, c: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the second model's share of right answers less the first's, on the same ``n`` images.

    Only the first is right ``b`` times, only the second ``c`` times. The adjusted Wald interval of Bonett and Price
    (2012), which holds its confidence also where the two models never differ: one image more for each of b and c, two
    more in all. Raises ValueError unless 0 <= b + c <= n and n > 0.
    """
    if min(b, c) < 0 or n < 1 or b + c > n:
        raise ValueError(f"{b} and {c} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first, second = (b + 1) / (n + 2), (c + 1) / (n + 2)
    difference = second - first
    half = z * math.sqrt((first + second - difference**2) / (n + 2))
    return max(-1.0, difference - half), min(1.0, difference + half)


def images_to_decide(b: int, c: int, n: int, limit: float) -> int | None:
    """Return how many images would put the whole interval on one side of a limit, if shares stayed as they are.

    ``limit`` is a difference as of ``paired_difference``. To a hundredth; None beyond a billion.
    """

    def decides(images: int) -> bool:
        low, high = paired_difference(b / n * images, c / n * images, images)
        return not low <= limit <= high

    most = n
    while not decides(most):  # the interval shrinks with the root of the number of images
        if most > 10**9:
            return None
        most *= 2
    least = most // 2
    while most - least > most // 100 + 1:
        middle = (least + most) // 2
        least, most = (least, middle) if decides(middle) else (middle, most)
    return most


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of 2 values or more, by Student's t."""
    from scipy.special import stdtrit

    centre, error = fmean(values), stdev(values) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, 0.975)) * error
    return centre - half, centre + half


def runs_to_decide(runs: int, half: float, distance: float) -> int:
    """Return how many runs would bring a mean's 95 % interval to less than ``distance`` on each side.

    ``half`` is the half width of Student's interval of so many ``runs``, 2 or more; the answer is by the normal
    approximation, as if the runs to come spread alike.
    """
    from scipy.special import stdtrit

    deviation = half * math.sqrt(runs) / float(stdtrit(runs - 1, 0.975))
    return max(runs + 1, math.ceil((NormalDist().inv_cdf(0.975) * deviation / distance) ** 2))


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Ratio:
    """Return the median of paired ratios and its 95 % interval.

    From 6 pairs on a percentile bootstrap of the median; below, Student's t on the logarithms,
    which holds its 95 % for as few as 2 pairs. Raises SubjectFailed for series of different
    length, none at all, or a value that is not a positive number.
    """
    _same_length("measurements", numerators, denominators)
    all_positive("Measurement", [*numerators, *denominators])
    ratios = [one / other for one, other in zip(numerators, denominators, strict=True)]
    if not ratios:
        raise SubjectFailed("There are 0 pairs to compare; at least 1 is needed.", "See the subjects' logs.")
    if len(ratios) == 1:
        return Ratio(ratios[0], None, None)
    few = len(ratios) < BOOTSTRAP_PAIRS
    low, high = _student(ratios) if few else _bootstrap(ratios, seed)
    return Ratio(median(ratios), low, high)


def _student(ratios: Sequence[float]) -> tuple[float, float]:
    low, high = mean_interval([math.log(ratio) for ratio in ratios])
    return math.exp(low), math.exp(high)


def _bootstrap(ratios: Sequence[float], seed: int) -> tuple[float, float]:
    import numpy as np

    draws = np.random.default_rng(seed).choice(np.asarray(ratios), (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def all_positive(what: str, values: Sequence[float]) -> None:
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value > 0):
            raise SubjectFailed(
                f"{what} {index} is {value!r}; only positive numbers are possible.",
                "See the subject's log and its event file.",
            )


def _same_length(what: str, first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise SubjectFailed(
            f"Two subjects report {len(first)} and {len(second)} {what}; a pair needs as many of each.",
            "Run both on the same images, for the same number of repeats.",
        )
