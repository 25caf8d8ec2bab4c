"""The interval of a median, or of the difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from conformance.judging.statistics import BOOTSTRAP_PAIRS, RESAMPLES, mean_interval


def median_interval(data: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median of one sample, or of the second's less the first's; None of one value.

    From 6 values on it is bootstrapped: BCa, or percentiles where that degenerates, for it needs the medians of all
    but one value to differ. Below, a bootstrapped median is too sure of itself, and it is Student's.
    """
    fewest = min(map(len, data))
    if fewest < 2:
        return None
    if all(len(set(values)) == 1 for values in data):
        centre = median(data[-1]) - (median(data[0]) if len(data) > 1 else 0.0)
        return centre, centre
    return _student(data) if fewest < BOOTSTRAP_PAIRS else _bootstrapped(data)


def _student(data: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the interval of a mean, or of the difference of two (Welch)."""
    if len(data) == 1:
        return mean_interval(data[0])
    from scipy.stats import ttest_ind

    found = ttest_ind(data[1], data[0], equal_var=False).confidence_interval()
    return float(found.low), float(found.high)


def _bootstrapped(data: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the interval of a median, or of the difference of two."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    def statistic(*samples: Any, axis: int) -> Any:
        centres = [np.median(sample, axis=axis) for sample in samples]
        return centres[0] if len(centres) == 1 else centres[1] - centres[0]

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of degenerate data, which is looked at here
            found = bootstrap(
                data, statistic, n_resamples=RESAMPLES, method=method, random_state=np.random.default_rng(0)
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)
