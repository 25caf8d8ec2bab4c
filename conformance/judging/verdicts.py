"""From a measurement and its bands to verdicts, each with a sentence that says why.

Comparisons are on unrounded values and include the limits. Where rounding would make a miss
look like its limit, the sentence names the metric with its unit and prints every digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from conformance.cases import Band, Case, Mode
from conformance.cases.metrics import METRICS, exact, telling
from conformance.judging.statistics import images_to_decide, runs_to_decide
from conformance.records import GRAVITY, Judgement, Noise, Verdict, worst

SPEEDUP = "speedup_over_fp32"
BY_INTERVAL = (SPEEDUP, "scaling_efficiency")
PAIRED = "top1_of_fp32"
BESIDE_FP32 = "top1_below_fp32"
FEW_SEEDS = 3  # below it the spread of the seeds is hardly known

# What a case of each mode is about: one of these is judged, or the first is told to be unjudged.
MAIN: dict[Mode, tuple[str, ...]] = {
    "accuracy": ("top1", "top5", "top1_of_fp32", "mcnemar_p"),
    "throughput": ("throughput_images_per_s",),
    "latency": ("latency_p50_s", "latency_mean_s", "latency_p90_s", "latency_p95_s", "latency_p99_s"),
    "speedup": (SPEEDUP,),
    "training": (
        "top1", "top5", BESIDE_FP32, "loss_trend_p", "loss_drop", "final_loss", "scaling_efficiency", "profiled_steps",
        "export_agreement", "checkpoints_written",
    ),
}  # fmt: skip


class Partial(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy on other than the whole split: ``images`` were judged, ``whole`` are in it.

    Of the same images, fp32 alone is right on ``lost`` and the precision of the case alone on ``gained``.
    """

    images: int
    whole: int
    lost: int = 0
    gained: int = 0


def applicable(bands: Sequence[Band], metric: str, profile: str | None) -> tuple[Band, ...]:
    """Return the bands of a metric that hold on a machine of this hardware profile."""
    return tuple(band for band in bands if band.metric == metric and (not band.hw or profile in band.hw))


def judge(
    metric: str,
    value: float | None,
    bands: Sequence[Band],
    *,
    unstable_because: Sequence[str] = (),
    unjudged_because: str | None = None,
    profile: str | None = None,
) -> Judgement:
    """Hold one metric against the bands that apply; of several, the one it comes nearest to missing.

    In this order: ``invalid`` for a value that is missing or impossible; ``unjudged`` for the reason
    given; ``unstable`` for a speed when reasons are given; ``unjudged`` without a band; else in- or outside.
    """
    if value is None or not METRICS[metric].is_possible(value):
        return _invalid(metric, value)
    fitting = applicable(bands, metric, profile)
    unquiet = unstable_because if METRICS[metric].speed else ()
    if not fitting and unquiet and not unjudged_because:
        text = f"{METRICS[metric].label} is {METRICS[metric].show(value)}: unstable, because {'; '.join(unquiet)}."
        return Judgement(metric=metric, verdict="unstable", value=value, text=text)
    if not fitting and not unjudged_because:
        unjudged_because = f"there is no band for this machine (profile {profile!r})"
    if unjudged_because:
        text = f"{METRICS[metric].label} is {METRICS[metric].show(value)}: unjudged, {unjudged_because}."
        return Judgement(metric=metric, verdict="unjudged", value=value, text=text)
    band = min(fitting, key=lambda band: _margin(value, band))
    return _held_against(band, value, unquiet)


def judge_speedup(ratio: float | None, low: float | None, high: float | None, band: Band) -> Judgement:
    """Hold a ratio's whole 95 % interval against a band: one that straddles the limit is ``unstable``."""
    metric = METRICS[band.metric]
    if ratio is None or not metric.is_possible(ratio):
        return _invalid(band.metric, ratio)
    if low is None or high is None:
        because = "cannot be decided: too few pairs for an interval"
        return _decided(band, ratio, metric.show, "unstable", because)
    if not (metric.is_possible(low) and metric.is_possible(high) and low <= high):
        return _invalid(band.metric, ratio, f"has an impossible interval, {low!r} to {high!r}")
    shows = [telling(metric.show, end, limit) for end in (low, high) for limit in band.limits]
    show = exact if exact in shows else metric.show
    interval = f"interval {show(low)} to {show(high)}"
    if band.low <= low and high <= band.high:
        return _decided(band, ratio, show, "inside", f"the whole 95 % {interval} is inside")
    if high < band.low or low > band.high:
        return _decided(band, ratio, show, "outside", f"the whole 95 % {interval} is outside")
    return _decided(band, ratio, show, "unstable", f"cannot be decided: {interval}")


def judge_case(
    case: Case,
    metrics: Mapping[str, float],
    noise: Noise | None,
    differences: Sequence[str],
    profile: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    partial: Partial | None = None,
    unjudged: Mapping[str, str] | None = None,
) -> tuple[tuple[Judgement, ...], Verdict, str]:
    """Judge every metric that has a band, and the main one of the case's mode even without.

    ``differences`` say where the machine is not of ``profile``: a speed is then unjudged. A speed-up or an
    efficiency is decided by its interval in ``intervals``, and so is a training that misses its band beside fp32. Of a
    ``partial`` split, top-1 and top-5 are unjudged, and a precision against fp32 is decided by the paired interval.
    ``unjudged`` gives metrics with the reason why no band is for them, or why they were not measured. Returns the
    judgements, the gravest verdict, and the sentences that decided it.
    """
    intervals, unjudged = intervals or {}, unjudged or {}
    differs = f"the machine differs from profile {profile!r}: {'; '.join(differences)}"
    judgements = []
    for metric in _judged_metrics(case):
        if metric in unjudged and metric not in metrics:
            text = f"{METRICS[metric].label} was not measured: unjudged, {unjudged[metric]}."
            judgements.append(Judgement(metric=metric, verdict="unjudged", text=text))
            continue
        judgement = judge(
            metric,
            metrics.get(metric),
            case.band,
            unstable_because=noise.reasons if noise else (),
            unjudged_because=differs
            if differences and METRICS[metric].speed
            else unjudged.get(metric) or _too_few(metric, partial, intervals),
            profile=profile,
        )
        if metric in BY_INTERVAL and judgement.verdict in ("inside", "outside"):
            judgement = _by_interval(case, metric, metrics[metric], intervals.get(metric), profile)
        if metric == PAIRED and partial and judgement.verdict in ("inside", "outside"):
            judgement = _paired(case, metrics, intervals[metric], partial, profile)
        if metric == BESIDE_FP32 and judgement.verdict == "outside" and metric in intervals:
            judgement = _beside_fp32(case, metrics, intervals[metric], profile)
        judgements.append(judgement)
    verdict = worst([judgement.verdict for judgement in judgements])
    deciding = [judgement.text for judgement in judgements if judgement.verdict == verdict]
    return tuple(judgements), verdict, " ".join(deciding)


def _too_few(metric: str, partial: Partial | None, intervals: Mapping[str, tuple[float, float]]) -> str | None:
    if partial is None or metric not in ("top1", "top5"):
        return None
    low, high = (METRICS[metric].show(end) for end in intervals[metric])
    return (
        f"its band is for all {partial.whole:,} images, and {partial.images:,} were judged "
        f"(95 % interval {low} to {high})"
    )


def _paired(
    case: Case, metrics: Mapping[str, float], interval: tuple[float, float], partial: Partial, profile: str
) -> Judgement:
    """Hold the interval of paired answers against each band; one that straddles a limit decides nothing."""
    ratio, judgements = metrics[PAIRED], []
    show = METRICS[PAIRED].show
    told = f"95 % interval {show(interval[0])} to {show(interval[1])} on the same {partial.images:,} images"
    for band in applicable(case.band, PAIRED, profile):
        if band.low <= interval[0] and interval[1] <= band.high:
            judgements.append(_decided(band, ratio, show, "inside", f"the whole {told} is inside"))
        elif interval[1] < band.low or interval[0] > band.high:
            judgements.append(_decided(band, ratio, show, "outside", f"the whole {told} is outside"))
        else:
            limit = band.low if interval[0] < band.low else band.high
            fp32 = metrics["top1"] / ratio
            needed = images_to_decide(partial.lost, partial.gained, partial.images, (limit - 1) * fp32)
            enough = needed is not None and needed <= partial.whole
            more = f"about {needed:,} would be enough" if enough else f"all {partial.whole:,} might not be enough"
            judgements.append(_decided(band, ratio, show, "unjudged", f"too few images to decide, {told}; {more}"))
    return min(judgements, key=lambda judgement: GRAVITY.index(judgement.verdict))


def _beside_fp32(case: Case, metrics: Mapping[str, float], interval: tuple[float, float], profile: str) -> Judgement:
    """Hold a training that misses a band beside fp32 against it by the interval: one that reaches it is unstable."""
    value, seeds, show = metrics[BESIDE_FP32], round(metrics["seeds"]), METRICS[BESIDE_FP32].show
    told = f"95 % interval {show(interval[0])} to {show(interval[1])}"
    judgements = []
    for band in applicable(case.band, BESIDE_FP32, profile):
        margin = _margin(value, band)
        if margin >= 0 or interval[1] < band.low or interval[0] > band.high:
            judgements.append(_held_against(band, value, ()))
            continue
        if seeds < FEW_SEEDS:
            more = f"give --repeats {FEW_SEEDS}"
        else:
            more = f"--repeats {runs_to_decide(seeds, (interval[1] - interval[0]) / 2, -margin):,} might do"
        tried = f"{seeds} {'seed' if seeds == 1 else 'seeds'} of {METRICS['images'].show(metrics['images'])} images"
        because = f"missed by {show(-margin)}, but {tried} cannot tell ({told}); {more}"
        judgements.append(_decided(band, value, show, "unstable", because))
    return min(judgements, key=lambda judgement: GRAVITY.index(judgement.verdict))


def _judged_metrics(case: Case) -> tuple[str, ...]:
    banded = tuple(dict.fromkeys(band.metric for band in case.band))
    main = MAIN[case.mode]
    return banded if set(main) & set(banded) else (main[0], *banded)


def _by_interval(
    case: Case, metric: str, ratio: float, interval: tuple[float, float] | None, profile: str
) -> Judgement:
    low, high = interval or (None, None)
    judgements = [judge_speedup(ratio, low, high, band) for band in applicable(case.band, metric, profile)]
    return min(judgements, key=lambda judgement: GRAVITY.index(judgement.verdict))


def _margin(value: float, band: Band) -> float:
    """Return how far inside its band a value lies; negative by how much it misses."""
    return min(value - band.low, band.high - value)


def _held_against(band: Band, value: float, unstable_because: Sequence[str]) -> Judgement:
    margin = _margin(value, band)
    limit = band.low if margin == value - band.low else band.high
    metric = METRICS[band.metric]
    show = telling(metric.show, value, limit)
    by = "exactly" if margin == 0 else f"by {abs(margin):.2g}" if show is exact else f"by {show(abs(margin))}"
    if unstable_because:
        return _decided(band, value, show, "unstable", f"unstable, because {'; '.join(unstable_because)}")
    if margin >= 0:
        return _decided(band, value, show, "inside", f"met {by}")
    return _decided(band, value, show, "outside", f"missed {by}")


def _decided(band: Band, value: float, show: Callable[[float], str], verdict: Verdict, because: str) -> Judgement:
    label = METRICS[band.metric].name if show is exact else METRICS[band.metric].label
    return Judgement(
        metric=band.metric,
        verdict=verdict,
        text=f"{label} is {show(value)}; allowed is {band.words(show)}: {because} ({band.source}).",
        value=value,
        band=band.words(show),
        source=band.source,
    )


def _invalid(metric: str, value: float | None, because: str | None = None) -> Judgement:
    if value is None:
        because = "is missing from the measurement"
    elif because is None:
        because = f"is {exact(value)}; possible is {METRICS[metric].range}"
    return Judgement(metric=metric, verdict="invalid", text=f"{METRICS[metric].label} {because}.")
