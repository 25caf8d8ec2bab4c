"""Training rows: what a table may say, what goes together, and how much of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance import schedules
from conformance.cases import Band, Case, load_cases
from conformance.cases.training import Recipe, Schedule
from conformance.errors import CannotRun, UsageError
from conformance.fixtures.options import Options
from conformance.fixtures.repeats import OF_THE_SERIES
from conformance.fixtures.session import Session
from conformance.fixtures.sizes import check_course, training_sizes
from conformance.fixtures.training import Training
from conformance.fixtures.training_answer import LEARNT, unjudged
from conformance.hardware.profile import Drive, Machine, Profile

ROOT = Path(__file__).parents[1]
CASES = [case for path in sorted((ROOT / "suites/training").glob("*.toml")) for case in load_cases(path)]
GAUDI = [case for path in sorted((ROOT / "suites/gaudi").glob("*.toml")) for case in load_cases(path)]

ROW = """
[[case]]
id = "smoke"
model = "resnet50_v1_5"
mode = "training"
precision = "bf16"
dataset = "synthetic"
batch_size = 32
source = "README of the recipe"

  [case.training]
  epochs = 1
  max_train_steps = 120
  momentum = 0.9
  weight_decay = 1e-4
  crop = "intel"
  schedule = { base = 0.128, decay = "steps", warmup_epochs = 0.1, epochs = 1, boundaries = [0.5], factors = [1, 0.1] }
"""


def loaded(path: Path, text: str) -> Case:
    path.write_text(text, encoding="utf-8")
    (case,) = load_cases(path)
    return case


def test_a_training_row_becomes_a_case_with_its_recipe(tmp_path: Path) -> None:
    case = loaded(tmp_path / "cases.toml", ROW)
    assert case.markers == ("bf16", "training")
    assert case.training is not None
    assert (case.training.max_train_steps, case.training.momentum, case.training.optimizer) == (120, 0.9, "momentum")
    assert case.training.schedule.factors == (1, 0.1)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("momentum = 0.9", "momentun = 0.9", "case[0].training: Unknown key 'momentun' (did you mean 'momentum'?)"),
        ("momentum = 0.9", "momentum = 1.1", "case[0].training.momentum = 1.1: Expected `float` <= 1.0."),
        ("weight_decay = 1e-4", "", "case[0].training: Object missing required field `weight_decay`."),
        ('crop = "intel"', 'crop = "random"', "case[0].training.crop = 'random': Invalid enum value 'random'."),
        ("epochs = 1\n", "epochs = 0\n", "case[0].training.epochs = 0: Expected `int` >= 1."),
        ("base = 0.128", "base = 0.0", "case[0].training.schedule.base = 0.0: Expected `float` > 0.0."),
        ('"steps"', '"linear"', "case[0].training.schedule.decay = 'linear': Invalid enum value 'linear'."),
    ],
)
def test_a_wrong_recipe_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        loaded(tmp_path / "cases.toml", ROW.replace(old, new))
    assert error.value.message.startswith(f"cases.toml, {told}")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[case.training]" + ROW.partition("[case.training]")[2], "", "has mode 'training' and no table"),
        ('"training"', '"accuracy"', "has a table [case.training] and mode 'accuracy'."),
        ('"bf16"', '"int8"', "trains in 'int8'; allowed are fp32 and bf16."),
        ('"synthetic"', '"dummy"', "trains on 'dummy' images, which nothing can be learnt of; allowed are synthetic,"),
        ("max_train_steps = 120", "", "trains on synthetic images without max_train_steps,"),
    ],
)
def test_a_row_whose_parts_do_not_go_together_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        loaded(tmp_path / "cases.toml", ROW.replace(old, new))
    assert error.value.message.startswith(f"Case 'smoke' of cases.toml {told}")


def test_synthetic_images_are_for_training_only(tmp_path: Path) -> None:
    text = ROW.partition("[case.training]")[0].replace('"training"', '"throughput"')
    with pytest.raises(UsageError, match="has dataset 'synthetic', which is for training"):
        loaded(tmp_path / "cases.toml", text)


@pytest.mark.parametrize("row", (*CASES, *GAUDI), ids=lambda row: row.id)
def test_every_row_of_the_suites_has_a_schedule_that_the_subject_takes(row: Case) -> None:
    assert row.training is not None
    made = schedules.schedule(msgspec.to_builtins(row.training.schedule))
    assert schedules.rate(schedules.plan(made, 256, 1_281_167), 1) > 0


@pytest.mark.parametrize("schedule", [schedules.INTEL, schedules.HABANA])
def test_the_documented_rows_have_the_schedules_of_the_recipes(schedule: schedules.Schedule) -> None:
    rows = [case.training.schedule for case in (*CASES, *GAUDI) if case.training and case.dataset == "imagenet"]
    known = {f: getattr(schedule, f) for f in Schedule.__struct_fields__}
    assert Schedule(**known) in rows


def test_the_smoke_rows_are_more_than_a_hundred_steps_of_each_network_in_each_precision() -> None:
    smoke = [case for case in CASES if case.dataset == "synthetic"]
    assert {(case.model, case.precision) for case in smoke} == {
        (model, precision) for model in ("resnet50_v1_5", "resnext101_32x4d") for precision in ("fp32", "bf16")
    }
    assert all(case.training and (case.training.max_train_steps or 0) > 100 for case in smoke)
    assert all({"loss_trend_p", "loss_trend_tau", "loss_drop"} <= {b.metric for b in case.band} for case in smoke)


def test_a_row_that_is_held_to_fp32_has_a_twin_in_fp32_which_is_trained_once() -> None:
    def training(case: Case) -> tuple[Any, ...]:
        return case.model, case.dataset, case.batch_size, case.training

    held = [case for case in CASES if any(band.metric == "top1_below_fp32" for band in case.band)]
    assert {case.model for case in held} == {"resnet50_v1_5", "resnext101_32x4d"}
    assert {training(case) for case in held} <= {training(case) for case in CASES if case.precision == "fp32"}


RECIPE = Recipe(
    epochs=20, schedule=Schedule(base=0.1, warmup_epochs=1, epochs=20), momentum=0.9, weight_decay=0.0, crop="digits"
)
DIGITS = Case(
    id="row", model="resnet50_v1_5", mode="training", precision="fp32", dataset="digits", batch_size=64,
    source="a README", training=RECIPE,
)  # fmt: skip
SYNTHETIC = msgspec.structs.replace(
    DIGITS, dataset="synthetic", training=msgspec.structs.replace(RECIPE, epochs=1, max_train_steps=120)
)


def profile(**drive: Any) -> Profile:
    return Profile(name="small", description="a machine", machine=Machine(), drive=Drive(**drive))


def test_a_profile_makes_a_batch_of_synthetic_images_smaller_and_keeps_the_steps_an_epoch() -> None:
    found = training_sizes(SYNTHETIC, profile(train_batch_size=4, batch_size=32), Options(), None)
    assert (found.batch_size, found.train_images, found.max_train_steps) == (4, 480, 120)
    assert found.notes == ("batch size is 4 by profile 'small'; the row has 64.",)
    assert training_sizes(SYNTHETIC, profile(), Options(), None).train_images == 64 * 120


def test_synthetic_images_have_the_rates_of_the_row_and_real_ones_those_of_their_batch(tmp_path: Path) -> None:
    def peak(case: Case, images: int | None, batch_size: int) -> float:
        a = task_arguments(state(tmp_path, batch_size=batch_size), case, tmp_path if images else None, images)
        return schedules.plan(schedules.schedule(a["schedule"]), a["batch_size"], a["train_images"]).peak

    assert [peak(SYNTHETIC, None, size) for size in (64, 4)] == pytest.approx([0.025, 0.025])
    assert [peak(DIGITS, 1433, size) for size in (64, 4)] == pytest.approx([0.025, 0.0015625])


def test_the_batch_of_real_images_belongs_to_the_recipe() -> None:
    assert training_sizes(DIGITS, profile(train_batch_size=4), Options(), 1433).batch_size == 64
    assert training_sizes(DIGITS, profile(train_batch_size=4), Options(batch_size=8), 1433).batch_size == 8


@pytest.mark.parametrize(
    ("row", "images", "options", "shortened"),
    [
        (DIGITS, 1433, {}, None),
        (DIGITS, 1433, {"train_epochs": 20}, None),
        (DIGITS, 1433, {"train_epochs": 21}, None),
        (DIGITS, 1433, {"train_epochs": 19}, "its band is for training of 20 epochs, and --train-epochs is 19"),
        (DIGITS, 1433, {"max_train_steps": 440}, None),
        (DIGITS, 1433, {"max_train_steps": 439}, "its band is for training of 440 steps, and --max-train-steps is 439"),
        (SYNTHETIC, None, {"max_train_steps": 120}, None),
        (SYNTHETIC, None, {"max_train_steps": 3}, "its band is for training of 120 steps, and --max-train-steps is 3"),
    ],
)
def test_a_run_that_an_option_makes_shorter_than_its_row_says_so(
    row: Case, images: int | None, options: dict[str, int], shortened: str | None
) -> None:
    assert training_sizes(row, profile(), Options(**options), images).shortened == shortened


def test_a_run_on_other_images_or_resumed_or_shortened_is_not_held_to_bands_that_are_not_for_it() -> None:
    whole = training_sizes(DIGITS, profile(), Options(), 1433)
    shorter = training_sizes(DIGITS, profile(), Options(train_epochs=2), 1433)
    imagenet = msgspec.structs.replace(DIGITS, dataset="imagenet")
    none = Options()
    assert unjudged(DIGITS, whole, 0, none) == {}
    assert set(unjudged(DIGITS, shorter, 0, none)) == set(LEARNT)
    resumed = unjudged(DIGITS, whole, 60, none)
    assert set(resumed) == set(OF_THE_SERIES)
    assert "those before step 60 are of the run that was resumed" in resumed["loss_drop"]
    told = "its band is for 1,281,167 training images, and these are 1,433"
    assert unjudged(imagenet, whole, 0, none)["top1"] == told
    assert unjudged(imagenet, training_sizes(imagenet, profile(), none, 1_281_167), 0, none) == {}


def test_a_pretrained_start_is_not_held_to_what_seeded_weights_learn_unless_the_row_is_about_that() -> None:
    options = Options(pretrained_checkpoint="kept", fine_tune=True)
    whole = training_sizes(DIGITS, profile(), options, 1433)
    found = unjudged(DIGITS, whole, 0, options)
    assert set(found) == set(LEARNT)
    assert found["top1"] == "its band is for training from seeded weights, and --pretrained-checkpoint was given"
    tuned = msgspec.structs.replace(DIGITS, training=msgspec.structs.replace(RECIPE, fine_tune=True))
    assert unjudged(tuned, whole, 0, options) == {}


def test_a_checkpoint_that_is_only_evaluated_is_held_to_accuracy_and_to_nothing_else() -> None:
    options = Options(eval_only=True, model_dir="kept")
    bands = tuple(Band(metric=m, at_least=0.1, source="a README") for m in ("top1", "loss_drop", "native_share"))
    row = msgspec.structs.replace(DIGITS, band=bands)
    whole = training_sizes(row, profile(), options, 1433)
    found = unjudged(row, whole, 440, options)
    assert found == dict.fromkeys(("loss_drop", "native_share"), "--eval-only judges a checkpoint and trains nothing")
    early = unjudged(row, whole, 439, options)["top1"]
    assert early == "its band is for training of 440 steps, and the checkpoint is that of step 439"
    assert "top1" not in unjudged(row, whole, 0, Options(eval_only=True, pretrained_checkpoint="kept"))


@pytest.mark.parametrize(
    ("row", "images", "options", "told"),
    [
        (DIGITS, 1433, {"epochs_between_evals": 21}, "--epochs-between-evals 21 is more than the 20 epochs of 'row'."),
        (DIGITS, 1433, {"epochs_between_evals": 3, "train_epochs": 2}, "is more than the 2 epochs of 'row'."),
        (DIGITS, 1433, {"profile_steps": (5, 440)}, "--profile-steps 5,440 is beyond step 439, which is the last of"),
        (SYNTHETIC, None, {"profile_steps": (119, 120)}, "--profile-steps 119,120 is beyond step 119"),
        (SYNTHETIC, None, {"profile_steps": (5, 8), "max_train_steps": 8}, "--profile-steps 5,8 is beyond step 7"),
    ],
)
def test_what_comes_after_the_end_of_a_training_is_refused(
    row: Case, images: int | None, options: dict[str, Any], told: str
) -> None:
    given = Options(**options)
    with pytest.raises(UsageError, match=told):
        check_course(row, given, training_sizes(row, profile(), given, images))


@pytest.mark.parametrize(
    ("row", "images", "options"),
    [
        (DIGITS, 1433, {"epochs_between_evals": 20, "profile_steps": (439, 439)}),
        (DIGITS, 1433, {"profile_steps": (440, 461), "train_offset": 1}),
        (SYNTHETIC, None, {"epochs_between_evals": 5}),
    ],
)
def test_the_last_step_and_the_last_epoch_are_not_beyond_the_end(
    row: Case, images: int | None, options: dict[str, Any]
) -> None:
    given = Options(**options)
    check_course(row, given, training_sizes(row, profile(), given, images))


def state(tmp_path: Path, **options: Any) -> Session:
    return Session(Options(hw="generic-cpu", output_dir=str(tmp_path), **options), ROOT, ("pytest",), "run-1", None)


def task_arguments(session: Session, case: Case, data: Path | None, images: int | None) -> dict[str, Any]:
    chosen = training_sizes(case, session.chosen.profile, session.options, images)
    return Training(session).task(case, case.precision, case.id, data, chosen, seed=7).arguments


def test_a_job_carries_the_recipe_and_the_options(tmp_path: Path) -> None:
    asked = {"model_dir": str(tmp_path / "kept"), "stop_threshold": 0.5, "profile_steps": (5, 8), "train_offset": 2}
    a = task_arguments(state(tmp_path, **asked, train_epochs=3, max_cpus=2), DIGITS, tmp_path, 1433)
    assert (a["train_offset"], a["checkpoint_steps"], a["eval_only"], a["export_saved_model"]) == (2, None, False, None)
    assert (a["network"], a["classes"], a["image_size"], a["dataset"]) == ("resnet50_v1_5", 11, 32, "digits")
    assert (a["epochs"], a["seed"], a["stop_threshold"], a["max_cpus"]) == (3, 7, 0.5, 2)
    assert (a["model_dir"], a["resume"]) == (str(tmp_path / "kept" / "row"), True)
    assert a["schedule"]["epochs"] == 20 and a["schedule"]["decay"] == "cosine"
    assert a["profile_steps"] == (5, 8) and a["tensorboard"].endswith("row-tensorboard")
    assert a["export_graph"].endswith("artefacts/row.pb")


def test_a_job_carries_what_it_starts_from_and_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the subject works elsewhere: a path of the user's is from here
    asked = {"pretrained_checkpoint": "kept", "fine_tune": True, "export_saved_model": True, "checkpoint_steps": 0}
    a = task_arguments(state(tmp_path, model_dir="more", **asked), DIGITS, tmp_path, 1433)
    assert (a["pretrained"], a["fine_tune"], a["checkpoint_steps"]) == (str(tmp_path / "kept"), True, 0)
    assert a["export_saved_model"].endswith("artefacts/row-saved-model")
    plain = task_arguments(state(tmp_path), DIGITS, tmp_path, 1433)
    assert (plain["pretrained"], plain["fine_tune"], plain["export_saved_model"]) == (None, False, None)


def test_synthetic_images_have_nothing_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="Synthetic images have no validation split, which --eval-only judges"):
        Training(state(tmp_path, eval_only=True, model_dir=str(tmp_path))).run(SYNTHETIC)


def test_synthetic_images_come_without_a_directory_and_leave_no_graph(tmp_path: Path) -> None:
    a = task_arguments(state(tmp_path), SYNTHETIC, None, None)
    assert (a["data"], a["dataset"], a["classes"], a["image_size"]) == (None, "imagenet", 1001, 224)
    assert (a["export_graph"], a["model_dir"], a["resume"], a["tensorboard"]) == (None, None, False, None)


def test_imagenet_is_not_run_without_its_directory(tmp_path: Path) -> None:
    case = msgspec.structs.replace(DIGITS, dataset="imagenet")
    with pytest.raises(CannotRun, match=r"needs its images, and --data-location was not given.* Give --data-location"):
        Training(state(tmp_path)).run(case)
