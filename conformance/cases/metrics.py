"""The one registry of metrics: name, unit, which way is better, how it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

Better = Literal["higher", "lower", "neither"]
Gate = Literal["decides", "watched", "no"]

# Zero is not a rate or a duration: an "at most" band would take it for the best one.
POSITIVE = (math.nextafter(0.0, 1.0), math.inf)
SHARE = (0.0, 1.0)
SIGNED_SHARE = (-1.0, 1.0)


class Metric(NamedTuple):
    """A metric by its name, which ends in its unit unless it is a share or a count.

    ``possible`` holds the least and the greatest value that can be true, both included;
    ``speed`` says that the value depends on the machine and on how quiet it was.

    ``gate`` says what it is for a comparison with another stack or an earlier run: it ``decides``; it is ``watched``,
    which fails a case that is clearly worse and leaves none undecided; or it is no business of a gate. The median step
    decides and not the mean, because a neighbour's burst of a second moves the mean of a short series by a third.
    """

    name: str
    label: str
    better: Better
    show: Callable[[float], str]
    possible: tuple[float, float] = (0.0, math.inf)
    speed: bool = False
    gate: Gate = "no"

    def is_possible(self, value: float) -> bool:
        return math.isfinite(value) and self.possible[0] <= value <= self.possible[1]

    @property
    def range(self) -> str:
        """The possible values in words.

        >>> METRICS["top1"].range, METRICS["latency_p50_s"].range, METRICS["images"].range
        ('0 to 1', 'above 0', 'at least 1')
        >>> METRICS["loss_trend_tau"].range, METRICS["loss_drop"].range
        ('-1 to 1', 'at most 1')
        """
        low, high = self.possible
        if math.isinf(low):
            return f"at most {high:g}"
        if math.isfinite(high):
            return f"{low:g} to {high:g}"
        return "above 0" if low == POSITIVE[0] else f"at least {low:g}"


def share(value: float) -> str:
    """Show a share with the four decimals that the recipes print.

    >>> share(0.7623)
    '0.7623'
    """
    return f"{value:.4f}"


def p_value(value: float) -> str:
    """
    >>> p_value(0.0312), p_value(1e-12)
    ('0.0312', 'below 0.0001')
    """
    return "below 0.0001" if value < 0.0001 else share(value)


def percent(value: float) -> str:
    """
    >>> percent(0.954)
    '95.4 %'
    """
    return f"{100 * value:.1f} %"


def ratio(value: float) -> str:
    return f"{value:.3f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def images_per_s(value: float) -> str:
    return f"{value:,.1f} images/s" if value < 10_000 else f"{value:,.0f} images/s"


def milliseconds(value: float) -> str:
    """Show a duration in seconds as milliseconds.

    >>> milliseconds(0.009481)
    '9.481 ms'
    """
    return f"{1000 * value:.3f} ms"


def flop_per_s(value: float) -> str:
    """
    >>> flop_per_s(336.2e9)
    '336 GFLOP/s'
    """
    return f"{value / 1e9:,.0f} GFLOP/s" if value < 1e13 else f"{value / 1e12:,.1f} TFLOP/s"


def megabytes(value: float) -> str:
    """
    >>> megabytes(12_582_912)
    '12.6 MB'
    """
    return f"{value / 1e6:,.1f} MB"


def exact(value: float) -> str:
    return repr(float(value))


def telling(show: Callable[[float], str], value: float, limit: float) -> Callable[[float], str]:
    """Return ``show``, or ``exact`` where ``show`` would hide that a value is not its limit.

    >>> telling(share, 0.7612, 0.762)(0.7612), telling(share, 0.76199, 0.762)(0.76199)
    ('0.7612', '0.76199')
    """
    hidden = show(value) == show(limit) or show(abs(value - limit)) == show(0.0)
    return exact if hidden and value != limit else show


_ALL = (
    Metric("top1", "top-1", "higher", share, SHARE, gate="decides"),
    Metric("top5", "top-5", "higher", share, SHARE, gate="watched"),
    Metric("top1_of_fp32", "top-1 as share of fp32's", "higher", share),
    Metric("images", "images judged", "neither", count, (1.0, math.inf)),
    Metric("throughput_images_per_s", "throughput", "higher", images_per_s, POSITIVE, speed=True, gate="watched"),
    Metric("latency_mean_s", "mean time a batch", "lower", milliseconds, POSITIVE, speed=True),
    Metric("latency_p50_s", "median time a batch", "lower", milliseconds, POSITIVE, speed=True, gate="decides"),
    Metric("latency_p90_s", "p90", "lower", milliseconds, POSITIVE, speed=True, gate="watched"),
    Metric("latency_p95_s", "p95", "lower", milliseconds, POSITIVE, speed=True),
    Metric("latency_p99_s", "p99", "lower", milliseconds, POSITIVE, speed=True, gate="watched"),
    Metric("spread", "spread (IQR / median)", "lower", percent, speed=True),
    Metric("gap_share", "time between timed steps", "lower", percent, speed=True),
    Metric("achieved_flop_per_s", "achieved", "higher", flop_per_s, POSITIVE, speed=True),
    Metric("ceiling_flop_per_s", "ceiling (matrix product)", "higher", flop_per_s, POSITIVE, speed=True),
    Metric("ceiling_share", "share of the ceiling", "higher", percent, POSITIVE, speed=True, gate="watched"),
    Metric("native_share", "convolution work in the claimed type", "higher", percent, SHARE),
    Metric("speedup_over_fp32", "speed-up over fp32", "higher", ratio, POSITIVE, speed=True, gate="decides"),
    Metric("compute_share", "time spent computing", "higher", percent, SHARE, speed=True),
    Metric("mcnemar_p", "exact McNemar p against fp32", "neither", p_value, SHARE),
    Metric("top1_below_fp32", "top-1 below that of training in fp32", "lower", share, SIGNED_SHARE),
    Metric("seeds", "trainings, each of a seed of its own", "neither", count, (1.0, math.inf)),
    Metric("final_loss", "loss of the last step", "lower", share),
    Metric("loss_drop", "drop of the loss", "higher", percent, (-math.inf, 1.0)),
    Metric("loss_trend_tau", "trend of the loss (Kendall's tau)", "lower", ratio, SIGNED_SHARE),
    Metric("loss_trend_p", "Mann-Kendall p of the trend", "lower", p_value, SHARE),
    Metric("training_images_per_s", "training", "higher", images_per_s, POSITIVE, speed=True, gate="decides"),
    Metric("step_p99_over_p50", "p99 of a step over its median", "lower", ratio, POSITIVE, speed=True),
    Metric("wait_share", "time spent waiting for images", "lower", percent, SHARE, speed=True),
    Metric("resident_growth_bytes", "growth of memory", "lower", megabytes),
    Metric("global_images_per_s", "training, all ranks", "higher", images_per_s, POSITIVE, speed=True, gate="decides"),
    Metric("scaling_efficiency", "scaling efficiency", "higher", percent, POSITIVE, speed=True, gate="decides"),
    Metric("allreduce_share", "time of an allreduce, of a step's", "lower", percent, SHARE, speed=True),
    Metric("rank_skew", "slowest less fastest rank, of the median", "lower", percent, speed=True),
    Metric("straggler_share", "steps in which the same rank was the slowest", "lower", percent, SHARE, speed=True),
    Metric("loss_off_one_rank", "loss off that of one rank with all images", "lower", share),
    Metric("mlperf_misses", "rules of MLPerf that are missed", "lower", count),
    Metric("weights_differ", "ranks with other weights than rank 0", "lower", count),
    Metric("profiled_steps", "steps in the profile", "neither", count),
    Metric("export_agreement", "images of which the SavedModel says what the network said", "higher", percent, SHARE),
    Metric("frozen_changed", "weights below the head that fine-tuning changed", "lower", count),
    Metric("checkpoints_written", "checkpoints written", "lower", count),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
