from __future__ import annotations

import math
import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from conformance.errors import SubjectFailed
from conformance.judging.statistics import (
    images_to_decide,
    mcnemar,
    paired_difference,
    percentile,
    ratio_interval,
    share_difference,
    summary,
    wilson,
)

# Newcombe, Statistics in Medicine 17 (1998), table I, method 3, to four decimals.
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 2, 3, 50, 101])
def test_percentiles_are_those_of_numpy(n: int, share: float) -> None:
    values = random.Random(n).choices(range(1000), k=n)
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_a_summary_is_of_the_mean_and_the_percentiles() -> None:
    found = summary([0.1, 0.2, 0.3, 0.4, 0.5], batch_size=3)
    assert found == pytest.approx(
        {
            "throughput_images_per_s": 10.0,
            "latency_mean_s": 0.3,
            "latency_p50_s": 0.3,
            "latency_p90_s": 0.46,
            "latency_p95_s": 0.48,
            "latency_p99_s": 0.496,
            "spread": 0.2 / 0.3,
        }
    )


def test_a_single_step_has_no_spread() -> None:
    found = summary([0.25], batch_size=1)
    assert (found["latency_p99_s"], found["spread"], found["throughput_images_per_s"]) == (0.25, 0.0, 4.0)


def test_equal_steps_have_exactly_no_spread() -> None:
    assert summary([0.1] * 7, batch_size=1)["spread"] == 0.0


def test_an_empty_series_has_no_numbers() -> None:
    assert summary([], batch_size=32) == {}


@pytest.mark.parametrize(("wrong", "shown"), [(0.0, "0.0"), (-0.1, "-0.1"), (math.nan, "nan"), (math.inf, "inf")])
def test_an_impossible_duration_is_told_with_its_step(wrong: float, shown: str) -> None:
    with pytest.raises(SubjectFailed) as error:
        summary([0.1, wrong, 0.1], batch_size=32)
    assert error.value.message == f"Step 1 is {shown}; only positive numbers are possible."


@pytest.mark.parametrize(("successes", "n", "low", "high"), NEWCOMBE)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5.1e-5)


# Newcombe, Statistics in Medicine 17 (1998) on differences of independent shares, table II, method 10.
@pytest.mark.parametrize(
    ("first", "n", "second", "m", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0000),
    ],
)
def test_the_difference_of_two_shares_has_the_published_interval(
    first: int, n: int, second: int, m: int, low: float, high: float
) -> None:
    assert share_difference(second, m, first, n) == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize(
    ("n", "points"),
    [(500, 3.72), (1_000, 2.63), (2_000, 1.86), (5_000, 1.18), (10_000, 0.83), (50_000, 0.37)],
)
def test_half_a_wilson_interval_is_what_a_subset_can_prove(n: int, points: float) -> None:
    low, high = wilson(round(0.7646 * n), n)
    assert 100 * (high - low) / 2 == pytest.approx(points, abs=0.011)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 100), (100, 100), (37, 91), (38_230, 50_000)])
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 7, 1797, 50_000])
def test_none_and_all_right_end_exactly_at_zero_and_one(n: int) -> None:
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 1.0


def test_of_no_images_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(2, 1), (-1, 5), (0, -1)])
def test_more_successes_than_images_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"^{successes} successes of {n}$"):
        wilson(successes, n)


def bits(b: int, c: int, both: int = 0, neither: int = 0) -> tuple[list[int], list[int]]:
    return [1] * b + [0] * c + [1] * both + [0] * neither, [0] * b + [1] * c + [1] * both + [0] * neither


def exact_p(b: int, c: int) -> Fraction:
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return min(Fraction(1), Fraction(2 * tail, 2 ** (b + c)))


# 150 and 86 are the discordant pairs of Agresti, Categorical Data Analysis: approval of a prime minister.
@pytest.mark.parametrize(("b", "c"), [(1, 9), (9, 1), (0, 5), (5, 5), (4, 5), (0, 1), (150, 86), (121, 59)])
def test_mcnemar_is_the_exact_sign_test_on_discordant_images(b: int, c: int) -> None:
    found = mcnemar(*bits(b, c, both=40, neither=3))
    assert (found.b, found.c) == (b, c)
    assert found.p == pytest.approx(float(exact_p(b, c)), rel=1e-12)


def test_one_against_nine_is_22_of_1024() -> None:
    assert mcnemar(*bits(1, 9)).p == 22 / 1024


def test_mcnemar_agrees_with_scipy_on_many_images() -> None:
    from scipy.stats import binomtest

    assert mcnemar(*bits(790, 710, both=48_500)).p == pytest.approx(binomtest(790, 1500).pvalue, rel=1e-9)


@pytest.mark.parametrize(("lost", "gained", "n"), [(0.01, 0.01, 364), (0.03, 0.01, 500), (0.0, 0.004, 1000)])
def test_the_paired_interval_holds_the_true_difference_in_19_of_20_samples(lost: float, gained: float, n: int) -> None:
    draws = np.random.default_rng(0).multinomial(n, [lost, gained, 1 - lost - gained], size=4000)
    intervals = [paired_difference(int(b), int(c), n) for b, c, _ in draws]
    assert np.mean([low <= gained - lost <= high for low, high in intervals]) >= 0.945


def test_two_models_that_never_differ_are_not_proven_equal() -> None:
    low, high = paired_difference(0, 0, 364)
    assert low == -high and 0.005 < high < 0.01
    assert paired_difference(3, 9, 500) == pytest.approx(tuple(-x for x in reversed(paired_difference(9, 3, 500))))


@pytest.mark.parametrize(("n", "points"), [(500, 1.52), (2000, 0.76), (10_000, 0.34), (50_000, 0.15)])
def test_the_paired_interval_is_as_wide_as_a_subset_makes_it(n: int, points: float) -> None:
    low, high = paired_difference(round(0.015 * n), round(0.015 * n), n)
    assert 100 * high == pytest.approx(points, rel=0.12)


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 5), (0, 0, 0), (3, 3, 5)])
def test_impossible_paired_counts_have_no_interval(b: int, c: int, n: int) -> None:
    with pytest.raises(ValueError):
        paired_difference(b, c, n)


@pytest.mark.parametrize(("b", "c", "n", "limit"), [(4, 3, 364, -0.01), (0, 0, 100, -0.005), (30, 3, 1000, -0.02)])
def test_the_images_that_decide_do_and_a_twentieth_less_do_not(b: int, c: int, n: int, limit: float) -> None:
    needed = images_to_decide(b, c, n, limit)
    assert needed is not None and needed > n

    def straddles(images: int) -> bool:
        low, high = paired_difference(b * images / n, c * images / n, images)
        return low <= limit <= high

    assert straddles(n) and straddles(int(0.95 * needed)) and not straddles(needed)


def test_no_number_of_images_decides_what_lies_on_the_limit() -> None:
    assert images_to_decide(10, 0, 1000, -0.01) is None


def test_equal_models_do_not_differ() -> None:
    assert mcnemar([1, 0, 1], [1, 0, 1]) == (0, 0, 1.0)
    assert mcnemar([], []) == (0, 0, 1.0)


def test_bits_of_different_images_are_not_compared() -> None:
    with pytest.raises(SubjectFailed) as error:
        mcnemar([1, 0, 1], [1, 0])
    assert error.value.message == ("Two subjects report 3 and 2 correctness bits; a pair needs as many of each.")
    assert "same images" in error.value.hint


def noisy(n: int, centre: float, seed: int = 1) -> tuple[list[float], list[float]]:
    draw = random.Random(seed)
    slow = [100 * draw.lognormvariate(0, 0.02) for _ in range(n)]
    return [centre * value * draw.lognormvariate(0, 0.02) for value in slow], slow


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10, 30])
def test_an_interval_holds_the_median_and_the_truth(n: int) -> None:
    found = ratio_interval(*noisy(n, centre=1.7), seed=0)
    assert found.low is not None and found.high is not None
    assert found.low <= found.median <= found.high
    assert found.low < 1.7 < found.high


def test_a_bootstrap_interval_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    fast, slow = noisy(20, centre=1.3)
    ratios = [one / other for one, other in zip(fast, slow, strict=True)]
    theirs = bootstrap((ratios,), np.median, method="percentile", rng=np.random.default_rng(5))
    found = ratio_interval(fast, slow, seed=0)
    interval = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.003)


def test_three_pairs_give_students_interval_of_the_logarithms() -> None:
    found = ratio_interval([1.0, math.e, math.e**2], [1.0, 1.0, 1.0])
    half = 4.302653 / math.sqrt(3)
    assert found == pytest.approx((math.e, math.exp(1 - half), math.exp(1 + half)), rel=1e-6)


@pytest.mark.parametrize("n", [3, 4])
def test_few_pairs_are_not_too_sure(n: int) -> None:
    missed = 0
    for seed in range(300):
        found = ratio_interval(*noisy(n, centre=1.0, seed=seed))
        missed += not (found.low or 0) <= 1.0 <= (found.high or 0)
    assert missed <= 30  # 5 % are due, 10 % would be too sure


def test_the_same_seed_gives_the_same_interval() -> None:
    pairs = noisy(40, centre=1.1)
    assert ratio_interval(*pairs, seed=4) == ratio_interval(*pairs, seed=4)
    assert len({ratio_interval(*pairs, seed=seed) for seed in range(20)}) > 1


@pytest.mark.parametrize("n", [2, 5, 6, 12])
def test_equal_ratios_have_an_interval_of_no_width(n: int) -> None:
    assert ratio_interval([3.0] * n, [2.0] * n) == pytest.approx((1.5, 1.5, 1.5), rel=1e-15)


def test_one_pair_has_no_interval() -> None:
    assert ratio_interval([3.0], [2.0]) == (1.5, None, None)


@pytest.mark.parametrize(
    ("numerators", "denominators", "message"),
    [
        ([], [], "There are 0 pairs to compare; at least 1 is needed."),
        ([1.0, 2.0], [1.0], "Two subjects report 2 and 1 measurements; a pair needs as many of each."),
        ([1.0], [0.0], "Measurement 1 is 0.0; only positive numbers are possible."),
        ([math.nan], [1.0], "Measurement 0 is nan; only positive numbers are possible."),
    ],
)
def test_pairs_that_cannot_be_compared_are_told(
    numerators: list[float], denominators: list[float], message: str
) -> None:
    with pytest.raises(SubjectFailed) as error:
        ratio_interval(numerators, denominators)
    assert error.value.message == message


def test_importing_the_judges_imports_nothing_heavy() -> None:
    code = (
        "import sys, conformance.judging.verdicts, conformance.judging.noise, conformance.judging.statistics,"
        " conformance.judging.exit_status;"
        "print(*sorted({'numpy', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
