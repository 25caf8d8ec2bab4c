"""The noise floor: by how much a case differs from itself, and the smallest change that N repeats can show beside it.

A change of size d is shown by N repeats when a two-sided t test, at the gate's ``ALPHA``, finds it in ``POWER`` of all
trials (Cohen 1988, Statistical Power Analysis, chapter 2); the gate's tests of ranks need about as many. The noise is
the standard deviation of logarithms: of the ratios of pairs where repeats take turns, of the values of a side where
they do not. Runs of different days differ by more than the repeats of one, which no calibration of one day can know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import msgspec

from conformance.judging.change import ALPHA, POWER

REPEATS = range(3, 31)
MOST_REPEATS = 10_000


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one metric of a case showed beside itself, on one machine with one stack.

    ``pair_sd`` is the standard deviation of the logarithms of the pairs' ratios, ``side_sd`` that of the values of one
    side; 95 % of the pairs were within ``ratio_95`` of equal. ``detectable`` holds the smallest change that 3, 4, .. 30
    pairs can show, as shares.
    """

    metric: str
    pairs: int
    pair_sd: float
    side_sd: float
    ratio_95: float
    detectable: tuple[float, ...]


def floor(metric: str, base: Sequence[float], new: Sequence[float]) -> Floor:
    """Return the noise floor of 2 pairs or more of positive values of the same thing."""
    from conformance.judging.statistics import percentile

    logs = [math.log(other / one) for one, other in zip(base, new, strict=True)]
    pair_sd = _sd([logs])
    return Floor(
        metric=metric,
        pairs=len(logs),
        pair_sd=pair_sd,
        side_sd=_sd([[math.log(value) for value in side] for side in (base, new)]),
        ratio_95=percentile([abs(math.expm1(log)) for log in logs], 0.95),
        detectable=tuple(detectable(pair_sd, repeats, paired=True) for repeats in REPEATS),
    )


def detectable(sd: float, repeats: int, *, paired: bool, alpha: float = ALPHA) -> float:
    """Return the smallest change, as a share, that so many repeats (a side, or pairs) can show above noise of ``sd``.

    >>> f"{detectable(0.02, 10, paired=False, alpha=0.05):.3f}", f"{detectable(0.02, 10, paired=True, alpha=0.05):.3f}"
    ('0.027', '0.020')
    """
    return math.expm1(sd * _effect(repeats, paired, alpha)) if repeats > 1 else math.inf


def repeats_needed(sd: float, change: float, *, paired: bool) -> int | None:
    """Return how many repeats can show a change, from 3 on; None where ten thousand cannot."""
    if detectable(sd, MOST_REPEATS, paired=paired) > change:
        return None
    least, most = REPEATS[0] - 1, MOST_REPEATS
    while most - least > 1:  # what can be shown shrinks with every repeat
        middle = (least + most) // 2
        least, most = (least, middle) if detectable(sd, middle, paired=paired) <= change else (middle, most)
    return most


def refusal(case: str, floor: Floor, max_slowdown: float, repeats: int, *, paired: bool) -> str | None:
    """Say why a gate asks for more than its repeats can show, and how many would do; None where it does not."""
    from conformance.cases.metrics import METRICS

    sd = floor.pair_sd if paired else floor.side_sd
    shown = detectable(sd, repeats, paired=paired)
    if shown <= max_slowdown:
        return None
    needed = repeats_needed(sd, max_slowdown, paired=paired)
    can = f"can show {100 * shown:.1f} %" if math.isfinite(shown) else "can show nothing"
    return (
        f"--max-slowdown {100 * max_slowdown:g}% is below the noise floor of {case!r}: {METRICS[floor.metric].label} "
        f"differs by {100 * math.expm1(sd):.1f} % from itself here ({floor.pairs} pairs), and {repeats} "
        f"{'repeat' if repeats == 1 else 'repeats'} {can}; "
        + (f"it would take {needed:,}." if needed else f"more than {MOST_REPEATS:,} would be needed.")
    )


def _sd(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation within groups, each about its own mean."""
    from statistics import fmean

    squares = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / sum(len(group) - 1 for group in groups))


@cache
def _effect(repeats: int, paired: bool, alpha: float) -> float:
    """Return the shift, in standard deviations, that a two-sided t test finds with ``POWER``.

    Significant on the wrong side is no finding. It is also too rare to count, and SciPy has NaN for it.
    """
    from scipy.special import nctdtr, stdtrit

    freedom = repeats - 1 if paired else 2 * repeats - 2
    scale = math.sqrt(repeats if paired else repeats / 2)
    limit = float(stdtrit(freedom, 1 - alpha / 2))
    least, most = 0.0, 100.0
    while most - least > 1e-6:
        middle = (least + most) / 2
        missed = float(nctdtr(freedom, middle * scale, limit))
        least, most = (middle, most) if missed > 1 - POWER else (least, middle)
    return most
