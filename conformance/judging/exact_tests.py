"""Exact tests of ranks, also where values are equal: the distribution of a sum of ranks is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 1000


def attainable(n: int, other: int | None = None) -> float:
    """Return the least two-sided p of ``n`` pairs (signed ranks), or of two samples of these sizes (rank sum).

    >>> attainable(6), round(attainable(6, 6), 5)
    (0.03125, 0.00216)
    """
    ways = 2**n if other is None else math.comb(n + other, n)
    return min(1.0, 2 / ways)


def least_pairs(alpha: float) -> int:
    """Return how many pairs a test at ``alpha`` takes, by whichever of the two tests takes fewer.

    >>> least_pairs(0.016), least_pairs(0.004)
    (5, 6)
    """
    return next(n for n in range(1, MOST) if attainable(n, n) <= alpha)


def least_repeats(alpha: float, base: int, paired: bool) -> str:
    """Say how many repeats a test at ``alpha`` takes: of each side for pairs, else beside so many of the base.

    >>> least_repeats(0.01, 3, True), least_repeats(0.01, 6, False), least_repeats(0.01, 1, False)
    ('which takes 5 pairs', 'which takes 4 repeats', 'which takes 5 repeats of the base too')
    """
    both = least_pairs(alpha)
    if paired:
        return f"which takes {both} pairs"
    enough = next((n for n in range(1, MOST) if attainable(base, n) <= alpha), MOST)
    return (
        f"which takes {enough} repeats" if enough <= max(base, both) else f"which takes {both} repeats of the base too"
    )


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test: every pattern of signs is as likely as any other.

    Differences of 0 have the sign of none and count nothing. Ranks of equal sizes are means.
    """
    ranks = doubled_ranks([abs(difference) for difference in differences])
    signed = [rank for rank, difference in zip(ranks, differences, strict=True) if difference != 0]
    above = sum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    return _two_sided(_sums(signed, None), above)


def rank_sum_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of the test of Wilcoxon, Mann and Whitney: every choice of who is first is as likely."""
    ranks = doubled_ranks([*first, *second])
    return _two_sided(_sums(ranks, len(first)), sum(ranks[: len(first)]))


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value, which is whole for equal ones too."""
    ordered = sorted(values)
    first = {value: index for index, value in reversed(list(enumerate(ordered, start=1)))}
    last = {value: index for index, value in enumerate(ordered, start=1)}
    return [first[value] + last[value] for value in values]


def _sums(ranks: Sequence[int], size: int | None) -> Sequence[float]:
    """Return in how many ways each sum comes about: of ``size`` of the ranks, or of any number of them for None."""
    import numpy as np

    ways = np.zeros((1 if size is None else size + 1, sum(ranks) + 1))
    ways[0, 0] = 1.0
    for rank in ranks:
        moved = ways[:, :-rank].copy()
        if size is None:
            ways[:, rank:] += moved
        else:
            ways[1:, rank:] += moved[:-1]
    found: list[float] = ways[-1].tolist()
    return found


def _two_sided(ways: Sequence[float], observed: int) -> float:
    """Return twice the smaller tail of an exact distribution, which is symmetric."""
    return min(1.0, 2 * min(sum(ways[: observed + 1]), sum(ways[observed:])) / sum(ways))
