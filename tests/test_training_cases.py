"""Training rows: what a table may say, what goes together, and how much of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance.cases import Case, load_cases
from conformance.cases.training import Recipe, Schedule
from conformance.errors import CannotRun, UsageError
from conformance.fixtures.options import Options
from conformance.fixtures.session import Session
from conformance.fixtures.sizes import training_sizes
from conformance.fixtures.training import LEARNT, OF_THE_SERIES, Training, unjudged
from conformance.hardware.profile import Drive, Machine, Profile
from conformance.models import schedules

ROOT = Path(__file__).parents[1]
CASES = [case for path in sorted((ROOT / "suites/training").glob("*.toml")) for case in load_cases(path)]

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


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.id)
def test_every_row_of_the_suite_has_a_schedule_that_the_subject_takes(row: Case) -> None:
    assert row.training is not None
    made = schedules.schedule(msgspec.to_builtins(row.training.schedule))
    assert schedules.rate(schedules.plan(made, 256, 1_281_167), 1) > 0


@pytest.mark.parametrize("schedule", [schedules.INTEL, schedules.HABANA])
def test_the_documented_rows_have_the_schedules_of_the_recipes(schedule: schedules.Schedule) -> None:
    rows = [case.training.schedule for case in CASES if case.training and case.dataset == "imagenet"]
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
    assert unjudged(DIGITS, whole, 0) == {}
    assert set(unjudged(DIGITS, shorter, 0)) == set(LEARNT) and set(unjudged(DIGITS, whole, 60)) == set(OF_THE_SERIES)
    assert "those before step 60 are of the run that was resumed" in unjudged(DIGITS, whole, 60)["loss_drop"]
    told = "its band is for 1,281,167 training images, and these are 1,433"
    assert unjudged(imagenet, whole, 0)["top1"] == told
    assert unjudged(imagenet, training_sizes(imagenet, profile(), Options(), 1_281_167), 0) == {}


def state(tmp_path: Path, **options: Any) -> Session:
    return Session(Options(hw="generic-cpu", output_dir=str(tmp_path), **options), ROOT, ("pytest",), "run-1", None)


def task_arguments(session: Session, case: Case, data: Path | None, images: int | None) -> dict[str, Any]:
    chosen = training_sizes(case, session.chosen.profile, session.options, images)
    return Training(session).task(case, case.precision, case.id, data, chosen).arguments


def test_a_job_carries_the_recipe_and_the_options(tmp_path: Path) -> None:
    asked = {"model_dir": str(tmp_path / "kept"), "train_seed": 7, "stop_threshold": 0.5, "profile_steps": (5, 8)}
    a = task_arguments(state(tmp_path, **asked, train_epochs=3, max_cpus=2), DIGITS, tmp_path, 1433)
    assert (a["network"], a["classes"], a["image_size"], a["dataset"]) == ("resnet50_v1_5", 11, 32, "digits")
    assert (a["epochs"], a["seed"], a["stop_threshold"], a["max_cpus"]) == (3, 7, 0.5, 2)
    assert (a["model_dir"], a["resume"]) == (str(tmp_path / "kept" / "row"), True)
    assert a["schedule"]["epochs"] == 20 and a["schedule"]["decay"] == "cosine"
    assert a["profile_steps"] == (5, 8) and a["tensorboard"].endswith("row-tensorboard")
    assert a["export_graph"].endswith("artefacts/row.pb")


def test_synthetic_images_come_without_a_directory_and_leave_no_graph(tmp_path: Path) -> None:
    a = task_arguments(state(tmp_path), SYNTHETIC, None, None)
    assert (a["data"], a["dataset"], a["classes"], a["image_size"]) == (None, "imagenet", 1001, 224)
    assert (a["export_graph"], a["model_dir"], a["resume"], a["tensorboard"]) == (None, None, False, None)


def test_imagenet_is_not_run_without_its_directory(tmp_path: Path) -> None:
    case = msgspec.structs.replace(DIGITS, dataset="imagenet")
    with pytest.raises(CannotRun, match=r"needs its images, and --data-location was not given.* Give --data-location"):
        Training(state(tmp_path)).run(case)
