"""The suite of Gaudi's recipe: its rows are the recipe's runs, and its options do what they say or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance import schedules
from conformance.cases import Band, Case, load_cases
from conformance.cases.metrics import METRICS
from conformance.cases.training import Recipe
from conformance.errors import CannotRun, UsageError
from conformance.fixtures.advice import advice
from conformance.fixtures.options import Options, check_device, claimed, device_of
from conformance.fixtures.scaling import ScalingRuns, first_of
from conformance.fixtures.session import Session
from conformance.fixtures.sizes import check_course, training_sizes
from conformance.fixtures.training import Training
from conformance.fixtures.training_answer import metrics, unjudged
from conformance.hardware.match import planned_host
from conformance.hardware.profile import Machine, Profile
from conformance.judging.scaling import Block, measured_scaling
from conformance.judging.verdicts import judge_case
from conformance.launch.layout import Machine as Server
from conformance.launch.layout import Ranks

ROOT = Path(__file__).parents[1]
ROWS = {case.id: case for path in sorted((ROOT / "suites/gaudi").glob("*.toml")) for case in load_cases(path)}
IMAGENET_IMAGES = 1_281_167
ANY = Profile(name="any", description="a machine", machine=Machine())

# What stands in the commands of the recipe's README: HPUs, batch, epochs, weight decay, images, and what else.
COMMANDS: dict[str, tuple[int | None, int, int, float, str, dict[str, Any]]] = {
    "imagenet-bf16-1-hpu": (None, 128, 90, 6.103515625e-05, "records", {}),
    "imagenet-bf16-1-hpu-jpeg": (None, 256, 90, 6.103515625e-05, "jpeg", {}),
    "imagenet-bf16-8-hpus": (8, 128, 90, 6.103515625e-05, "records", {}),
    "imagenet-bf16-8-hpus-jpeg": (8, 256, 90, 6.103515625e-05, "jpeg", {}),
    "imagenet-bf16-64-hpus": (64, 128, 90, 7.93e-05, "records", {}),
    "imagenet-bf16-64-hpus-no-checkpoints": (64, 128, 90, 7.93e-05, "records", {"disable_checkpoints": True}),
    "imagenet-bf16-1-hpu-profiler": (
        None, 128, 90, 6.103515625e-05, "records", {"profile_steps": (5, 8), "max_train_steps": 10},
    ),
    "imagenet-bf16-1-hpu-250-epochs": (None, 128, 250, 6.103515625e-05, "records", {"mixup_alpha": 0.2}),
}  # fmt: skip


def row(name: str) -> Case:
    return ROWS[f"resnext101_32x4d-{name}"]


def recipe(case: Case) -> Recipe:
    assert case.training is not None
    return case.training


@pytest.mark.parametrize("name", COMMANDS)
def test_each_documented_run_is_a_row(name: str) -> None:
    case, (hpus, batch, epochs, decay, layout, more) = row(name), COMMANDS[name]
    trained = recipe(case)
    assert (case.world_size, case.batch_size, case.precision, case.device) == (hpus, batch, "bf16", "hpu")
    assert (trained.epochs, trained.weight_decay, trained.layout, trained.image_type) == (epochs, decay, layout, "fp32")
    assert (trained.momentum, trained.label_smoothing, trained.schedule.warmup_epochs) == (0.875, 0.1, 8)
    assert trained.epochs_between_evals == (10 if epochs == 250 else 90)
    assert {name: getattr(trained, name) for name in more} == more


def test_no_other_row_is_of_imagenet_and_none_holds_it_to_an_accuracy_that_the_recipe_does_not_name() -> None:
    imagenet = [case for case in ROWS.values() if case.dataset == "imagenet"]
    assert {case.id for case in imagenet} == {row(name).id for name in COMMANDS}
    assert {band.metric for case in imagenet for band in case.band} == {
        "weights_differ", "checkpoints_written", "profiled_steps",
    }  # fmt: skip


def test_what_habana_published_is_shown_and_is_no_gate() -> None:
    found = {(case.id, p.metric): p.value for case in ROWS.values() for p in case.published}
    assert found == {
        (row("imagenet-bf16-1-hpu").id, "training_images_per_s"): 650,
        (row("imagenet-bf16-1-hpu").id, "top1"): 0.792,
        (row("imagenet-bf16-8-hpus").id, "global_images_per_s"): 4656,
        (row("imagenet-bf16-8-hpus").id, "top1"): 0.7902,
        (row("bf16-1-to-8-hpus").id, "scaling_efficiency"): pytest.approx(4656 / (8 * 650), abs=5e-5),
    }


def test_every_row_is_of_the_recipes_machine_and_can_be_chosen_by_what_it_does() -> None:
    assert all(case.device == "hpu" and "gaudi" in case.markers for case in ROWS.values())
    profiled = {case.id for case in ROWS.values() if "profiler" in case.markers}
    assert profiled == {row("imagenet-bf16-1-hpu-profiler").id, row("digits-bf16-1-hpu-profiler").id}
    assert {case.world_size for case in ROWS.values() if case.dataset != "imagenet"} == {None, 2, 8, 64}


def plan_of(case: Case, **options: Any) -> schedules.Plan:
    chosen = training_sizes(case, ANY, Options(**options), IMAGENET_IMAGES)
    made = {**msgspec.to_builtins(recipe(case).schedule), "base": chosen.base}
    return schedules.plan(schedules.schedule(made), chosen.global_batch, chosen.train_images)


@pytest.mark.parametrize(
    ("name", "peak", "warmup", "steps"),
    [
        ("imagenet-bf16-1-hpu", 0.128, 80072, 900810),
        ("imagenet-bf16-1-hpu-jpeg", 0.256, 40036, 450360),
        ("imagenet-bf16-8-hpus", 1.024, 10009, 112590),
        ("imagenet-bf16-64-hpus", 8.192, 1251, 14040),
    ],
)
def test_the_rates_are_the_recipes_and_a_shorter_run_has_the_same(
    name: str, peak: float, warmup: int, steps: int
) -> None:
    plan = plan_of(row(name))
    assert (plan.peak, plan.warmup_steps) == (pytest.approx(peak), warmup)
    assert training_sizes(row(name), ANY, Options(), IMAGENET_IMAGES).steps == steps
    assert plan_of(row(name), train_epochs=1, max_train_steps=10) == plan  # the recipe's program would change them


def test_after_its_warm_up_the_rate_falls_at_once_as_the_recipes_does() -> None:
    plan = plan_of(row("imagenet-bf16-8-hpus"))
    assert schedules.rate(plan, 10008) == pytest.approx(1.02389769)
    assert schedules.rate(plan, 10009) == pytest.approx(1.00416625)


def state(tmp_path: Path, hw: str = "gaudi-8", **options: Any) -> Session:
    """Return a session on the machine that the profile of a Gaudi server plans for."""
    asked = Options(hw=hw, plan=True, output_dir=str(tmp_path), **options)
    session = Session(asked, ROOT, ("pytest",), "run-1", None)
    session.host = planned_host(session.chosen.profile, session.host)
    return session


def job(tmp_path: Path, case: Case, data: Path | None = None, **options: Any) -> dict[str, Any]:
    session = state(tmp_path, **options)
    chosen = training_sizes(case, session.chosen.profile, session.options, IMAGENET_IMAGES)
    single = msgspec.structs.replace(case, world_size=None, launcher=None)
    return Training(session).task(single, case.precision, case.id, data, chosen, seed=1).arguments


def test_a_row_runs_on_its_own_device_unless_another_is_asked_for() -> None:
    case = row("imagenet-bf16-1-hpu")
    of_cpu = msgspec.structs.replace(case, device=None)
    assert [device_of(case, Options()), device_of(case, Options(device="cpu"))] == ["hpu", "cpu"]
    assert [device_of(of_cpu, Options()), device_of(of_cpu, Options(device="hpu"))] == ["cpu", "hpu"]


def test_a_job_for_an_hpu_says_so_and_proves_nothing_by_a_log_of_cpus(tmp_path: Path) -> None:
    a = job(tmp_path, row("imagenet-bf16-1-hpu"), tmp_path)
    assert (a["device"], a["image_type"], a["bf16_recipe"], a["prove"]) == ("hpu", "fp32", "full", False)
    on_cpu = job(tmp_path, row("imagenet-bf16-1-hpu"), tmp_path, device="cpu", data_loader_image_type="bf16")
    assert (on_cpu["device"], on_cpu["image_type"], on_cpu["bf16_recipe"], on_cpu["prove"]) == (
        "cpu", "bf16", None, True,
    )  # fmt: skip
    fp32 = msgspec.structs.replace(row("imagenet-bf16-1-hpu"), precision="fp32")
    assert job(tmp_path, fp32, tmp_path)["bf16_recipe"] is None


def test_a_recipe_of_bf16_is_found_from_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_text('{"allow_list": ["Conv2D"]}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = job(tmp_path, row("imagenet-bf16-1-hpu"), tmp_path, bf16_config="mine.json")
    assert asked["bf16_recipe"] == str(tmp_path / "mine.json")


def test_the_input_of_a_job_has_all_threads_of_its_launch_and_not_sixteen(tmp_path: Path) -> None:
    assert job(tmp_path, row("imagenet-bf16-1-hpu"), tmp_path)["max_cpus"] is None


def test_what_a_row_leaves_is_in_its_job(tmp_path: Path) -> None:
    profiler = job(tmp_path, row("digits-bf16-1-hpu-profiler"), tmp_path)
    assert profiler["profile_steps"] == (5, 8) and profiler["tensorboard"].endswith("profiler-tensorboard")
    export = job(tmp_path, row("digits-bf16-1-hpu-export"), tmp_path)
    assert export["export_saved_model"].endswith("export-saved-model") and export["tensorboard"] is None


def test_no_checkpoint_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    kept = {"model_dir": str(tmp_path / "kept")}
    a = job(tmp_path, row("digits-bf16-1-hpu-no-checkpoints"), tmp_path, **kept)
    assert (a["model_dir"], a["resume"]) == (None, False)
    assert job(tmp_path, row("digits-bf16-1-hpu-smoke"), tmp_path, disable_checkpoints=True)["model_dir"] is None
    assert job(tmp_path, row("digits-bf16-1-hpu-smoke"), tmp_path, **kept)["model_dir"] is not None


def test_a_checkpoint_that_was_not_to_be_written_is_counted_and_a_saved_model_is_none(tmp_path: Path) -> None:
    case = row("digits-bf16-1-hpu-no-checkpoints")
    training = Training(state(tmp_path / "runs", model_dir=str(tmp_path / "kept")))
    (training.session.directory / "artefacts/x-saved-model/variables").mkdir(parents=True)
    (training.session.directory / "artefacts/x-saved-model/variables/variables.index").touch()
    assert training._checkpoints(case, case.id) == {"checkpoints_written": 0}
    for place in (training.session.directory, tmp_path / "kept" / case.id / "step-00000010"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "ckpt-1.index").touch()
    assert training._checkpoints(case, case.id) == {"checkpoints_written": 2}
    assert training._checkpoints(row("digits-bf16-1-hpu-smoke"), case.id) == {}


def test_rows_that_read_jpegs_are_not_run_without_them_and_read_no_records(tmp_path: Path) -> None:
    case = row("imagenet-bf16-1-hpu-jpeg")
    with pytest.raises(CannotRun, match=r"reads JPEGs of ImageNet, and --jpeg-data-dir was not given\."):
        Training(state(tmp_path, data_location=str(tmp_path)))._data(case)
    training = Training(state(tmp_path, jpeg_data_dir=str(tmp_path / "jpegs")))
    assert training._data(case) == tmp_path / "jpegs"
    with pytest.raises(CannotRun, match="and --data-location was not given"):
        training._data(row("imagenet-bf16-1-hpu"))


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({}, {"bf16_config": "full", "device": "cpu"}, r"--bf16-config is for an HPU, and '.*' runs on a CPU"),
        ({"device": None}, {"bf16_config": "full"}, r"--bf16-config is for an HPU, and '.*' runs on a CPU"),
        ({"precision": "fp32"}, {"bf16_config": "full"}, r"--bf16-config is for bf16, and '.*' trains in fp32\."),
        (
            {"mode": "latency", "device": None},
            {"device": "hpu"},
            r"--device hpu is for training; '.*' measures latency",
        ),
    ],
)
def test_an_option_of_an_hpu_that_has_no_effect_is_refused(
    changes: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    case = msgspec.structs.replace(row("imagenet-bf16-1-hpu"), **changes)
    with pytest.raises(UsageError, match=told):
        check_device(Options(**options), case)
    check_device(Options(), case)


@pytest.mark.parametrize(
    ("name", "options", "begins"),
    [
        ("digits-bf16-1-hpu-smoke", {}, []),
        (
            "digits-bf16-1-hpu-smoke",
            {"data_loader_image_type": "bf16"},
            ["Images come as bf16 to a network that begins"],
        ),
        (
            "digits-bf16-1-hpu-smoke",
            {"pretrained_checkpoint": "kept"},
            ["Images come as fp32 to a pre-trained network"],
        ),
        ("digits-bf16-1-hpu-fine-tune", {"pretrained_checkpoint": "kept"}, []),
        ("digits-bf16-1-hpu-fine-tune", {}, ["Fine-tuned from a checkpoint that the suite made, of 4 epochs"]),
        ("imagenet-bf16-1-hpu", {}, ["Top-1 is of the validation images."]),
        ("imagenet-bf16-1-hpu", {"epochs_between_evals": 10}, []),
        ("imagenet-bf16-1-hpu-250-epochs", {}, []),
        ("imagenet-bf16-1-hpu-profiler", {}, []),
    ],
)
def test_advice_of_the_recipe_that_is_ignored_is_told_and_so_is_its_known_issue(
    name: str, options: dict[str, Any], begins: list[str]
) -> None:
    found = advice(row(name), Options(**{"device": "cpu", **options}))
    assert len(found) == len(begins) and all(told.startswith(begun) for told, begun in zip(found, begins, strict=True))


def test_a_row_of_another_recipe_gets_no_advice_of_this_one() -> None:
    case = msgspec.structs.replace(row("imagenet-bf16-1-hpu"), device=None)
    assert advice(case, Options(data_loader_image_type="bf16")) == ()


TRAINED: dict[str, Any] = {
    "losses": [], "step_s": [], "wait_s": [], "evaluations": [], "resident_bytes": [None, None],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "answer", "verdicts"),
    [
        ("profiler", {"profiled": [5, 6, 7, 8]}, {"profiled_steps": "inside"}),
        ("profiler", {"profiled": [5, 6, 7]}, {"profiled_steps": "outside"}),
        ("profiler", {"profiled": [5, 6, 7, 8, 9]}, {"profiled_steps": "outside"}),
        ("profiler", {"profiled": []}, {"profiled_steps": "outside"}),
        ("profiler", {"profiled": None}, {"profiled_steps": "invalid"}),
        ("export", {"exported": {"images": 364, "same": 364}}, {"export_agreement": "inside"}),
        ("export", {"exported": {"images": 364, "same": 300}}, {"export_agreement": "outside"}),
        ("export", {"exported": None}, {"export_agreement": "invalid"}),
        ("fine-tune", {"frozen_changed": 0}, {"frozen_changed": "inside"}),
        ("fine-tune", {"frozen_changed": 1}, {"frozen_changed": "outside"}),
        ("fine-tune", {}, {"frozen_changed": "invalid"}),
    ],
)
def test_what_a_feature_leaves_is_judged(name: str, answer: dict[str, Any], verdicts: dict[str, str]) -> None:
    case = row(f"digits-bf16-1-hpu-{name}")
    found = metrics({**TRAINED, **answer}, 64)
    judgements, _, _ = judge_case(case, found, None, (), "any")
    told = {judgement.metric: judgement.verdict for judgement in judgements}
    assert verdicts.items() <= told.items()


def test_a_feature_that_is_as_it_should_be_is_inside_without_any_accuracy() -> None:
    found = {"profiled_steps": 4.0, "export_agreement": 1.0, "checkpoints_written": 0.0, "native_share": 1.0}
    for name in ("profiler", "export", "no-checkpoints"):
        assert judge_case(row(f"digits-bf16-1-hpu-{name}"), found, None, (), "any")[1] == "inside"


def test_the_type_on_an_hpu_is_not_proven_by_onednn_which_is_told_and_is_no_gate() -> None:
    case = row("digits-bf16-1-hpu-profiler")
    assert {band.metric for band in claimed(case, Options()).band} == {"profiled_steps"}
    assert claimed(case, Options(device="cpu")) == case
    assert judge_case(claimed(case, Options()), {"profiled_steps": 4.0}, None, (), "gaudi-8")[1] == "inside"
    assert advice(case, Options())[0].startswith("bf16 on an HPU is not proven")


def test_other_steps_are_not_those_of_the_row() -> None:
    case = row("digits-bf16-1-hpu-profiler")
    chosen = training_sizes(case, ANY, Options(), 1433)
    assert unjudged(case, chosen, 0, Options(device="cpu")) == {}
    others = unjudged(case, chosen, 0, Options(device="cpu", profile_steps=(2, 3)))
    assert list(others) == ["profiled_steps"] and METRICS["profiled_steps"].show(4.0) == "4"


def test_a_profile_may_end_with_the_training_and_not_after_it() -> None:
    case = row("digits-bf16-1-hpu-profiler")
    check_course(case, Options(max_train_steps=9), training_sizes(case, ANY, Options(max_train_steps=9), 1433))
    with pytest.raises(UsageError, match=r"--profile-steps 5,8 is beyond step 7, which is the last of"):
        check_course(case, Options(max_train_steps=8), training_sizes(case, ANY, Options(max_train_steps=8), 1433))


def test_scaling_from_some_ranks_to_more_is_beside_as_many_of_the_few() -> None:
    few, many = Block(8, 1024, 4000.0), Block(64, 8192, 28800.0)
    found = measured_scaling([few, many, many, few], base=8)
    assert (found.kind, [point.ranks for point in found.measured]) == ("weak", [8, 64])
    assert [point.efficiency for point in found.measured] == [1.0, pytest.approx(0.9)]
    strong = measured_scaling([few, Block(64, 1024, 16000.0)], base=8)
    assert (strong.kind, strong.measured[1].efficiency) == ("strong", pytest.approx(0.5))


def test_the_few_ranks_are_on_the_first_servers_that_have_slots_for_them() -> None:
    servers = tuple(Server(f"10.0.0.{n}", 8) for n in range(8))
    ranks = Ranks(world_size=64, launcher="mpirun", machines=servers)
    assert first_of(ranks, 8).machines == servers[:1] and first_of(ranks, 8).world_size == 8
    assert first_of(ranks, 12).machines == (servers[0], Server("10.0.0.1", 4))
    assert first_of(Ranks(world_size=8, launcher="mpirun"), 2).machines == ()


@pytest.mark.parametrize(
    ("scaling", "base", "batch", "images"), [("weak", 8, 128, 51200), ("weak", 1, 128, 6400), ("strong", 8, 16, 6400)]
)
def test_the_few_do_what_the_many_do_with_a_batch_for_each_of_them(
    tmp_path: Path, scaling: Any, base: int, batch: int, images: int
) -> None:
    options = {"hosts": ",".join(f"10.0.0.{n}:8" for n in range(8)), "scaling": scaling, "batch_size": 128}
    session = state(tmp_path, "gaudi-64", **options)
    runs = ScalingRuns(session, Training(session))
    many = runs._many(row("bf16-8-to-64-hpus"))
    few = runs._fewer(many, base)
    assert (many.ranks.world_size, many.chosen.global_batch) == (64, 8192 if scaling == "weak" else 128)
    assert (few.ranks.world_size, few.chosen.world_size, few.chosen.batch_size) == (base, base, batch)
    a, ranks = few.task.arguments, few.task.arguments["ranks"]
    assert (a["batch_size"], a["train_images"], a["max_train_steps"]) == (batch, images, 50)
    assert ranks is None if base == 1 else (ranks["world_size"], few.ranks.machines) == (8, many.ranks.machines[:1])


ROW = """
[[case]]
id = "mine"
model = "resnext101_32x4d"
mode = "training"
precision = "bf16"
dataset = "digits"
batch_size = 8
device = "hpu"
world_size = 8
source = "a README of a recipe"

  [case.training]
  epochs = 1
  momentum = 0.9
  weight_decay = 0.0
  crop = "digits"
  schedule = { base = 0.1, warmup_epochs = 1, epochs = 1 }
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('device = "hpu"', 'device = "gpu"', "device = 'gpu': Invalid enum value 'gpu'."),
        ('"training"', '"latency"', "has device 'hpu' and mode 'latency'; an HPU is for training."),
        ("world_size = 8", "base_world_size = 2", "has 'base_world_size', which is for ranks, and no 'world_size'."),
        (
            "world_size = 8",
            "world_size = 8\nbase_world_size = 8",
            "scales from 8 ranks to 8; allowed are fewer to more.",
        ),
        ("epochs = 1\n", 'epochs = 1\n  layout = "jpeg"\n', "reads JPEGs of 'digits'; class folders are of ImageNet."),
        ("epochs = 1\n", "epochs = 1\n  pretrain_epochs = 2\n", "'pretrain_epochs' is for 'fine_tune'"),
        ("epochs = 1\n", "epochs = 1\n  profile_steps = [8, 5]\n", "Steps 8 to 5 cannot be profiled."),
        ("epochs = 1\n", 'epochs = 1\n  image_type = "fp16"\n', "image_type = 'fp16': Invalid enum value 'fp16'."),
    ],
)
def test_a_row_that_cannot_be_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(ROW.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        load_cases(path)
    assert told in error.value.message


def test_a_band_of_a_feature_is_within_what_is_possible() -> None:
    with pytest.raises(ValueError, match="Limit 1.1 of 'export_agreement' is not 0 to 1"):
        Band(metric="export_agreement", at_most=1.1, source="nobody")
