"""The suite of Gaudi's recipe from the outside, on a machine without an HPU, with stand-ins that answer at once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from session_examples import Ended, session, stand_in

from conformance.fixtures.side_by_side import orders
from conformance.hardware.detect import detect
from conformance.hardware.isa import native_precisions

pytestmark = [
    pytest.mark.outside,
    pytest.mark.skipif(detect().accelerators is not None, reason="this machine has HPUs"),
]
needs_bf16 = pytest.mark.skipif("bf16" not in native_precisions(detect()), reason="no instructions for bf16 here")

# What a training answers; ANSWER says what it left.
TRAINED = """
def trained():
    if a["export_saved_model"]:
        os.makedirs(a["export_saved_model"])
        open(os.path.join(a["export_saved_model"], "saved_model.pb"), "w").close()
    if a["model_dir"]:  # as the checkpoint that fine-tuning starts from
        os.makedirs(os.path.join(a["model_dir"], "step-00000088"))
        with open(os.path.join(a["model_dir"], "made_by"), "w") as file:
            file.write(ANSWER.get("name", ""))
    if ANSWER["checkpoint"]:
        open("ckpt-1.index", "w").close()
    steps = a["max_train_steps"] or 22 * a["epochs"]
    first, last = (a["profile_steps"] or [0, -1])
    return {
        "steps": steps, "first_step": 0, "resumed_from": None, "stopped_by": "steps",
        "losses": [3.0 - ANSWER["falls"] * step for step in range(steps)], "rates": [0.1] * steps,
        "step_s": [0.1] * steps, "wait_s": [0.0] * steps, "resident_bytes": [None, None],
        "evaluations": [{"step": steps, "epoch": 5.0, "top1_hits": ANSWER["hits"], "top5_hits": 364, "images": 364}],
        "correct": "ff" * 46, "reading": None, "kernels": [], "native_share": 1.0,
        "profiled": list(range(first, last + ANSWER["more"])) if a["profile_steps"] else None,
        "exported": {"images": 364, "same": ANSWER["same"]} if a["export_saved_model"] else None,
        "frozen_changed": ANSWER["changed"] if a["fine_tune"] else None,
    }
"""
RIGHT: dict[str, Any] = {"checkpoint": False, "falls": 0.01, "hits": 360, "more": 1, "same": 364, "changed": 0}
WRONG: dict[str, Any] = {"checkpoint": True, "falls": 0.0, "hits": 40, "more": 0, "same": 200, "changed": 3}


def answered(place: Path, answer: dict[str, Any], *argv: str) -> Ended:
    stack = stand_in(place, f"ANSWER = {answer!r}", TRAINED)
    return session(place, "suites/gaudi", "--stack", stack, "--hw", "generic-cpu", *argv)


@needs_bf16
def test_on_a_cpu_the_small_rows_run_and_the_others_say_why_not(tmp_path: Path) -> None:
    ended = answered(tmp_path, RIGHT, "--device", "cpu", "-k", "not 2-hpus")
    told = {record.case.removeprefix("resnext101_32x4d-"): record for record in ended.run.records}
    ran = {name: record.verdict for name, record in told.items() if record.verdict != "not run"}
    features = ("profiler", "export", "fine-tune", "no-checkpoints", "smoke")
    assert ran == {f"digits-bf16-1-hpu-{name}": "inside" for name in features}, ended.text
    assert ended.status == 0
    for name in ("imagenet-bf16-1-hpu", "imagenet-bf16-1-hpu-250-epochs", "imagenet-bf16-1-hpu-profiler"):
        assert "--data-location was not given" in told[name].reason
    assert "--jpeg-data-dir was not given" in told["imagenet-bf16-1-hpu-jpeg"].reason
    for name in ("imagenet-bf16-8-hpus", "imagenet-bf16-64-hpus", "digits-bf16-8-hpus-gate", "bf16-8-to-64-hpus"):
        assert told[name].verdict == "not run" and " ranks " in told[name].reason
    tuned = told["digits-bf16-1-hpu-fine-tune"]
    assert {"pretrained", "train_data"} <= tuned.inputs.keys()
    for begun in ("Fine-tuned from a checkpoint that the suite made", "Images by tf.data from TFRecord: "):
        assert any(note.startswith(begun) for note in tuned.notes), begun
    jobs = Path(ended.run.directory) / "jobs"
    made, fine = (
        json.loads((jobs / f"{tuned.case}{what}.json").read_text())["arguments"] for what in ("-pretraining", "")
    )
    assert (made["fine_tune"], made["epochs"], made["pretrained"]) == (False, 4, None)
    assert (fine["fine_tune"], fine["epochs"], fine["image_type"]) == (True, 2, "bf16")
    assert fine["pretrained"] == tuned.inputs["pretrained"].path and fine["device"] == "cpu"


@needs_bf16
def test_stacks_in_turns_start_from_the_checkpoint_that_the_base_made(tmp_path: Path) -> None:
    base, new = (stand_in(tmp_path / name, f"ANSWER = {dict(RIGHT, name=name)!r}", TRAINED) for name in ("base", "new"))
    case = "resnext101_32x4d-digits-bf16-1-hpu-fine-tune"
    seed = next(n for n in range(99) if next(orders("bn", random.Random(f"{n} gaudi {case}")))[0] == "n")
    ended = session(tmp_path, "suites/gaudi", "--stack", f"base={base}", "--stack", f"new={new}", "--hw", "generic-cpu",
                    "--device", "cpu", "-k", "fine-tune", "--order-seed", str(seed))  # fmt: skip
    assert [record.stack for record in ended.run.records] == ["new", "base"], ended.text
    of_both = {record.inputs["pretrained"].path for record in ended.run.records}
    assert {(Path(path) / "made_by").read_text() for path in of_both} == {"base"}


@needs_bf16
def test_what_a_row_left_wrongly_is_outside(tmp_path: Path) -> None:
    images = ("--data-location", str(tmp_path))  # for ImageNet: rows of the digits keep to theirs
    ended = answered(tmp_path, WRONG, "--device", "cpu", "-k", "digits and 1-hpu", *images)
    found = {judgement.metric: judgement.verdict for record in ended.run.records for judgement in record.judgements}
    assert ended.status == 1 and {record.verdict for record in ended.run.records} == {"outside"}, ended.text
    wrong = ("profiled_steps", "export_agreement", "frozen_changed", "checkpoints_written", "top1", "loss_drop")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, "outside")


def test_without_an_hpu_the_suite_says_so_and_runs_on_no_cpu_instead(tmp_path: Path) -> None:
    ended = answered(tmp_path, RIGHT)
    assert ended.status == 4, ended.text
    assert "An HPU needs habana-tensorflow, which stack" in ended.text and "--device cpu" in ended.text
    assert "Traceback" not in ended.text


def test_a_machine_that_is_no_gaudi_server_is_refused_by_its_profile(tmp_path: Path) -> None:
    ended = session(tmp_path, "suites/gaudi", "--hw", "gaudi-8", "--device", "cpu")
    assert ended.status == 4 and "needs 8 Gaudi" in ended.text, ended.text
    assert not ended.has_run and "Traceback" not in ended.text


def test_a_recipe_of_bf16_that_cannot_be_read_is_refused_before_anything_runs(tmp_path: Path) -> None:
    ended = session(tmp_path, "suites/gaudi", "--hw", "generic-cpu", "--bf16-config", str(tmp_path / "none.json"))
    assert ended.status == 4 and "none.json" in ended.text and not ended.has_run, ended.text


def test_a_directory_without_class_folders_is_refused_before_anything_runs(tmp_path: Path) -> None:
    ended = session(
        tmp_path, "suites/gaudi", "--hw", "generic-cpu", "--device", "cpu", "--jpeg-data-dir", str(tmp_path)
    )
    assert ended.status == 4 and "has no folder 'train'." in ended.text and not ended.has_run, ended.text


def test_a_plan_has_every_run_of_the_recipe(tmp_path: Path) -> None:
    ended = session(tmp_path, "suites/gaudi", "-m", "documented", "--plan", "--hw", "gaudi-64")
    assert ended.status == 0, ended.text
    assert ended.text.count("90 epochs of 156 steps: 14,040 steps") == 2
    assert "250 epochs of 10,009 steps" in ended.text and "of which 10 are done" in ended.text
    assert ended.text.count("(its known issue)") == 6
    assert "is not run here" not in ended.text and "read from class folders of JPEGs" in ended.text
