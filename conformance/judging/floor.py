"""The noise floor: by how much a case differs from itself, and the smallest change that N repeats can show beside it.

A change of size d is shown by N repeats when a two-sided t test, at the metric's share of the gate's ``ALPHA``, finds
it in ``POWER`` of all trials (Cohen 1988, Statistical Power Analysis, chapter 2). The gate's tests of ranks need about
as many, and show nothing where they are too few for any p that is small enough. The noise is the standard deviation of
logarithms: of the ratios of pairs where repeats take turns, of the values of a side where they do not. Runs of
different days differ by more than the repeats of one, which no calibration of one day can know.

A floor knows no limit. What a comparison says of itself (`change.detectable`) is never less than the slow-down that is
allowed, for there the median must be beyond it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import msgspec

from conformance.cases.metrics import METRICS
from conformance.judging.change import ALPHA, POWER, gate_metrics, share_of_alpha
from conformance.judging.exact_tests import attainable

REPEATS = range(3, 31)
MOST_REPEATS = 10_000


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one metric of a case showed beside itself, on one machine with one stack.

    ``pair_sd`` is the standard deviation of the logarithms of the pairs' ratios, ``side_sd`` that of the values of one
    side; 95 % of the pairs were within ``ratio_95`` of equal. ``detectable`` holds the smallest change that 3, 4, .. 30
    pairs can show, as shares; None where these are too few.
    """

    metric: str
    pairs: int
    pair_sd: float
    side_sd: float
    ratio_95: float
    detectable: tuple[float | None, ...]


def floor(metric: str, base: Sequence[float], new: Sequence[float], alpha: float = ALPHA) -> Floor:
    """Return the noise floor of 2 pairs or more of positive values of the same thing, judged at ``alpha``."""
    from conformance.judging.statistics import percentile

    logs = [math.log(other / one) for one, other in zip(base, new, strict=True)]
    pair_sd = _sd([logs])
    shown = [detectable(pair_sd, repeats, alpha=alpha) for repeats in REPEATS]
    return Floor(
        metric=metric,
        pairs=len(logs),
        pair_sd=pair_sd,
        side_sd=_sd([[math.log(value) for value in side] for side in (base, new)]),
        ratio_95=percentile([abs(math.expm1(log)) for log in logs], 0.95),
        detectable=tuple(share if math.isfinite(share) else None for share in shown),
    )


def limiting(floors: Sequence[Floor]) -> Iterator[tuple[Floor, float]]:
    """Yield the floors of a case below which a gate cannot decide, each with its metric's share of the error.

    They are those of the speeds that decide: what is watched leaves nothing undecided, and an accuracy has a limit of
    its own, whatever slow-down is allowed.
    """
    names = gate_metrics({floor.metric: floor for floor in floors})
    for floor in floors:
        if floor.metric in names and METRICS[floor.metric].gate == "decides" and METRICS[floor.metric].speed:
            yield floor, share_of_alpha(floor.metric, names)


def detectable(sd: float, repeats: int, *, beside: int | None = None, alpha: float = ALPHA) -> float:
    """Return the smallest change, as a share, that so many repeats can show above noise of ``sd``.

    They are pairs, or stand ``beside`` so many of an earlier run. Infinite where the gate has no test for so few.

    >>> f"{detectable(0.02, 10, beside=10, alpha=0.05):.3f}", f"{detectable(0.02, 10, alpha=0.05):.3f}"
    ('0.027', '0.020')
    """
    if attainable(repeats if beside is None else beside, repeats) > alpha:
        return math.inf
    return math.expm1(sd * _effect(repeats, beside, alpha))


def repeats_needed(sd: float, change: float, *, beside: int | None = None, alpha: float = ALPHA) -> int | None:
    """Return how many repeats can show a change, from 3 on; None where ten thousand cannot."""
    return _fewest(lambda repeats: detectable(sd, repeats, beside=beside, alpha=alpha) <= change)


def refusal(
    case: str, floor: Floor, max_slowdown: float, repeats: int, *, beside: int | None = None, alpha: float = ALPHA
) -> str | None:
    """Say why a gate asks for more than its repeats can show, and how many would do; None where it does not.

    They are pairs, or stand ``beside`` so many of an earlier run.
    """
    sd = floor.pair_sd if beside is None else floor.side_sd
    shown = detectable(sd, repeats, beside=beside, alpha=alpha)
    if shown <= max_slowdown:
        return None
    needed = repeats_needed(sd, max_slowdown, beside=beside, alpha=alpha)
    would_do = "" if needed is None else f"it would take {needed:,}."
    if needed is None and beside is not None:
        both = _fewest(lambda number: detectable(sd, number, beside=number, alpha=alpha) <= max_slowdown)
        would_do = "" if both is None else f"it would take {both:,} of both."
    can = f"can show {100 * shown:.1f} %" if math.isfinite(shown) else "can show nothing"
    return (
        f"--max-slowdown {100 * max_slowdown:g}% is below the noise floor of {case!r}: {METRICS[floor.metric].label} "
        f"differs by {100 * math.expm1(sd):.1f} % from itself here ({floor.pairs} pairs), and {repeats} "
        f"{'repeat' if repeats == 1 else 'repeats'}{'' if beside is None else f' beside {beside} of the baseline'} "
        f"{can}; {would_do or f'more than {MOST_REPEATS:,} would be needed.'}"
    )


def _fewest(show: Callable[[int], bool]) -> int | None:
    """Return the fewest repeats that show something, which then all greater numbers do."""
    if not show(MOST_REPEATS):
        return None
    least, most = REPEATS[0] - 1, MOST_REPEATS
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if show(middle) else (middle, most)
    return most


def _sd(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation within groups, each about its own mean."""
    from statistics import fmean

    squares = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / sum(len(group) - 1 for group in groups))


@cache
def _effect(repeats: int, beside: int | None, alpha: float) -> float:
    """Return the shift, in standard deviations, that a two-sided t test finds with ``POWER``.

    Significant on the wrong side is no finding. It is also too rare to count, and SciPy has NaN for it.
    """
    from scipy.special import nctdtr, stdtrit

    freedom = repeats - 1 if beside is None else repeats + beside - 2
    scale = math.sqrt(repeats if beside is None else repeats * beside / (repeats + beside))
    limit = float(stdtrit(freedom, 1 - alpha / 2))
    least, most = 0.0, 100.0
    while most - least > 1e-6:
        middle = (least + most) / 2
        missed = float(nctdtr(freedom, middle * scale, limit))
        least, most = (middle, most) if missed > 1 - POWER else (least, middle)
    return most
