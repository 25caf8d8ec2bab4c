"""MLPerf's rules and its own checkers on training runs: what is met, what only ImageNet can meet, what is broken."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.errors import HarnessFault, UsageError
from conformance.judging import mlperf_log
from conformance.judging.early_check import bands, early_check
from conformance.judging.mlperf import (
    Miss,
    TrainingRun,
    documented_base,
    misses,
    ruleset,
    table,
    training_run,
    verdict,
)
from conformance.judging.mlperf_log import compliance_misses, parse_compliance, rcp_test, write_log
from conformance.subject.early_check import hopeless

RULES = ruleset()
# Top-1 after every fourth epoch: mlcommons/training_results_v1.0, Intel, 1-node-8s-8380H-tensorflow/resnet, result_1.
REACHED = (0.33616, 0.46434, 0.50356, 0.58926, 0.62392, 0.70366, 0.73446, 0.75396, 0.76026)
INTEL_STEPS = {
    "decay": "steps",
    "warmup_epochs": 5,
    "epochs": 90,
    "boundaries": [30, 60, 80, 90],
    "factors": [1, 0.1, 0.01, 0.001, 1e-4],
}


def polynomial(peak: float, batch: int, **changes: Any) -> dict[str, Any]:
    base = peak * 256 / batch
    return {"base": base, "decay": "polynomial", "warmup_epochs": 2, "epochs": 37, "end": 1e-4, **changes}


def answer(curve: tuple[float, ...], epochs: tuple[float, ...], images: int = 50_000) -> dict[str, Any]:
    """Return what a subject answers, as far as it matters here: times in steps of a second."""
    spans = [[1_700_000_010_000 + 5000 * i, 1_700_000_011_000 + 5000 * i] for i in range(len(curve))]
    evaluations = [
        {
            "step": round(epoch * 300),
            "epoch": epoch,
            "top1_hits": round(top1 * images),
            "top5_hits": 0,
            "images": images,
        }
        for top1, epoch in zip(curve, epochs, strict=True)
    ]
    times = {
        "init_start_ms": 1_700_000_000_000,
        "init_stop_ms": 1_700_000_005_000,
        "run_start_ms": 1_700_000_005_001,
        "run_stop_ms": spans[-1][1] + 500,
        "evaluations": spans,
    }
    return {"first_step": 0, "evaluations": evaluations, "times": times, "losses": []}


def lars(curve: tuple[float, ...] = REACHED, epochs: tuple[float, ...] | None = None, **changes: Any) -> TrainingRun:
    """Return the run of the published logs, on 32 ranks."""
    arguments = {
        "seed": 1_623_291_220,
        "batch_size": 102,
        "accumulate": 1,
        "ranks": {"engine": "horovod", "world_size": 32},
        "train_images": 1_281_167,
        "optimizer": "lars",
        "momentum": 0.9,
        "weight_decay": 5e-5,
        "label_smoothing": 0.0,
        "schedule": polynomial(10.5, 3264),
        **changes,
    }
    epochs = epochs or tuple(4.0 * (i + 1) for i in range(len(curve)))
    return training_run(arguments, answer(curve, epochs))


def digits(**changes: Any) -> dict[str, Any]:
    return {
        "seed": 1,
        "batch_size": 64,
        "accumulate": 1,
        "ranks": None,
        "train_images": 1433,
        "optimizer": "momentum",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "label_smoothing": 0.0,
        "schedule": polynomial(0.004, 64, epochs=20),
        **changes,
    }


def digits_run(**changes: Any) -> TrainingRun:
    """Return a digits training as this project measured it, had it been evaluated every four epochs."""
    return training_run(digits(**changes), answer((0.5, 0.9615, 0.9808, 0.9863, 0.9863), (4, 8, 12, 16, 20), 364))


def missed_of(run: TrainingRun, rules: Any = RULES) -> list[str]:
    return [miss.rule for miss in misses(run, rules)]


def logged(tmp_path: Path, run: TrainingRun, rules: Any = RULES) -> Path:
    pytest.importorskip("mlperf_logging", reason="needs mlperf-logging, of the extra mlperf")
    path = tmp_path / "result_0.txt"
    write_log(path, run, rules, "two of an unnamed CPU")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in path.read_text().splitlines()]


# By the rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("division", ["closed", "open"])
def test_a_published_run_misses_no_rule_and_none_of_the_official_checker(tmp_path: Path, division: str) -> None:
    rules = ruleset("4.0", division)
    assert misses(lars(), rules) == ()
    assert compliance_misses(logged(tmp_path, lars(), rules), rules) == ()
    judged, text = verdict(rules, ())
    assert judged == "inside"
    assert text == (
        f"MLPerf Training 4.0, {division} division (ruleset 4.0.0): every rule that is checked here is met. "
        "Not an official result."
    )


def test_the_official_checker_takes_a_digits_run_and_the_rules_name_what_only_imagenet_can_meet(tmp_path: Path) -> None:
    run = digits_run()
    official = compliance_misses(logged(tmp_path, run), RULES)
    assert official == ()
    assert missed_of(run) == ["train_samples", "eval_samples"] == [row.rule for row in table().only_full_data]
    judged, text = verdict(RULES, (*misses(run, RULES), *official))
    assert judged == "inside"
    assert text.endswith(
        "met, apart from what only the full data can meet: "
        "train_samples (the training set is the whole of ImageNet's, 1,281,167 images) and "
        "eval_samples (each evaluation is of all 50,000 validation images). Not an official result."
    )


@pytest.mark.parametrize(("base", "peak", "flag"), [(0.128, 2.048, "mlperf_resnet"), (0.1, 1.6, "--fine_tune")])
def test_the_recipes_mlperf_command_is_no_closed_run_with_either_base_rate(
    tmp_path: Path, base: float, peak: float, flag: str
) -> None:
    run = lars(
        batch_size=128, optimizer="momentum", weight_decay=1e-4, schedule={"base": base, **INTEL_STEPS}
    )  # 32 ranks of 128 images, as its command says
    assert run.plan.peak == peak and flag in (documented_base(base) or "")
    wrong = {"sgd_opt_end_learning_rate", "sgd_opt_learning_rate_decay_poly_power"}
    assert set(missed_of(run)) == wrong
    official = compliance_misses(logged(tmp_path, run), RULES)
    assert {miss.rule for miss in official} == wrong | {"sgd_opt_learning_rate_decay_steps"}
    judged, text = verdict(RULES, (*misses(run, RULES), *official))
    assert judged == "invalid"
    assert "the rate decays by 'steps'; allowed is polynomial; the last rate is" in text
    assert documented_base(0.2) is None


def test_a_run_that_just_missed_the_accuracy_is_outside_and_the_official_checker_says_so_too(tmp_path: Path) -> None:
    run = lars((*REACHED[:-1], 0.75898))
    official = compliance_misses(logged(tmp_path, run), RULES)
    assert [miss.rule for miss in official] == ["eval_accuracy"]
    assert "v['value'] >= 0.7590" in official[0].text
    judged, text = verdict(RULES, (*misses(run, RULES), *official))
    assert judged == "outside"
    assert text == (
        "MLPerf Training 4.0, closed division (ruleset 4.0.0): top-1 never reached 0.759: "
        "the best of 9 evaluations is 0.75898 after epoch 36. Not an official result."
    )
    assert lines(tmp_path / "result_0.txt")[-1]["metadata"]["status"] == "aborted"


def test_an_accuracy_of_exactly_the_target_reaches_it() -> None:
    assert missed_of(lars((0.759,), (4,))) == []
    assert missed_of(lars((0.759 - 1 / 50_000,), (4,))) == ["eval_accuracy"]


@pytest.mark.parametrize(
    ("epochs", "missed"),
    [
        ((1, 5, 9), []),
        ((4, 8, 12), []),
        ((1, 2, 3), []),
        ((5, 9, 13), ["eval_start"]),
        ((4, 9, 13), ["eval_start"]),
    ],
)
def test_evaluations_are_needed_every_four_epochs_the_first_after_one_to_four(
    epochs: tuple[float, ...], missed: list[str]
) -> None:
    assert missed_of(lars((0.1, 0.2, 0.76), epochs)) == missed


def test_how_a_run_is_evaluated_after_it_reached_the_target_does_not_matter() -> None:
    assert missed_of(lars((0.76, 0.77), (4, 90))) == []


@pytest.mark.parametrize(
    ("changes", "rule", "text"),
    [
        ({"momentum": 0.875}, "sgd_opt_momentum", "the momentum is 0.875; allowed is 0.9"),
        (
            {"weight_decay": 6.103515625e-05},
            "sgd_opt_weight_decay",
            "the weight decay is 6.103515625e-05; allowed is 0.0001 times a power of 2",
        ),
        ({"weight_decay": 0.0}, "sgd_opt_weight_decay", "the weight decay is 0.0; allowed is"),
        ({"label_smoothing": 0.2}, "label_smoothing", "the label smoothing is 0.2; allowed is 0 or 0.1"),
        (
            {"schedule": polynomial(0.0045, 64)},
            "sgd_opt_base_learning_rate",
            "the peak of the rate is 0.0045; allowed are multiples of 0.001",
        ),
        (
            {"schedule": polynomial(0.004, 64, end=0.0)},
            "sgd_opt_end_learning_rate",
            "the last rate is 0; allowed is 0.0001",
        ),
        (
            {"schedule": polynomial(0.004, 64, power=1.0)},
            "sgd_opt_learning_rate_decay_poly_power",
            "the rate decays with power 1; allowed is 2",
        ),
    ],
)
def test_a_hyperparameter_that_is_not_allowed_makes_the_run_invalid_in_the_closed_division_only(
    changes: dict[str, Any], rule: str, text: str
) -> None:
    run = digits_run(**changes)
    found = [miss for miss in misses(run, RULES) if miss.rule not in ("train_samples", "eval_samples")]
    assert [miss.rule for miss in found] == [rule] and text in found[0].text
    assert verdict(RULES, misses(run, RULES))[0] == "invalid"
    assert verdict(ruleset("4.0", "open"), misses(run, ruleset("4.0", "open")))[0] == "inside"


def test_the_official_checker_finds_the_same_wrong_hyperparameters_where_it_has_a_rule(tmp_path: Path) -> None:
    run = digits_run(weight_decay=6.103515625e-05, schedule=polynomial(0.0045, 64, end=0.0))
    official = {miss.rule for miss in compliance_misses(logged(tmp_path, run), RULES)}
    assert official == {"sgd_opt_weight_decay", "sgd_opt_base_learning_rate", "sgd_opt_end_learning_rate"}
    assert official == set(missed_of(run)) - {"train_samples", "eval_samples"}


def test_the_momentum_of_lars_is_free_from_a_batch_of_32768_images_on() -> None:
    small = lars(momentum=0.94, batch_size=1023)
    large = lars(momentum=0.94, batch_size=1024)
    assert (small.global_batch, large.global_batch) == (32_736, 32_768)
    assert missed_of(small) == ["lars_opt_momentum"] and missed_of(large) == []


@pytest.mark.parametrize(("division", "minutes"), [("closed", 30), ("open", 240)])
def test_beginning_may_take_less_than_the_divisions_minutes(tmp_path: Path, division: str, minutes: int) -> None:
    def run(init_ms: int) -> TrainingRun:
        told = answer((0.76,), (4,))
        told["times"]["init_start_ms"] = told["times"]["init_stop_ms"] - init_ms
        return training_run(digits(train_images=1_281_167), told)

    rules = ruleset("4.0", division)
    assert missed_of(run(minutes * 60_000 - 1), rules) == []
    assert missed_of(run(minutes * 60_000), rules) == ["init_stop"]
    assert [miss.rule for miss in compliance_misses(logged(tmp_path, run(minutes * 60_000), rules), rules)] == [
        "init_stop"
    ]


def test_a_round_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"Unknown round .*'5.0 closed'.* known: 4.0 closed, 4.0 open"):
        ruleset("5.0")


# A run that cannot be logged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_step": 440}, "The run was resumed at step 440, and MLPerf times a run as a whole."),
        ({"evaluations": []}, "The run was never evaluated."),
        ({"times": None}, "The run's times are None: Expected `object`, got `null`."),
        ({"times": {"init_start_ms": 1}}, "Object missing required field `init_stop_ms`"),
    ],
)
def test_a_run_that_was_not_timed_as_a_whole_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        training_run(digits(), {**answer((0.76,), (4,)), **change})


def test_times_in_disorder_and_times_of_other_evaluations_are_refused() -> None:
    told = answer((0.5, 0.76), (4, 8))
    told["times"]["evaluations"].reverse()
    with pytest.raises(UsageError, match=r"The run's times are not in order: \[1700000000000, "):
        training_run(digits(), told)
    told["times"]["evaluations"].pop()
    with pytest.raises(UsageError, match="The run tells the times of 1 of 2 evaluations."):
        training_run(digits(), told)


# The log ---------------------------------------------------------------------------------------------------------


def test_the_log_ends_with_the_evaluation_that_reached_the_target(tmp_path: Path) -> None:
    told = lines(logged(tmp_path, digits_run()))
    evaluated = [(line["metadata"]["epoch_num"], line["value"]) for line in told if line["key"] == "eval_accuracy"]
    assert evaluated == [(4, 0.5), (8, 350 / 364)]
    assert told[-1]["key"] == "run_stop" and told[-1]["metadata"]["status"] == "success"
    assert told[-1]["time_ms"] == told[-2]["time_ms"] == 1_700_000_016_000


def test_the_log_counts_epochs_from_one_and_its_times_are_those_of_the_run(tmp_path: Path) -> None:
    told = lines(logged(tmp_path, lars((0.1, 0.76), (3, 6.5))))
    blocks = [
        (line["key"], line["metadata"]["first_epoch_num"], line["metadata"]["epoch_count"], line["time_ms"])
        for line in told
        if line["key"].startswith("block")
    ]
    assert blocks == [
        ("block_start", 1, 3, 1_700_000_005_001),
        ("block_stop", 1, 3, 1_700_000_010_000),
        ("block_start", 4, 3.5, 1_700_000_011_000),
        ("block_stop", 4, 3.5, 1_700_000_015_000),
    ]
    times = [line["time_ms"] for line in told]
    assert times == sorted(times)


def test_the_log_says_what_the_run_did_and_claims_no_submission(tmp_path: Path) -> None:
    path = logged(tmp_path, lars())
    told = {line["key"]: line["value"] for line in lines(path)}
    assert told["global_batch_size"] == 3264 and told["model_bn_span"] == 102 and told["seed"] == 1_623_291_220
    assert (told["opt_name"], told["lars_opt_base_learning_rate"]) == ("lars", 10.5)
    assert told["lars_opt_learning_rate_decay_steps"] == 13_738  # 37 epochs of 392.5 steps less 2 of warm-up
    assert told["cache_clear"] is False and told["submission_org"] == "none: not a submission"
    assert told["submission_platform"] == "two of an unnamed CPU"
    assert str(Path(mlperf_log.__file__).parents[2]) not in path.read_text()


# The official checkers -------------------------------------------------------------------------------------------


def test_every_kind_of_message_of_the_official_checker_is_one_miss_with_its_key(tmp_path: Path) -> None:
    path = logged(tmp_path, digits_run())
    text = path.read_text()
    for key in ("run_start", "eval_start"):
        text = re.sub(rf'.*"key": "{key}".*\n', "", text)
    text = text.replace('"block_st', '"other_st').replace('"value": 64', '"value": "many"', 1)
    path.write_text(text + ":::MLLOG no JSON\n")
    rules = {miss.rule: miss.text for miss in compliance_misses(path, RULES)}
    assert set(rules) == {"run_start", "run_stop", "global_batch_size", "block_start", "block_stop", "log"}
    assert rules["run_start"] == (
        "the compliance checker says \"Required EXACTLY_ONE occurrence of 'run_start' but found 0\""
    )
    assert rules["run_stop"] == "the compliance checker says \"run_stop: s['run_started']\""
    assert rules["global_batch_size"] == "the compliance checker says \"global_batch_size: v['value'] > 0\""
    assert rules["log"] == "the compliance checker says 'Log lines had parsing errors.'"


def test_a_log_that_passes_with_a_warning_misses_nothing(tmp_path: Path) -> None:
    path = logged(tmp_path, digits_run())
    seed = next(line for line in path.read_text().splitlines() if '"train_samples"' in line)
    path.write_text(path.read_text() + seed + "\n")
    assert compliance_misses(path, RULES) == ()
    assert parse_compliance("INFO - SUCCESS\n") == ()


def test_the_checkers_leave_nothing_where_they_were_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = logged(tmp_path, digits_run())
    monkeypatch.chdir(tmp_path)
    compliance_misses(Path(path.name), RULES)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_checker_that_fails_itself_is_a_fault_and_not_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = logged(tmp_path, digits_run())
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho Traceback: of its own >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(HarnessFault, match=r"compliance_checker ended with 1 and said 'Traceback: of its own'"):
        compliance_misses(path, RULES)
    with pytest.raises(HarnessFault, match=r"rcp_checker ended with 1 and said 'Traceback: of its own'"):
        rcp_test([path] * 5, RULES)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlperf_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="'mlperf-logging', which is not installed") as told:
        write_log(tmp_path / "result_0.txt", lars(), RULES, "a CPU")
    assert told.value.hint == "pip install 'tf-conformance[mlperf]'"


@pytest.mark.parametrize(
    ("epochs", "passed", "said"),
    [
        ((35, 36, 35, 34, 36), True, "RCP found; mean 35.33 epochs to the target, at least 34.31 allowed. Not an"),
        ((32, 33, 33, 32, 33), False, "RCP found; mean 32.67 epochs to the target, at least 34.31 allowed. Not an"),
    ],
)
def test_runs_that_converge_faster_than_the_reference_allows_fail(
    tmp_path: Path, epochs: tuple[int, ...], passed: bool, said: str
) -> None:
    logs = []
    for number, epoch in enumerate(epochs):
        run = lars((0.5,) * ((epoch - 1) // 4) + (0.76,), tuple(range(epoch % 4 or 4, epoch + 1, 4)))
        assert missed_of(run) == []
        logs.append(logged(tmp_path, run).rename(tmp_path / f"run{number}.txt"))
    found, text = rcp_test(logs, RULES)
    assert found is passed and said in text


def test_other_than_five_runs_decide_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ruleset 4.0.0\) is decided by 5 runs, and these are 4."):
        rcp_test([tmp_path / "result_0.txt"] * 4, RULES)


def test_of_a_rule_that_is_missed_twice_the_first_sentence_is_told() -> None:
    missed = [Miss(rule="sgd_opt_momentum", text="first"), Miss(rule="sgd_opt_momentum", text="second")]
    assert verdict(RULES, missed)[1] == f"{RULES.name}: first. Not an official result."


# The early check -------------------------------------------------------------------------------------------------

# Top-1 after every fourth epoch of result_3, result_4 and result_5, up to epoch 24.
ALSO_REACHED = (
    (0.3479, 0.43122, 0.54714, 0.59172, 0.66732, 0.70824),
    (0.37024, 0.48842, 0.55034, 0.59324, 0.66232, 0.7014),
    (0.35996, 0.47884, 0.53992, 0.6059, 0.66654, 0.70128),
)
BAND = {"target": 0.75, "lowest": [[4, 0.25], [8, 0.5]], "margin": 0.125, "source": "two runs"}


def at(epoch: float, hits: int, images: int = 1000) -> list[dict[str, Any]]:
    return [
        {"epoch": 1, "top1_hits": 0, "images": images},
        {"epoch": epoch, "top1_hits": hits, "images": images},
    ]


def test_a_run_far_below_those_that_reached_the_target_is_hopeless_and_the_sentence_says_by_what() -> None:
    assert hopeless(at(12, 374), BAND) == (
        "At epoch 12 top-1 is 0.3740, and less than 0.3750 is hopeless: "
        "runs that reached 0.75 had at least 0.5000 from epoch 8 on (two runs)."
    )


@pytest.mark.parametrize(("epoch", "hits"), [(3.9, 0), (4, 125), (7.9, 125), (8, 375), (90, 1000)])
def test_before_the_first_known_epoch_and_down_to_the_margin_there_is_hope(epoch: float, hits: int) -> None:
    assert hopeless(at(epoch, hits), BAND) is None


@pytest.mark.parametrize(("epoch", "hits"), [(4, 124), (7.9, 124), (8, 374), (90, 0)])
def test_one_image_less_than_the_margin_is_hopeless(epoch: float, hits: int) -> None:
    assert hopeless(at(epoch, hits), BAND)


def test_only_the_last_evaluation_counts() -> None:
    assert hopeless([*at(8, 0), *at(12, 600)], BAND) is None


@pytest.mark.parametrize("curve", [REACHED, *ALSO_REACHED])
def test_the_published_runs_that_reached_the_target_are_not_called_hopeless(curve: tuple[float, ...]) -> None:
    band = early_check("imagenet-lars-polynomial")
    for number, top1 in enumerate(curve, start=1):
        assert hopeless(at(4 * number, round(top1 * 50_000), 50_000), band) is None


def test_the_lowest_of_the_published_runs_is_what_the_table_says() -> None:
    lowest = [min(values) for values in zip(REACHED, *ALSO_REACHED, strict=False)]
    assert [point[1] for point in early_check("imagenet-lars-polynomial")["lowest"]] == pytest.approx(lowest, abs=1e-4)


def test_a_training_on_shuffled_labels_is_hopeless_at_the_first_evaluation_and_one_that_learns_is_not() -> None:
    band = early_check("digits")
    assert "At epoch 5 top-1 is 0.1154" in (hopeless(at(5, 42, 364), band) or "")
    for epoch, hits in ((5, 331), (10, 340), (15, 355), (20, 355)):
        assert hopeless(at(epoch, hits, 364), band) is None


def test_the_band_of_another_recipe_would_end_a_run_that_is_well() -> None:
    waiting = at(27, 24_800, 50_000)  # before the second part of the rate, as all runs of that recipe
    assert hopeless(waiting, early_check("imagenet-momentum-steps")) is None
    assert hopeless(waiting, early_check("imagenet-lars-polynomial"))


@pytest.mark.parametrize("name", bands())
def test_a_band_has_growing_epochs_and_never_falls(name: str) -> None:
    band = bands()[name]
    epochs, lowest = zip(*band.lowest, strict=True)
    assert list(epochs) == sorted(set(epochs)) and list(lowest) == sorted(lowest)
    assert 0 < band.margin < lowest[0] + 0.2 and lowest[-1] <= 1
    assert json.loads(json.dumps(early_check(name))) == early_check(name)


def test_an_early_check_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"Unknown early check 'digit' \(did you mean 'digits'\?\); known: digits, "):
        early_check("digit")
