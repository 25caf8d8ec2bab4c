"""What training steps say: a loss that falls is told from one that does not, and speeds from the waiting."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from conformance.cases import Band, Case
from conformance.cases.training import Recipe, Schedule
from conformance.fixtures.training_answer import correct, fallback_note, metrics, write_evaluations, write_steps
from conformance.judging.training import loss_metrics, off_one_rank, step_metrics
from conformance.judging.verdicts import Partial, judge_case
from conformance.records import Noise

NOISE = random.Random(4)
FLAT = [6.9 + NOISE.gauss(0, 0.3) for _ in range(120)]
FALLING = [8.4 - 0.02 * step + NOISE.gauss(0, 0.3) for step in range(120)]


def test_the_drop_is_of_medians_and_not_of_two_points() -> None:
    losses = [100.0, *[8.0] * 19, *[6.0] * 160, *[2.0] * 19, 1000.0]
    found = loss_metrics(losses)
    assert found["loss_drop"] == 0.75 and found["final_loss"] == 1000.0


def test_a_noisy_loss_that_falls_has_a_trend_and_its_reverse_is_no_fall() -> None:
    found, reverse = loss_metrics(FALLING), loss_metrics(FALLING[::-1])
    assert found["loss_trend_p"] < 1e-9 and found["loss_trend_tau"] < -0.5 and found["loss_drop"] > 0.2
    assert reverse["loss_trend_p"] == pytest.approx(found["loss_trend_p"])
    assert reverse["loss_trend_tau"] > 0.5 and reverse["loss_drop"] < -0.2


def test_noise_alone_has_no_trend_even_where_its_last_point_is_below_its_first() -> None:
    losses = [max(FLAT), *FLAT, min(FLAT)]
    assert loss_metrics(losses)["loss_trend_p"] > 0.01


def test_noise_alone_passes_for_a_trend_no_oftener_than_the_level_says() -> None:
    for spread in (0.01, 0.3):  # below and above what counts as a change
        series = [[6.9 + NOISE.gauss(0, spread) for _ in range(60)] for _ in range(200)]
        assert sum(loss_metrics(losses)["loss_trend_p"] <= 0.05 for losses in series) <= 20


def test_the_trend_is_kendalls_where_all_changes_count() -> None:
    losses = [7.0 + 3 * NOISE.gauss(-step / 120, 1) for step in range(120)]
    expected = stats.kendalltau(range(120), losses)
    found = loss_metrics(losses)
    assert found["loss_trend_tau"] == pytest.approx(expected.statistic, abs=0.02)
    assert found["loss_trend_p"] == pytest.approx(expected.pvalue, rel=0.5)


def test_days_of_training_have_a_trend_at_once() -> None:
    found = loss_metrics([7.0 - step / 300_000 for step in range(1_000_000)])
    assert found["loss_trend_tau"] < -0.95 and found["loss_trend_p"] < 1e-9


@pytest.mark.parametrize("losses", [[5.0], [5.0, 1.0], [7.0] * 120])
def test_of_two_steps_or_of_a_loss_that_stands_still_nothing_is_known(losses: list[float]) -> None:
    found = loss_metrics(losses)
    assert (found["loss_trend_tau"], found["loss_trend_p"]) == (0.0, 1.0)


def test_no_steps_have_no_metrics() -> None:
    assert loss_metrics([]) == {} and step_metrics([], [], 4) == {}


def test_of_two_ranks_twenty_losses_are_held_against_one_rank_and_of_more_the_first_three() -> None:
    alone = [4.0] * 30
    for index, counts_of_two, counts_of_four in (
        (2, True, True),
        (3, True, False),
        (19, True, False),
        (20, False, False),
    ):
        off = [*alone[:index], 4.4, *alone[index + 1 :]]
        assert off_one_rank(off, alone, ranks=2) == pytest.approx(0.1 * counts_of_two)
        assert off_one_rank(off, alone, ranks=4) == pytest.approx(0.1 * counts_of_four)


def test_speed_leaves_out_the_steps_that_compile_and_counts_the_waiting() -> None:
    step_s = [30.0, *[1.0] * 9, *[0.3] * 98, 0.7, 0.7]
    found = step_metrics(step_s, [0.1] * len(step_s), 4)
    assert found["training_images_per_s"] == pytest.approx(10.0)
    assert found["step_p99_over_p50"] == pytest.approx(2.0)
    assert found["wait_share"] == pytest.approx(10.0 / (98 * 0.4 + 2 * 0.8))
    assert step_metrics(step_s[:10], [0.1] * 10, 4) == {}


RESULT: dict[str, Any] = {
    "steps": 120,
    "first_step": 0,
    "losses": FALLING,
    "rates": [0.1] * 120,
    "step_s": [0.4] * 120,
    "wait_s": [0.0] * 120,
    "evaluations": [
        {"step": 60, "epoch": 1, "top1_hits": 10, "top5_hits": 60, "images": 100},
        {"step": 120, "epoch": 2, "top1_hits": 98, "top5_hits": 100, "images": 100},
    ],
    "stopped_by": "epochs",
    "resumed_from": None,
    "resident_bytes": [1_000_000, 900_000],
    "native_share": None,
}


@pytest.mark.parametrize(
    ("largest", "found"),
    [
        ([], "all by bf16 kernels"),
        (
            [{"primitive": "pooling", "data_type": "f32", "name": "ref:any", "step_share": 0.125}],
            "not by bf16 kernels ran pooling f32 (ref:any) 12.5% of the step",
        ),
    ],
)
def test_a_note_says_what_of_a_bf16_step_fell_back(largest: list[dict[str, Any]], found: str) -> None:
    note = fallback_note({"precision": "bf16", "step_s": 2.0, "onednn_s": 1.5, "largest": largest})
    start = "oneDNN's primitives took 75% of a step under its log"
    assert note == f"{start}, {found}; TensorFlow's own operations are in no log."


def test_the_last_evaluation_counts_and_what_was_not_measured_is_absent() -> None:
    found = metrics(RESULT, 4)
    assert (found["top1"], found["top5"], found["images"]) == (0.98, 1.0, 100.0)
    assert found["resident_growth_bytes"] == 0.0 and "native_share" not in found
    synthetic = metrics({**RESULT, "evaluations": [], "native_share": 0.9, "resident_bytes": [None, 5]}, 4)
    assert not {"top1", "resident_growth_bytes"} & synthetic.keys() and synthetic["native_share"] == 0.9


def test_every_step_has_its_line_and_a_resumed_run_counts_on(tmp_path: Path) -> None:
    write_steps(tmp_path / "steps.csv", {**RESULT, "first_step": 60})
    head, first, *others = (tmp_path / "steps.csv").read_text(encoding="utf-8").splitlines()
    assert head == "step,loss,rate,step_s,wait_s"
    assert first.split(",") == ["60", str(FALLING[0]), "0.1", "0.4", "0.0"] and len(others) == 119


def test_every_evaluation_has_its_line(tmp_path: Path) -> None:
    write_evaluations(tmp_path / "evaluations.csv", RESULT)
    assert (tmp_path / "evaluations.csv").read_text(encoding="utf-8").splitlines() == [
        "step,epoch,images,top1,top5",
        "60,1,100,0.1,0.6",
        "120,2,100,0.98,1.0",
    ]


def case(*bands: Band) -> Case:
    recipe = Recipe(
        epochs=1, schedule=Schedule(base=0.1, warmup_epochs=0, epochs=1), momentum=0.9, weight_decay=0, crop="intel"
    )
    return Case(
        id="a", model="resnet50_v1_5", mode="training", precision="fp32", dataset="digits", batch_size=4,
        source="a README", training=recipe, band=bands,
    )  # fmt: skip


def band(metric: str, **limits: float) -> Band:
    return msgspec.convert({"metric": metric, "source": "a README", **limits}, Band)


SMOKE = case(band("loss_trend_p", at_most=0.01), band("loss_trend_tau", at_most=0.0), band("loss_drop", at_least=0.05))


@pytest.mark.parametrize(
    ("losses", "outside"),
    [
        (FALLING, set()),
        (FLAT, {"loss_trend_p", "loss_drop"}),
        (FALLING[::-1], {"loss_trend_tau", "loss_drop"}),
        ([7.0] * 120, {"loss_trend_p", "loss_drop"}),
        ([7.0 - step / 500 for step in range(120)], {"loss_drop"}),
        ([7.0 - step / 1e4 for step in range(120)], {"loss_trend_p", "loss_drop"}),
        ([*(8.4 - 0.34 * step for step in range(20)), *(1.65 + 0.0007 * step for step in range(100))], set()),
    ],
    ids=["falls", "noise", "rises", "stands", "hardly falls", "falls in its last digits", "is learnt by heart"],
)
def test_a_smoke_test_asks_for_a_trend_its_direction_and_its_size(losses: list[float], outside: set[str]) -> None:
    found = {**metrics({**RESULT, "losses": losses, "evaluations": []}, 4)}
    judgements, verdict, _ = judge_case(SMOKE, found, None, (), "generic-cpu")
    missed = {judgement.metric for judgement in judgements if judgement.verdict == "outside"}
    assert missed == (outside if losses is not FLAT else missed) and "invalid" not in {j.verdict for j in judgements}
    assert verdict == ("outside" if outside else "inside")


def test_a_control_that_learns_nothing_does_not_pass_the_accuracy_side() -> None:
    guessed = {**RESULT["evaluations"][1], "top1_hits": 12}
    learning, control = case(band("top1", at_least=0.97)), case(band("top1", at_most=0.5))
    found = metrics({**RESULT, "evaluations": [guessed]}, 4)
    assert judge_case(learning, found, None, (), "generic-cpu")[1] == "outside"
    assert judge_case(control, found, None, (), "generic-cpu")[1] == "inside"
    assert judge_case(control, metrics(RESULT, 4), None, (), "generic-cpu")[1] == "outside"


def test_the_answers_of_the_last_evaluation_come_as_they_were_packed() -> None:
    evaluations = [{"images": 3}, {"images": 11}]
    bits = [True, False, True, True, False, False, False, True, False, True, True]
    packed = np.packbits(bits).tobytes().hex()
    assert correct({"correct": packed, "evaluations": evaluations}) == bits
    assert correct({"correct": None, "evaluations": []}) == ()


def noise(*reasons: str) -> Noise:
    return Noise(steal_share=0.3, reasons=reasons)


def test_a_busy_machine_makes_a_speed_unstable_and_neither_an_accuracy_nor_a_loss() -> None:
    busy = noise("the hypervisor took 30.0 % of the cores' time, at most 2.0 % counts")
    bands = (band("top1", at_least=0.97), band("loss_drop", at_least=0.2), band("wait_share", at_most=0.1))
    found = metrics(RESULT, 4)
    judgements, verdict, told = judge_case(case(*bands), found, busy, (), "generic-cpu")
    assert {j.metric: j.verdict for j in judgements} == {
        "top1": "inside", "loss_drop": "inside", "wait_share": "unstable",
    }  # fmt: skip
    assert verdict == "unstable" and "the hypervisor took 30.0 %" in told
    assert judge_case(case(*bands), found, noise(), (), "generic-cpu")[1] == "inside"


def test_what_was_not_measured_for_a_known_reason_is_unjudged_and_without_a_reason_invalid() -> None:
    bands = case(band("top1", at_least=0.97), band("loss_drop", at_least=0.2))
    found, reason = {"top1": 0.98}, "--eval-only judges a checkpoint and trains nothing"
    judgements, verdict, told = judge_case(bands, found, None, (), "generic-cpu", unjudged={"loss_drop": reason})
    assert [judgement.verdict for judgement in judgements] == ["inside", "unjudged"]
    assert (verdict, told) == ("unjudged", f"drop of the loss was not measured: unjudged, {reason}.")
    assert judge_case(bands, found, None, (), "generic-cpu")[1] == "invalid"
    nan = {**found, "loss_drop": float("nan")}
    assert judge_case(bands, nan, None, (), "generic-cpu", unjudged={"loss_drop": reason})[1] == "invalid"


def test_a_run_that_was_made_shorter_is_unjudged_with_the_reason() -> None:
    reason = "its band is for training of 120 steps, and --max-train-steps is 3"
    found = metrics(RESULT, 4)
    learnt = case(band("top1", at_least=0.99), band("wait_share", at_most=0.1))
    judgements, verdict, told = judge_case(learnt, found, None, (), "generic-cpu", unjudged={"top1": reason})
    assert [judgement.verdict for judgement in judgements] == ["unjudged", "inside"]
    assert (verdict, told) == ("unjudged", f"top-1 is 0.9800: unjudged, {reason}.")


def test_accuracy_after_training_on_a_part_of_the_validation_images_is_unjudged() -> None:
    found = metrics(RESULT, 4)
    intervals = {"top1": (0.93, 1.0)}
    partial = Partial(images=100, whole=50_000)
    learnt = case(band("top1", at_least=0.97))
    assert judge_case(learnt, found, None, (), "generic-cpu", intervals, partial)[1] == "unjudged"
