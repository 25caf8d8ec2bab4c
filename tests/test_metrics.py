from __future__ import annotations

import math

import pytest

from conformance.cases.metrics import METRICS, Metric, exact, telling

SHOWN = [
    ("top1", 0.76234, "0.7623"),
    ("mcnemar_p", 0.021484375, "0.0215"),
    ("top1_of_fp32", 0.99634, "0.9963"),
    ("images", 50_000.0, "50,000"),
    ("throughput_images_per_s", 105.47, "105.5 images/s"),
    ("throughput_images_per_s", 12_950.4, "12,950 images/s"),
    ("latency_p50_s", 0.009481, "9.481 ms"),
    ("spread", 0.1234, "12.3 %"),
    ("native_share", 1.0, "100.0 %"),
    ("achieved_flop_per_s", 336.2e9, "336 GFLOP/s"),
    ("ceiling_flop_per_s", 14.36e12, "14.4 TFLOP/s"),
    ("speedup_over_fp32", 1.7, "1.700"),
    ("final_loss", 8.442491, "8.4425"),
    ("loss_drop", -0.052, "-5.2 %"),
    ("loss_trend_tau", -0.8125, "-0.812"),
    ("training_images_per_s", 10.04, "10.0 images/s"),
    ("resident_growth_bytes", 1.25e7, "12.5 MB"),
    ("global_images_per_s", 1234.56, "1,234.6 images/s"),
    ("scaling_efficiency", 0.954, "95.4 %"),
    ("allreduce_share", 0.031, "3.1 %"),
    ("rank_skew", 0.02, "2.0 %"),
    ("straggler_share", 0.5, "50.0 %"),
    ("weights_differ", 2.0, "2"),
]


@pytest.mark.parametrize(("metric", "value", "text"), SHOWN)
def test_a_metric_is_shown_with_its_unit(metric: str, value: float, text: str) -> None:
    assert METRICS[metric].show(value) == text


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_shown_with_a_unit_has_it_in_its_name(metric: Metric) -> None:
    shown = metric.show(0.5)
    unit = shown.partition(" ")[2]
    suffix = {"images/s": "_images_per_s", "ms": "_s", "GFLOP/s": "_flop_per_s", "MB": "_bytes", "%": "", "": ""}[unit]
    assert metric.name.endswith(suffix)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_metric_can_be_nan_or_infinite_and_only_a_difference_or_a_trend_negative(metric: Metric) -> None:
    assert metric.is_possible(1.0)
    assert not any(metric.is_possible(value) for value in (math.nan, math.inf, -math.inf))
    signed = metric.name in ("top1_below_fp32", "loss_drop", "loss_trend_tau")
    assert {metric.is_possible(value) for value in (-1.0, -5e-324)} == {signed}


@pytest.mark.parametrize(
    ("metric", "least", "words"),
    [
        ("top1", 0.0, "0 to 1"),
        ("spread", 0.0, "at least 0"),
        ("images", 1.0, "at least 1"),
        ("latency_p99_s", 5e-324, "above 0"),
        ("throughput_images_per_s", 5e-324, "above 0"),
    ],
)
def test_the_least_possible_value_is_told_in_words(metric: str, least: float, words: str) -> None:
    assert METRICS[metric].is_possible(least)
    assert not METRICS[metric].is_possible(math.nextafter(least, -1))
    assert METRICS[metric].range == words


@pytest.mark.parametrize(
    ("value", "limit", "told"),
    [
        (0.7612, 0.762, False),
        (0.762, 0.762, False),
        (0.76199, 0.762, True),
        (0.76204, 0.762051, True),
        (math.nextafter(0.762, 0), 0.762, True),
    ],
)
def test_every_digit_is_shown_where_rounding_would_hide_a_difference(value: float, limit: float, told: bool) -> None:
    show = telling(METRICS["top1"].show, value, limit)
    assert (show is exact) is told
    assert (show(value) == show(limit)) is (value == limit)
