"""Is it slower? What counts as a change, what is too little to say, and what cannot be compared."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import median

import pytest
from scipy import stats

from conformance.cases.metrics import METRICS
from conformance.judging.answers import judge_answers
from conformance.judging.change import (
    ALPHA,
    WATCHED_ALPHA,
    judge_change,
    judge_changes,
    share_of_alpha,
    verdict_of,
)
from conformance.judging.exact_tests import attainable, rank_sum_p, signed_rank_p
from conformance.judging.pairs import Pairs
from conformance.judging.sequential import Sequential
from conformance.records import Change

SPEED, TIME = "throughput_images_per_s", "latency_p50_s"


def noisy(middle: float, count: int, seed: int, noise: float = 0.01) -> list[float]:
    draws = random.Random(seed)
    return [middle * math.exp(draws.gauss(0, noise)) for _ in range(count)]


# Exact tests


@pytest.mark.parametrize("n", [1, 2, 6, 13, 25])
def test_the_signed_rank_test_is_scipys(n: int) -> None:
    for seed in range(5):
        draws = random.Random(seed)
        differences = [draws.gauss(0.3, 1) for _ in range(n)]
        assert signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 3), (6, 6), (5, 9), (20, 20)])
def test_the_rank_sum_test_is_scipys(m: int, n: int) -> None:
    for seed in range(5):
        first, second = noisy(1.0, m, seed), noisy(1.01, n, seed + 100)
        assert rank_sum_p(first, second) == pytest.approx(stats.mannwhitneyu(first, second, method="exact").pvalue)


def by_enumeration(differences: Sequence[float]) -> float:
    ranks = stats.rankdata([abs(one) for one in differences]) * [one != 0 for one in differences]
    patterns = list(itertools.product([0, 1], repeat=len(ranks)))
    sums = [sum(rank * sign for rank, sign in zip(ranks, signs, strict=True)) for signs in patterns]
    observed = sum(rank for rank, one in zip(ranks, differences, strict=True) if one > 0)
    low = sum(total <= observed for total in sums)
    return min(1.0, 2 * min(low, sum(total >= observed for total in sums)) / len(sums))


@pytest.mark.parametrize(
    "differences", [(1, 1, 1, 1), (1, 2, 2, -2, 3), (0, 0, 1, 5, 5), (0, 0), (-1, 1), (4, 4, -4, 9)]
)
def test_equal_differences_share_their_ranks(differences: tuple[float, ...]) -> None:
    assert signed_rank_p(differences) == pytest.approx(by_enumeration(differences))


@pytest.mark.parametrize(("first", "second"), [((1, 1, 2), (1, 2, 2)), ((1, 1), (1, 1)), ((1, 2, 3, 3), (3, 4, 5, 5))])
def test_equal_values_of_two_samples_share_their_ranks(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    ranks = list(stats.rankdata([*first, *second]))
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(first))]
    observed = sum(ranks[: len(first)])
    tails = sum(one <= observed for one in sums), sum(one >= observed for one in sums)
    assert rank_sum_p(first, second) == pytest.approx(min(1.0, 2 * min(tails) / len(sums)))


def test_the_least_p_is_that_of_a_perfect_order() -> None:
    assert attainable(7) == signed_rank_p([1, 2, 3, 4, 5, 6, 7])
    assert attainable(6, 6) == pytest.approx(rank_sum_p(range(6), range(6, 12)))
    assert attainable(6, 6) == pytest.approx(0.00216, abs=1e-5) and attainable(5, 5) == pytest.approx(0.0079, abs=1e-4)


# One look


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("metric", [SPEED, TIME, "training_images_per_s"])
def test_6_against_6_with_a_50_percent_slow_down_is_regressed(metric: str, paired: bool) -> None:
    slower = 1.5 if METRICS[metric].better == "lower" else 1 / 1.5
    base, new = noisy(100.0, 6, 1), noisy(100.0 * slower, 6, 2)
    change = judge_change(metric, base, new, paired=paired)
    assert change.verdict == "regressed" and change.p == pytest.approx(0.00216, abs=1e-5)
    assert judge_change(metric, new, base, paired=paired).verdict == "improved"


@pytest.mark.parametrize(
    ("metric", "verdict"), [(SPEED, "improved"), (TIME, "regressed"), ("ceiling_share", "improved")]
)
def test_the_registry_says_which_way_is_better(metric: str, verdict: str) -> None:
    base, new = noisy(0.3, 12, 1), noisy(0.36, 12, 2)
    assert judge_change(metric, base, new, paired=True).verdict == verdict
    assert judge_change(metric, base, new, paired=False).verdict == verdict


def test_the_ratio_is_the_median_of_the_pairs_and_lies_in_its_interval() -> None:
    base, new = noisy(0.1, 15, 1, 0.3), noisy(0.11, 15, 2, 0.02)
    change = judge_change(TIME, base, new, paired=True)
    assert change.ratio == pytest.approx(median(n / b for b, n in zip(base, new, strict=True)))
    assert change.interval is not None and change.interval[0] <= change.ratio <= change.interval[1]
    assert (change.base, change.new) == (median(base), median(new))
    assert (change.base_values, change.new_values) == (tuple(base), tuple(new))
    unpaired = judge_change(TIME, base, new, paired=False)
    assert unpaired.ratio == pytest.approx(median(new) / median(base))


def test_a_ratio_of_speeds_is_new_over_base_and_its_interval_is_in_order() -> None:
    change = judge_change(SPEED, noisy(100.0, 12, 1), noisy(90.0, 12, 2), paired=True)
    assert change.ratio == pytest.approx(0.9, abs=0.02) and change.interval is not None
    assert change.interval[0] <= change.ratio <= change.interval[1] < 0.95


def test_what_pairs_share_does_not_count() -> None:
    """A machine that drifts by a half, on which one side is always 5 % slower."""
    base = [0.1 * (1 + 0.05 * step) for step in range(12)]
    new = [value * 1.05 * math.exp(x) for value, x in zip(base, noisy(0.001, 12, 3), strict=True)]
    assert judge_change(TIME, base, new, paired=True).verdict == "regressed"
    assert judge_change(TIME, base, new, paired=False).verdict == "inconclusive"


def test_a_change_needs_size_and_significance() -> None:
    small = judge_change(TIME, noisy(0.1, 20, 1, 0.002), noisy(0.102, 20, 2, 0.002), paired=True)
    assert small.verdict == "same" and small.p is not None and small.p < 1e-5
    few = judge_change(TIME, noisy(0.1, 3, 1), noisy(0.15, 3, 2), paired=True)
    assert few.verdict == "inconclusive" and few.p is None
    wild = judge_change(TIME, noisy(0.1, 8, 1, 0.5), noisy(0.12, 8, 2, 0.5), paired=True)
    assert wild.verdict == "inconclusive" and wild.p is not None and wild.p > ALPHA


def test_the_allowed_slow_down_is_the_limit() -> None:
    base, new = noisy(0.1, 20, 1, 0.002), noisy(0.105, 20, 2, 0.002)
    assert judge_change(TIME, base, new, paired=True, max_slowdown=0.03).verdict == "regressed"
    assert judge_change(TIME, base, new, paired=True, max_slowdown=0.10).verdict == "same"


def test_an_accuracy_has_a_limit_of_its_own() -> None:
    base, new = noisy(0.76, 20, 1, 0.001), noisy(0.75, 20, 2, 0.001)
    change = judge_change("top1", base, new, paired=True, max_slowdown=0.2)
    assert change.verdict == "regressed" and change.allowed == 0.01


@pytest.mark.parametrize(("count", "told"), [(1, "takes 5 pairs"), (4, "takes 5 pairs")])
def test_too_few_pairs_say_how_many_would_do(count: int, told: str) -> None:
    change = judge_change(TIME, noisy(0.1, count, 1), noisy(0.2, count, 2), paired=True)
    assert change.verdict == "inconclusive" and told in change.text
    assert judge_change(TIME, noisy(0.1, 5, 1), noisy(0.2, 5, 2), paired=True).verdict == "regressed"


@pytest.mark.parametrize(
    ("base", "new", "told"),
    [
        (6, 2, "which takes 4 repeats"),
        (3, 3, "which takes 5 repeats of the base too"),
        (1, 9, "which takes 5 repeats of the base too"),
    ],
)
def test_too_few_repeats_beside_an_earlier_run_say_how_many_would_do(base: int, new: int, told: str) -> None:
    change = judge_change(TIME, noisy(0.1, base, 1), noisy(0.2, new, 2), paired=False)
    assert change.verdict == "inconclusive" and told in change.text, change.text


def test_an_undecided_change_says_about_how_many_repeats_would_do() -> None:
    change = judge_change(TIME, noisy(0.1, 10, 1, 0.05), noisy(0.1, 10, 3, 0.05), paired=True)
    assert change.verdict == "inconclusive"
    assert 10 < int(change.text.partition("; about ")[2].split()[0]) <= 200, change.text
    assert change.detectable is not None and 0.03 < change.detectable < 0.2


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("metric", "value"),
    [(TIME, math.nan), (TIME, math.inf), (TIME, 0.0), (TIME, -0.1), (SPEED, -math.inf), ("top1", 1.5), ("top1", 0.0)],
)
def test_what_is_impossible_is_invalid_and_never_a_traceback(
    metric: str, value: float, paired: bool, side: int
) -> None:
    sides = [[0.1] * 6, [0.1] * 6]
    sides[side][3] = value
    change = judge_change(metric, *sides, paired=paired)
    name = ("base", "new")[side]
    assert change.verdict == "invalid" and f"is {value!r} in repeat 4 of the {name} side; possible is" in change.text
    assert change.ratio is None and all(map(math.isfinite, change.base_values + change.new_values))


@pytest.mark.parametrize(
    ("base", "new", "told"), [((), (0.1,), "from the base side"), ((0.1,), (), "from the new side")]
)
def test_a_metric_of_one_side_is_invalid(base: tuple[float, ...], new: tuple[float, ...], told: str) -> None:
    change = judge_change(TIME, base, new, paired=False)
    assert change.verdict == "invalid" and change.text == f"median time a batch is missing {told}."


def test_pairs_of_which_one_is_missing_are_invalid() -> None:
    change = judge_change(TIME, [0.1] * 6, [0.1] * 5, paired=True)
    assert (change.verdict, change.text) == (
        "invalid", "median time a batch has 6 repeats of the base and 5 new ones: no pairs.",
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["images", "no_such_metric"])
def test_a_metric_without_a_direction_is_invalid(metric: str) -> None:
    change = judge_change(metric, [1.0], [2.0], paired=True)
    assert change.verdict == "invalid" and metric in change.text


def test_equal_values_are_the_same_however_few() -> None:
    change = judge_change("top1", [0.98] * 3, [0.98] * 3, paired=True)
    assert (change.verdict, change.ratio, change.interval) == ("same", 1.0, (1.0, 1.0))


# All metrics of a case


def test_all_metrics_of_a_gates_business_are_compared_and_no_other() -> None:
    values = {SPEED: [9.0] * 6, TIME: [0.1] * 6, "spread": [0.1] * 6, "latency_p99_s": [0.2] * 6, "native_share": [1.0]}
    changes = judge_changes(values, values, paired=True)
    assert [change.metric for change in changes] == [TIME, SPEED, "latency_p99_s"]
    assert {change.verdict for change in changes} == {"same"}


def test_a_metric_that_came_or_went_is_invalid() -> None:
    base, new = {TIME: [0.1] * 6, SPEED: [9.0] * 6}, {TIME: [0.1] * 6, "latency_p99_s": [0.2] * 6}
    found = {change.metric: change.verdict for change in judge_changes(base, new, paired=True)}
    assert found == {TIME: "same", SPEED: "invalid", "latency_p99_s": "invalid"}


def test_metrics_share_the_error() -> None:
    names = (TIME, SPEED, "latency_p90_s", "latency_p99_s")
    assert share_of_alpha(TIME, names) == ALPHA and share_of_alpha(SPEED, names) == WATCHED_ALPHA / 3
    assert (ALPHA + WATCHED_ALPHA) / 2 <= 0.01


def change(metric: str, verdict: str) -> Change:
    return Change(metric=metric, verdict=verdict, text=f"{metric} {verdict}.")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({TIME: "same", SPEED: "inconclusive"}, "same"),
        ({TIME: "same", SPEED: "regressed"}, "regressed"),
        ({TIME: "same", SPEED: "invalid"}, "invalid"),
        ({TIME: "inconclusive", SPEED: "improved"}, "inconclusive"),
        ({TIME: "improved", SPEED: "same"}, "improved"),
        ({"top1": "same", "training_images_per_s": "inconclusive"}, "inconclusive"),
        ({SPEED: "same"}, "inconclusive"),
        ({}, "inconclusive"),
    ],
)
def test_the_deciding_metrics_decide_and_the_watched_ones_fail(found: dict[str, str], verdict: str) -> None:
    assert verdict_of([change(metric, word) for metric, word in found.items()])[0] == verdict


# Pair by pair


def pairs_of(seed: int, slower: float, noise: float, count: int = 20) -> list[tuple[float, float]]:
    """Pairs whose logarithms of ratios are of Student's t with 3 degrees of freedom, scaled to the noise given."""
    draws = random.Random(seed)
    t = [draws.gauss(0, 1) / math.sqrt(draws.gammavariate(1.5, 2) / 3) for _ in range(count)]
    return [(0.1, 0.1 * slower * math.exp(noise * x / math.sqrt(3))) for x in t]


def sequence(pairs: Sequence[tuple[float, float]], **options: float) -> tuple[str, int]:
    """Return the verdict on pairs that come one by one, and how many it took."""
    looking = Sequential(TIME, max_pairs=len(pairs), **options)  # type: ignore[arg-type]
    for taken, (base, new) in enumerate(pairs, start=1):
        found = looking.add(base, new)
        if found.verdict != "inconclusive":
            return found.verdict, taken
    return "inconclusive", len(pairs)


def test_a_large_change_is_decided_early_and_a_small_one_takes_longer() -> None:
    large, small = (sequence(pairs_of(1, slower, 0.03)) for slower in (1.5, 1.06))
    assert large[0] == small[0] == "regressed"
    assert large[1] <= 10 and large[1] <= small[1] <= 20
    assert sequence(pairs_of(1, 1 / 1.5, 0.03))[0] == "improved"


@pytest.mark.parametrize("alpha", [ALPHA, ALPHA / 2])
@pytest.mark.parametrize("count", range(3, 15))
def test_as_many_pairs_as_are_looked_at_first_are_judged_as_by_one_look(count: int, alpha: float) -> None:
    verdicts = []
    for seed in range(12):
        slower = (1.5, 1.0, 1.1)[seed % 3]
        base, new = noisy(0.1, count, seed, 0.05), noisy(0.1 * slower, count, seed + 100, 0.05)
        pairs = list(zip(base, new, strict=True))
        verdicts.append(sequence(pairs, first_look=count, alpha=alpha)[0])
        assert verdicts[-1] == judge_change(TIME, base, new, paired=True, alpha=alpha).verdict, seed
    assert ("regressed" in verdicts) == (count >= 5)


@pytest.mark.parametrize("alpha", [ALPHA, ALPHA / 2])
@pytest.mark.parametrize("most", range(5, 21))
def test_a_slow_down_by_half_is_found_however_few_pairs_there_may_be(most: int, alpha: float) -> None:
    assert sequence(list(zip(noisy(0.1, most, 1), noisy(0.15, most, 2), strict=True)), alpha=alpha)[0] == "regressed"


@pytest.mark.parametrize("most", [5, 6, 7, 10])
def test_few_pairs_that_are_looked_at_often_raise_no_more_false_alarms_than_one_look(most: int) -> None:
    """Of 400 equal pairs of sides, half with noise in common, half of ALPHA is 3.2: hardly ever are 10 regressed."""
    found = []
    for seed in range(400):
        draws = random.Random(f"equal {seed}")
        shared = [draws.gauss(0, 0.1 * (seed % 2)) for _ in range(most)]
        base, new = ([0.1 * math.exp(one + draws.gauss(0, 0.1)) for one in shared] for _ in range(2))
        found.append(sequence(list(zip(base, new, strict=True)), max_slowdown=1e-6)[0])
    false = found.count("regressed"), found.count("improved")
    assert max(false) < 10 and sum(false) > 0


def test_no_look_is_taken_before_the_first_that_was_asked_for() -> None:
    assert sequence(pairs_of(1, 1.5, 0.01), first_look=15)[1] >= 15


def test_looking_after_each_pair_raises_no_more_false_alarms_than_one_look() -> None:
    """Of equal sides, where any size counts, half of ALPHA is called regressed: 1 of 200, and hardly ever 6."""
    found = [sequence(pairs_of(seed, 1.0, 0.2), max_slowdown=1e-6)[0] for seed in range(200)]
    assert found.count("regressed") <= 5 and found.count("improved") <= 5


def test_a_pair_with_an_impossible_value_is_invalid() -> None:
    looking = Sequential(TIME)
    assert looking.add(0.1, 0.1).verdict == "inconclusive"
    assert looking.add(0.1, math.nan).verdict == "invalid"


def test_more_pairs_than_were_announced_are_refused() -> None:
    looking = Sequential(TIME, max_pairs=1)
    looking.add(0.1, 0.1)
    with pytest.raises(ValueError, match="2 pairs, and at most 1 were announced"):
        looking.add(0.1, 0.1)


def test_pairs_of_a_case_are_decided_when_all_that_decides_is() -> None:
    found = Pairs(0.03, repeats=1, max_repeats=20)
    for base, new in pairs_of(1, 1.2, 0.01):
        assert not found.decided or found.count == 0
        found.add({TIME: base, SPEED: 1 / base, "spread": 0.1}, {TIME: new, SPEED: 1 / new, "spread": 0.2})
        if found.decided:
            break
    assert 5 <= found.count <= 12
    assert [(one.metric, one.verdict) for one in found.changes()][0] == (TIME, "regressed")
    assert [one.metric for one in found.changes()] == [TIME, SPEED]


def test_a_metric_that_one_repeat_lacks_is_invalid() -> None:
    found = Pairs(0.03, repeats=2, max_repeats=None)
    found.add({TIME: 0.1, SPEED: 10.0}, {TIME: 0.1, SPEED: 10.0})
    found.add({TIME: 0.1, SPEED: 10.0}, {TIME: 0.1})
    assert {one.metric: one.verdict for one in found.changes()} == {TIME: "same", SPEED: "invalid"}


# The same images


def answers(right: int, wrong: int, images: int = 1000) -> list[bool]:
    """Right on the first images, except that ``wrong`` of these are wrong."""
    return [False] * wrong + [True] * (right - wrong) + [False] * (images - right)


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        (answers(900, 0), answers(900, 0), "same"),
        (answers(900, 0), answers(900, 2), "same"),
        (answers(900, 0), answers(900, 8), "inconclusive"),
        (answers(900, 0), answers(900, 50), "regressed"),
        (answers(900, 50), answers(900, 0), "improved"),
        (answers(900, 0), [False] * 1000, "regressed"),
        (answers(900, 0), answers(900, 0, 999), "invalid"),
        ([False] * 1000, answers(900, 0), "invalid"),
        ([], [], "invalid"),
    ],
)
def test_answers_are_compared_image_by_image(base: list[bool], new: list[bool], verdict: str) -> None:
    found = judge_answers(base, new)
    assert found.verdict == verdict, found.text
    if verdict != "invalid":
        assert found.base == sum(base) / 1000 and found.new == sum(new) / 1000
