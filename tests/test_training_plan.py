"""What --plan tells of a training: steps, rates and evaluations as the subject will do them, and a measured time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_examples import header
from report_examples import record as example

from conformance import schedules
from conformance.cases import Case, load_cases
from conformance.errors import UsageError
from conformance.fixtures.options import Options
from conformance.fixtures.session import Session
from conformance.fixtures.training_plan import COLUMNS, ROWS, lines, newest, plot
from conformance.records import Record, Scaling, ScalingPoint
from conformance.records.run_file import RunWriter

ROOT = Path(__file__).parents[1]
CASES = {case.id: case for path in (ROOT / "suites/training").glob("*.toml") for case in load_cases(path)}
DOCUMENTED = CASES["resnet50_v1_5-imagenet-fp32-90-epochs"]
DIGITS = CASES["resnet50_v1_5-bf16-digits"]
SMOKE = CASES["resnext101_32x4d-bf16-smoke"]


def told(tmp_path: Path, case: Case, **options: Any) -> list[str]:
    given = Options(hw="generic-cpu", plan=True, output_dir=str(tmp_path / "runs"), **options)
    return lines(Session(given, ROOT, ("pytest",), "run-1", None), case)


def write_run(tmp_path: Path, name: str, *records: Record) -> None:
    writer = RunWriter.create(tmp_path / "runs", msgspec.structs.replace(header(), run=name))
    for record in records:
        writer.append(record)


def measured(speed: float | None = 12.5, **changes: Any) -> Record:
    given = {"case": "a", "model": "resnet50_v1_5", "mode": "training", "precision": "fp32", "dataset": "synthetic",
             "profile": "generic-cpu", "batch_size": 64, "started_at": "2026-11-20T08:00:00+00:00"}  # fmt: skip
    metrics = {} if speed is None else {"training_images_per_s": speed}
    return msgspec.structs.replace(example("a"), **given | changes, metrics=metrics)


GOLDEN = """
1,281,167 training images of imagenet, 90 epochs of 20,018 steps: 1,801,620 steps
global batch 64, peak rate 0.032 after 100,091 steps of warm-up (5 epochs), decay 'steps'
90 evaluations of 50,000 images, every 1 epoch and at the end
time: 106 d 18 h a run without evaluations at 12.5 images/s as measured on 2026-11-20 in run-20261120-080000-aaaa (batch 64)

    0.032 |   *****************
    0.028 |
    0.024 |
     0.02 |  *
    0.016 |
    0.012 | *
    0.008 |
    0.004 |*                   ****************************************
        0 +------------------------------------------------------------
           0                            45                      90 epochs
""".lstrip("\n").splitlines()  # noqa: E501


def test_the_documented_run_of_90_epochs_is_told_as_a_whole(tmp_path: Path) -> None:
    write_run(tmp_path, "run-20261120-080000-aaaa", measured())
    found = [line.rstrip() for line in told(tmp_path, DOCUMENTED)]
    assert found == [*GOLDEN, ""]


def test_without_a_measured_step_no_time_is_told(tmp_path: Path) -> None:
    time = "time: no measured step on this profile yet: run `pytest suites/training -m {}`"
    assert time.format("smoke") in told(tmp_path, DOCUMENTED)
    assert time.format("convergence") in told(tmp_path, DIGITS)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "resnext101_32x4d"},
        {"precision": "bf16"},
        {"mode": "throughput"},
        {"profile": "xeon-8s"},
        {"dataset": "digits"},  # images of another size
        {"speed": None},
    ],
)
def test_a_speed_of_something_else_is_not_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    write_run(tmp_path, "run-20261120-080000-aaaa", measured(**other))
    assert newest(tmp_path / "runs", DOCUMENTED, "generic-cpu", 64) is None
    write_run(tmp_path, "run-20261120-070000-aaaa", measured())
    assert newest(tmp_path / "runs", DOCUMENTED, "generic-cpu", 64) is not None


def test_the_newest_speed_of_the_same_batch_is_taken_before_a_newer_one_of_another(tmp_path: Path) -> None:
    write_run(tmp_path, "run-20261118-080000-aaaa", measured(9.0))
    write_run(tmp_path, "run-20261119-080000-aaaa", measured(10.0), measured(11.0))
    write_run(tmp_path, "run-20261120-080000-aaaa", measured(4.0, batch_size=4))
    found = [newest(tmp_path / "runs", DOCUMENTED, "generic-cpu", batch) for batch in (64, 4, 32)]
    assert [one and (one.images_per_s, one.batch_size) for one in found] == [(11.0, 64), (4.0, 4), (4.0, 4)]


def test_a_run_file_that_is_damaged_does_not_keep_a_plan_from_being_told(tmp_path: Path) -> None:
    write_run(tmp_path, "run-20261118-080000-aaaa", measured(9.0))
    (tmp_path / "runs" / "run-20261120-080000-aaaa").mkdir()
    (tmp_path / "runs" / "run-20261120-080000-aaaa" / "run.jsonl").write_text("{", encoding="utf-8")
    found = newest(tmp_path / "runs", DOCUMENTED, "generic-cpu", 64)
    assert found is not None and found.images_per_s == 9.0


def test_options_change_the_plan_as_they_change_the_run(tmp_path: Path) -> None:
    found = told(
        tmp_path, DIGITS, repeats=3, train_offset=2, epochs_between_evals=6, max_train_steps=400, batch_size=32
    )
    assert found[:4] == [
        "1,433 training images of digits, 22 epochs of 44 steps: 968 steps, of which 400 are done",
        "global batch 32, peak rate 0.002 after 49 steps of warm-up (1.111 epochs), decay 'steps'",
        "2 evaluations of 364 images, every 6 epochs and at the end",
        "3 runs, of seeds 1, 2, 3, and as many in fp32 beside them",
    ]
    assert told(tmp_path, DIGITS)[2:4] == [
        "4 evaluations of 364 images, every 5 epochs and at the end",
        "1 run, of seed 1, and as many in fp32 beside them",
    ]
    assert told(tmp_path, DIGITS, eval_only=True, model_dir="kept") == ["evaluates a checkpoint and trains nothing"]


def test_ranks_share_the_epochs_and_raise_the_rate(tmp_path: Path) -> None:
    write_run(tmp_path, "run-20261120-080000-aaaa", measured())
    found = told(tmp_path, DOCUMENTED, mpi_num_processes=16)
    assert found[0].endswith("90 epochs of 1,251 steps: 112,590 steps")
    assert found[1].startswith("global batch 1,024 by 16 ranks of 64, peak rate 0.512 after 6,255 steps of warm-up")
    assert found[3].startswith("time: no scaling to 16 ranks was measured on this profile yet: run `pytest")
    strong = told(tmp_path, DOCUMENTED, mpi_num_processes=16, scaling="strong")
    assert strong[1].startswith("global batch 64 by 16 ranks of 4, peak rate 0.032 after 100,091 steps")


def scaled() -> Record:
    """Return a record of two ranks that were measured, with 32 predicted, and 64 of which nothing is known."""
    points = {
        ranks: ScalingPoint(ranks=ranks, step_s=1.0, images_per_s=64.0 * ranks, efficiency=0.9, bytes_per_host=2**30)
        for ranks in (2, 32)
    }
    found = Scaling(kind="weak", measured=(points[2],), predicted=(points[2], points[32]), model="ring", assumptions=())
    return msgspec.structs.replace(measured(None), scaling=found)


def test_the_time_of_ranks_is_told_by_their_scaling_and_a_prediction_is_called_one(tmp_path: Path) -> None:
    write_run(tmp_path, "run-20261120-080000-aaaa", scaled(), measured())
    of_two = told(tmp_path, DOCUMENTED, mpi_num_processes=2)
    assert of_two[3].startswith(
        "time: 10 d 10 h a run without evaluations at 128.0 images/s as measured, by the scaling of 2026-11"
    )
    of_32 = told(tmp_path, DOCUMENTED, mpi_num_processes=32)
    assert "at 2,048.0 images/s as predicted, never measured, by the scaling of 2026-11-20 in run-2026" in of_32[3]
    assert "predicted, never measured here: scaling efficiency 90.0 % at 32 ranks" in of_32
    assert "says nothing of 64 ranks" in told(tmp_path, DOCUMENTED, mpi_num_processes=64)[3]


def test_a_scaling_in_another_precision_tells_no_time(tmp_path: Path) -> None:
    write_run(tmp_path, "run-20261120-080000-aaaa", msgspec.structs.replace(scaled(), precision="bf16"))
    assert "no scaling to 2 ranks was measured" in told(tmp_path, DOCUMENTED, mpi_num_processes=2)[3]


def test_synthetic_images_are_not_evaluated_and_images_that_are_given_are_counted(tmp_path: Path) -> None:
    assert told(tmp_path, SMOKE)[0] == "15,360 training images of synthetic, 1 epoch of 120 steps: 120 steps"
    assert told(tmp_path, SMOKE)[2] == "no evaluations: synthetic images have no validation split"
    (tmp_path / "dataset.json").write_text(
        '{"schema": 1, "dataset": "imagenet", "classes": 1000, "splits": {"train": {"images": 12800, "shards": []}}}'
    )
    found = told(tmp_path, DOCUMENTED, data_location=str(tmp_path))
    assert found[0] == "12,800 training images of imagenet, 90 epochs of 200 steps: 18,000 steps"


def test_a_plan_refuses_what_the_run_would(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--profile-steps 5,440 is beyond step 439"):
        told(tmp_path, DIGITS, profile_steps=(5, 440))


@pytest.mark.parametrize("row", CASES.values(), ids=lambda row: row.id)
def test_every_row_has_a_plot_that_fits_and_follows_its_rates(row: Case) -> None:
    assert row.training is not None
    made = schedules.plan(schedules.schedule(msgspec.to_builtins(row.training.schedule)), 64, 64 * 500)
    steps = 500 * row.training.epochs
    *drawn, _, _ = plot(made, steps, row.training.epochs)
    assert len(drawn) == ROWS and {len(line) for line in drawn} == {11 + COLUMNS}
    columns = list(zip(*(line[11:] for line in drawn), strict=True))
    for number, column in enumerate(columns):
        rate = schedules.rate(made, round(number * (steps - 1) / (COLUMNS - 1)))
        assert column.count("*") == 1
        assert ROWS - column.index("*") == max(1, math.ceil(rate / made.peak * ROWS))


def test_a_training_of_one_step_has_a_plot_too() -> None:
    assert plot(schedules.plan(schedules.INTEL, 256, 2560), 1, 0.1)[ROWS - 1].endswith("*" * COLUMNS)
