from __future__ import annotations

import itertools
import math
import re

import msgspec
import pytest

from conformance.cases import Band, Case
from conformance.cases.metrics import METRICS
from conformance.judging.statistics import paired_difference, summary, wilson
from conformance.judging.verdicts import MAIN, Partial, judge, judge_case, judge_speedup
from conformance.records import Noise

THROUGHPUT = "throughput_images_per_s"
SOURCE = "README of the recipe"
FLOOR = Band(metric="top1", at_least=0.762, source=SOURCE)
QUIET = Noise()
LOUD = Noise(steal_share=0.2, reasons=("the hypervisor took 20.0 % of the cores' time, at most 2.0 % counts",))


def band(metric: str, **limits: object) -> Band:
    return msgspec.convert({"metric": metric, "source": SOURCE, **limits}, Band)


def case(mode: str, *bands: Band) -> Case:
    row = {
        "id": "a",
        "model": "resnet50_v1_5",
        "mode": mode,
        "precision": "int8",
        "dataset": "digits",
        "batch_size": 32,
        "source": SOURCE,
    }
    return msgspec.structs.replace(msgspec.convert(row, Case), band=bands)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        ({"at_least": 0.762}, [0.762, math.nextafter(0.762, 1), 1.0], [math.nextafter(0.762, 0), 0.0]),
        ({"at_most": 0.762}, [0.762, math.nextafter(0.762, 0), 0.0], [math.nextafter(0.762, 1), 1.0]),
        (
            {"within": [0.25, 0.5]},
            [0.25, 0.3, 0.5],
            [math.nextafter(0.25, 0), math.nextafter(0.5, 1)],
        ),
        ({"within": [0.5, 0.5]}, [0.5], [math.nextafter(0.5, 0), math.nextafter(0.5, 1)]),
    ],
)
def test_limits_belong_to_the_band_and_one_step_beyond_does_not(
    limits: dict[str, object], inside: list[float], outside: list[float]
) -> None:
    bands = [band("top1", **limits)]
    assert {judge("top1", value, bands).verdict for value in inside} == {"inside"}
    assert {judge("top1", value, bands).verdict for value in outside} == {"outside"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7705, "top-1 is 0.7705; allowed is at least 0.7620: met by 0.0085 (README of the recipe)."),
        (0.762, "top-1 is 0.7620; allowed is at least 0.7620: met exactly (README of the recipe)."),
        (0.7612, "top-1 is 0.7612; allowed is at least 0.7620: missed by 0.0008 (README of the recipe)."),
        (0.76199, "top1 is 0.76199; allowed is at least 0.762: missed by 1e-05 (README of the recipe)."),
        (
            math.nextafter(0.762, 0),
            "top1 is 0.7619999999999999; allowed is at least 0.762: missed by 1.1e-16 (README of the recipe).",
        ),
        (0.76201, "top1 is 0.76201; allowed is at least 0.762: met by 1e-05 (README of the recipe)."),
    ],
)
def test_a_sentence_tells_a_value_from_its_limit(value: float, text: str) -> None:
    assert judge("top1", value, [FLOOR]).text == text


@pytest.mark.parametrize("metric", METRICS)
def test_the_smallest_miss_of_any_metric_is_readable(metric: str) -> None:
    limit = 2.0 if metric in ("images", "seeds") else 0.0123
    value = math.nextafter(limit, 0)
    found = judge(metric, value, [band(metric, at_least=limit)])
    assert found.verdict == "outside"
    assert repr(value) in found.text and repr(limit) in found.text
    assert found.text.startswith(metric + " is ")


def test_units_stand_with_the_numbers() -> None:
    found = judge("latency_p50_s", 0.0105, [band("latency_p50_s", at_most=0.009481)])
    assert found.text == (
        "median time a batch is 10.500 ms; allowed is at most 9.481 ms: missed by 1.019 ms (README of the recipe)."
    )
    assert (found.value, found.band, found.source) == (0.0105, "at most 9.481 ms", SOURCE)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("top1", math.nan, "top-1 is nan; possible is 0 to 1."),
        ("top1", math.inf, "top-1 is inf; possible is 0 to 1."),
        ("top1", -math.inf, "top-1 is -inf; possible is 0 to 1."),
        ("top1", -0.1, "top-1 is -0.1; possible is 0 to 1."),
        ("top1", 76.23, "top-1 is 76.23; possible is 0 to 1."),
        ("top1", None, "top-1 is missing from the measurement."),
        (THROUGHPUT, 0.0, "throughput is 0.0; possible is above 0."),
        (THROUGHPUT, math.inf, "throughput is inf; possible is above 0."),
        ("latency_p50_s", 0.0, "median time a batch is 0.0; possible is above 0."),
        ("latency_p50_s", -0.01, "median time a batch is -0.01; possible is above 0."),
        ("images", 0.0, "images judged is 0.0; possible is at least 1."),
        ("spread", -0.1, "spread (IQR / median) is -0.1; possible is at least 0."),
    ],
)
@pytest.mark.parametrize("limits", [{"at_least": 1.0}, {"at_most": 1.0}, {"within": [1.0, 1.0]}])
def test_an_impossible_value_is_invalid_whatever_the_band(
    metric: str, value: float | None, text: str, limits: dict[str, object]
) -> None:
    for noisy, excused in itertools.product([(), ("loud",)], [None, "another machine"]):
        found = judge(metric, value, [band(metric, **limits)], unstable_because=noisy, unjudged_because=excused)
        assert (found.verdict, found.text, found.value) == ("invalid", text, None)


def test_a_float_of_numpy_reads_like_any_other() -> None:
    import numpy as np

    assert judge("top1", np.float64("nan"), [FLOOR]).text == "top-1 is nan; possible is 0 to 1."
    assert "top1 is 0.76199;" in judge("top1", np.float64(0.76199), [FLOOR]).text


def test_a_band_of_another_machine_does_not_judge() -> None:
    bands = [band(THROUGHPUT, at_least=200.0, hw=["xeon-8s"])]
    found = judge(THROUGHPUT, 33.5, bands, profile="generic-cpu")
    assert found.verdict == "unjudged"
    assert found.text == (
        "throughput is 33.5 images/s: unjudged, there is no band for this machine (profile 'generic-cpu')."
    )
    assert judge(THROUGHPUT, 33.5, bands, profile="xeon-8s").verdict == "outside"
    assert judge(THROUGHPUT, 33.5, bands).verdict == "unjudged"


def test_a_band_without_hw_judges_everywhere() -> None:
    assert {judge("top1", 0.8, [FLOOR], profile=profile).verdict for profile in ("xeon-8s", None)} == {"inside"}


def test_a_band_of_another_metric_does_not_judge() -> None:
    assert judge("top5", 0.5, [FLOOR]).verdict == "unjudged"


@pytest.mark.parametrize(("value", "verdict"), [(0.5, "outside"), (0.6, "inside"), (0.9, "outside")])
@pytest.mark.parametrize("turn", [1, -1])
def test_every_band_that_applies_must_hold(value: float, verdict: str, turn: int) -> None:
    bands = [
        band("top1", at_least=0.55),
        band("top1", at_most=0.8),
        band("top1", at_least=0.99, hw=["other"]),
    ]
    assert judge("top1", value, bands[::turn]).verdict == verdict


def test_of_several_bands_the_nearest_to_a_miss_is_told() -> None:
    bands = [band("top1", at_least=0.1), band("top1", at_least=0.762)]
    assert judge("top1", 0.7, bands).band == "at least 0.7620"


@pytest.mark.parametrize("metric", METRICS)
def test_noise_makes_speeds_unstable_and_nothing_else(metric: str) -> None:
    found = judge(metric, 1.0, [band(metric, at_least=1.0)], unstable_because=["it was loud", "and hot"])
    assert found.verdict == ("unstable" if METRICS[metric].speed else "inside")
    assert ("unstable, because it was loud; and hot (README of the recipe)." in found.text) == METRICS[metric].speed


def test_a_busy_machine_makes_a_speed_without_a_band_unstable_too() -> None:
    judged = judge("throughput_images_per_s", 34.0, (), unstable_because=LOUD.reasons)
    assert judged.verdict == "unstable"
    assert judged.text == f"throughput is 34.0 images/s: unstable, because {LOUD.reasons[0]}."


def test_a_busy_machine_leaves_an_accuracy_without_a_band_unjudged() -> None:
    assert judge("top1", 0.97, (), unstable_because=LOUD.reasons).verdict == "unjudged"


def test_what_is_a_speed_is_written_down() -> None:
    steady = {name for name, metric in METRICS.items() if not metric.speed}
    learnt = {"final_loss", "loss_drop", "loss_trend_tau", "loss_trend_p", "top1_below_fp32", "resident_growth_bytes"}
    counted = {"images", "seeds", "weights_differ", "loss_off_one_rank", "mlperf_misses"}
    left = {"profiled_steps", "export_agreement", "frozen_changed", "checkpoints_written"}
    assert steady == {"top1", "top5", "top1_of_fp32", "native_share", "mcnemar_p", *counted, *learnt, *left}


def test_a_reason_not_to_judge_comes_before_noise_and_band() -> None:
    found = judge("top1", 0.1, [FLOOR], unstable_because=["loud"], unjudged_because="only 64 images were offered")
    assert (found.verdict, found.text) == (
        "unjudged",
        "top-1 is 0.1000: unjudged, only 64 images were offered.",
    )


SPEEDUP = Band(metric="speedup_over_fp32", at_least=1.0, source=SOURCE)
BELOW = math.nextafter(1.0, 0)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict", "because"),
    [
        (1.7, 1.65, 1.75, "inside", "the whole 95 % interval 1.650 to 1.750 is inside"),
        (1.0, 1.0, 1.0, "inside", "the whole 95 % interval 1.000 to 1.000 is inside"),
        (0.9, 0.85, 0.95, "outside", "the whole 95 % interval 0.850 to 0.950 is outside"),
        (0.9, 0.85, BELOW, "outside", "the whole 95 % interval 0.85 to 0.9999999999999999 is outside"),
        (0.9, 0.85, 1.0, "unstable", "cannot be decided: interval 0.850 to 1.000"),
        (1.2, BELOW, 1.5, "unstable", "cannot be decided: interval 0.9999999999999999 to 1.5"),
        (1.01, 0.97, 1.05, "unstable", "cannot be decided: interval 0.970 to 1.050"),
        (9.0, None, None, "unstable", "cannot be decided: too few pairs for an interval"),
    ],
)
def test_a_speed_up_is_decided_by_its_whole_interval(
    ratio: float, low: float | None, high: float | None, verdict: str, because: str
) -> None:
    found = judge_speedup(ratio, low, high, SPEEDUP)
    assert (found.verdict, found.value) == (verdict, ratio)
    assert because in found.text and found.text.endswith(f"({SOURCE}).")


def test_a_speed_up_tells_ratio_and_limit() -> None:
    assert judge_speedup(1.012, 0.97, 1.05, SPEEDUP).text == (
        "speed-up over fp32 is 1.012; allowed is at least 1.000: cannot be decided: interval 0.970 to 1.050"
        " (README of the recipe)."
    )


@pytest.mark.parametrize(("low", "verdict"), [(1.1, "inside"), (0.9, "unstable"), (1.9, "unstable")])
def test_an_interval_must_lie_within_both_limits(low: float, verdict: str) -> None:
    both = band("speedup_over_fp32", within=[1.0, 2.0])
    assert judge_speedup(low + 0.1, low, low + 0.2, both).verdict == verdict


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (None, 1.0, 2.0, "speed-up over fp32 is missing from the measurement."),
        (math.nan, 1.0, 2.0, "speed-up over fp32 is nan; possible is above 0."),
        (0.0, 1.0, 2.0, "speed-up over fp32 is 0.0; possible is above 0."),
        (1.5, math.nan, 2.0, "speed-up over fp32 has an impossible interval, nan to 2.0."),
        (1.5, 1.0, math.inf, "speed-up over fp32 has an impossible interval, 1.0 to inf."),
        (1.5, 2.0, 1.0, "speed-up over fp32 has an impossible interval, 2.0 to 1.0."),
        (1.5, -1.0, 2.0, "speed-up over fp32 has an impossible interval, -1.0 to 2.0."),
    ],
)
def test_an_impossible_speed_up_is_invalid(ratio: float | None, low: float, high: float, text: str) -> None:
    found = judge_speedup(ratio, low, high, SPEEDUP)
    assert (found.verdict, found.text) == ("invalid", text)


def test_a_case_is_as_good_as_its_worst_metric() -> None:
    bands = (FLOOR, band("top5", at_least=0.9), band("images", within=[50_000, 50_000]))
    metrics = {"top1": 0.7, "top5": 0.8, "images": 50_000.0}
    judgements, verdict, reason = judge_case(case("accuracy", *bands), metrics, QUIET, (), "generic-cpu")
    assert [judgement.verdict for judgement in judgements] == ["outside", "outside", "inside"]
    assert verdict == "outside"
    assert reason == f"{judgements[0].text} {judgements[1].text}"


def test_a_case_that_is_inside_says_by_how_much() -> None:
    _, verdict, reason = judge_case(case("accuracy", FLOOR), {"top1": 0.77}, None, (), "generic-cpu")
    assert verdict == "inside"
    assert reason == "top-1 is 0.7700; allowed is at least 0.7620: met by 0.0080 (README of the recipe)."


def test_a_banded_metric_that_is_missing_is_invalid_and_never_skipped() -> None:
    bands = (FLOOR, band("top5", at_least=0.9, hw=["xeon-8s"]))
    judgements, verdict, reason = judge_case(case("accuracy", *bands), {"top1": 0.9}, QUIET, (), "generic-cpu")
    assert len(judgements) == 2
    assert (verdict, reason) == ("invalid", "top-5 is missing from the measurement.")


def test_an_extra_metric_is_not_judged() -> None:
    metrics = {"top1": 0.9, "top5": math.nan, "invented": -1.0}
    judgements, verdict, _ = judge_case(case("accuracy", FLOOR), metrics, QUIET, (), "generic-cpu")
    assert ([judgement.metric for judgement in judgements], verdict) == (["top1"], "inside")


@pytest.mark.parametrize("mode", MAIN)
def test_a_case_without_bands_is_unjudged_and_says_so(mode: str) -> None:
    metric = MAIN[mode][0]  # type: ignore[index]
    judgements, verdict, reason = judge_case(case(mode), {metric: 0.9}, QUIET, (), "generic-cpu")
    assert [judgement.metric for judgement in judgements] == [metric]
    assert verdict == "unjudged"
    assert "there is no band for this machine (profile 'generic-cpu')" in reason


@pytest.mark.parametrize("mode", MAIN)
def test_a_case_that_measured_nothing_is_invalid(mode: str) -> None:
    assert judge_case(case(mode), {}, QUIET, (), "generic-cpu")[1] == "invalid"


def test_a_side_metric_inside_does_not_judge_the_throughput() -> None:
    metrics = {"native_share": 0.99, THROUGHPUT: 33.0}
    native = band("native_share", at_least=0.9)
    judgements, verdict, _ = judge_case(case("throughput", native), metrics, QUIET, (), "generic-cpu")
    assert [judgement.verdict for judgement in judgements] == ["unjudged", "inside"]
    assert verdict == "unjudged"


def test_a_latency_case_with_a_band_on_its_p99_needs_none_on_its_median() -> None:
    p99 = band("latency_p99_s", at_most=0.02)
    assert judge_case(case("latency", p99), {"latency_p99_s": 0.01}, QUIET, (), "generic-cpu")[1] == "inside"


def test_on_another_machine_accuracy_is_judged_and_speed_is_not() -> None:
    bands = (FLOOR, band(THROUGHPUT, at_least=200.0))
    judgements, verdict, reason = judge_case(
        case("throughput", *bands),
        {"top1": 0.7, THROUGHPUT: 33.0},
        QUIET,
        ("1 socket instead of 8", "the flag avx512_bf16 is missing"),
        "xeon-8s",
    )
    assert [judgement.verdict for judgement in judgements] == ["outside", "unjudged"]
    assert verdict == "outside"
    assert judgements[1].text == (
        "throughput is 33.0 images/s: unjudged, the machine differs from profile 'xeon-8s':"
        " 1 socket instead of 8; the flag avx512_bf16 is missing."
    )


def test_a_loud_machine_leaves_accuracy_decided_and_speed_undecided() -> None:
    bands = (FLOOR, band(THROUGHPUT, at_least=200.0))
    metrics = {"top1": 0.77, THROUGHPUT: 300.0}
    judgements, verdict, reason = judge_case(case("throughput", *bands), metrics, LOUD, (), "generic-cpu")
    assert [judgement.verdict for judgement in judgements] == ["inside", "unstable"]
    assert verdict == "unstable"
    assert "unstable, because the hypervisor took 20.0 % of the cores' time" in reason


@pytest.mark.parametrize(
    ("interval", "noise", "differences", "verdict"),
    [
        ((1.5, 1.7), QUIET, (), "inside"),
        ((0.9, 1.7), QUIET, (), "unstable"),
        ((0.5, 0.9), QUIET, (), "outside"),
        (None, QUIET, (), "unstable"),
        ((1.5, 1.7), LOUD, (), "unstable"),
        ((1.5, 1.7), QUIET, ("1 socket instead of 8",), "unjudged"),
    ],
)
def test_a_speed_up_case_is_decided_by_its_interval(
    interval: tuple[float, float] | None, noise: Noise, differences: tuple[str, ...], verdict: str
) -> None:
    intervals = {} if interval is None else {"speedup_over_fp32": interval}
    metrics = {"speedup_over_fp32": 1.6}
    found = judge_case(case("speedup", SPEEDUP), metrics, noise, differences, "generic-cpu", intervals)
    assert found[1] == verdict


def test_the_gravest_of_several_speed_up_bands_decides() -> None:
    bands = (SPEEDUP, band("speedup_over_fp32", at_least=3.0))
    metrics, intervals = {"speedup_over_fp32": 2.0}, {"speedup_over_fp32": (1.9, 2.1)}
    assert judge_case(case("speedup", *bands), metrics, QUIET, (), "generic-cpu", intervals)[1] == "outside"


@pytest.mark.parametrize(("step_s", "batch_size"), [([], 32), ([0.1, 0.1], 0), ([0.1], -1)])
@pytest.mark.parametrize("limits", [{"at_least": 0.01}, {"at_most": 1e9}])
def test_a_subject_without_steps_or_images_is_invalid(
    step_s: list[float], batch_size: int, limits: dict[str, object]
) -> None:
    found = judge_case(
        case("throughput", band(THROUGHPUT, **limits)), summary(step_s, batch_size), QUIET, (), "generic-cpu"
    )
    assert found[1] == "invalid"


def test_a_judgement_survives_a_run_file() -> None:
    for value in (0.1, 0.9, math.nan, math.inf, None):
        found = judge("top1", value, [FLOOR])
        assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


# Less than a whole split

OF_FP32 = Band(metric="top1_of_fp32", at_least=0.99, source=SOURCE)


def judged_on(images: int, lost: int, gained: int, fp32: float = 0.75, whole: int = 50_000) -> tuple[str, str]:
    """Return verdict and reason of a precision that is right on that many fewer and more images than fp32."""
    low, high = paired_difference(lost, gained, images)
    top1 = fp32 + (gained - lost) / images
    metrics = {"top1": top1, "top1_of_fp32": top1 / fp32}
    intervals = {"top1": wilson(round(top1 * images), images), "top1_of_fp32": (1 + low / fp32, 1 + high / fp32)}
    partial = Partial(images=images, whole=whole, lost=lost, gained=gained)
    _, verdict, reason = judge_case(case("accuracy", OF_FP32), metrics, QUIET, (), "p", intervals, partial)
    return verdict, reason


@pytest.mark.parametrize("top1", [0.70, 0.80])
def test_a_band_for_all_images_judges_no_part_of_them(top1: float) -> None:
    metrics, intervals = {"top1": top1}, {"top1": (top1 - 0.02, top1 + 0.02)}
    partial = Partial(images=2000, whole=50_000)
    _, verdict, reason = judge_case(case("accuracy", FLOOR), metrics, QUIET, (), "p", intervals, partial)
    assert verdict == "unjudged"
    assert reason == (
        f"top-1 is {top1:.4f}: unjudged, its band is for all 50,000 images, and 2,000 were judged "
        f"(95 % interval {top1 - 0.02:.4f} to {top1 + 0.02:.4f})."
    )


def test_an_impossible_top1_of_a_part_is_invalid() -> None:
    partial = Partial(images=2000, whole=50_000)
    _, verdict, _ = judge_case(case("accuracy", FLOOR), {"top1": 1.5}, QUIET, (), "p", {"top1": (0, 1)}, partial)
    assert verdict == "invalid"


@pytest.mark.parametrize(
    ("images", "lost", "gained", "verdict"),
    [(2000, 5, 5, "inside"), (2000, 30, 30, "unjudged"), (2000, 70, 10, "outside"), (10_000, 150, 150, "inside")],
)
def test_a_precision_on_a_part_is_decided_by_its_whole_paired_interval(
    images: int, lost: int, gained: int, verdict: str
) -> None:
    assert judged_on(images, lost, gained)[0] == verdict


def test_too_few_images_are_told_with_how_many_would_do() -> None:
    _, reason = judged_on(2000, 30, 30)
    told = re.search(r"too few images to decide, .* on the same 2,000 images; about ([\d,]+) would be enough", reason)
    assert told
    enough = int(told[1].replace(",", ""))
    assert judged_on(enough, round(0.015 * enough), round(0.015 * enough))[0] == "inside"
    assert "; all 3,000 might not be enough (" in judged_on(2000, 40, 26, whole=3000)[1]


def test_a_precision_on_the_whole_split_is_held_against_the_band_itself() -> None:
    metrics = {"top1": 0.75, "top1_of_fp32": 0.9901}
    _, verdict, _ = judge_case(case("accuracy", OF_FP32), metrics, QUIET, (), "p", {"top1_of_fp32": (0.9, 1.1)})
    assert verdict == "inside"
