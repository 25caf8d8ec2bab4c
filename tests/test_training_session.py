"""The training suite from the outside: three steps of a real network on real digits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from session_examples import Ended, session, stand_in

from conformance.fixtures.digests import file_digest
from conformance.fixtures.training_plan import DIGITS_IMAGES
from conformance.hardware.detect import detect
from conformance.hardware.isa import native_precisions

pytestmark = [
    pytest.mark.outside,
    pytest.mark.tensorflow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this interpreter"),
]
CASE = "resnet50_v1_5-fp32-digits"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    place = tmp_path_factory.mktemp("training")
    return session(place, "suites/training", "-k", CASE, "--max-train-steps", "3", "--hw", "small-cpu",
                   "--report", str(place / "report.html"))  # fmt: skip


def test_three_steps_are_trained_evaluated_and_not_judged(short: Ended) -> None:
    (record,) = short.run.records
    assert (short.status, record.verdict, record.mode, record.batch_size) == (0, "unjudged", "training", 64), short.text
    judged = {judgement.metric: judgement.verdict for judgement in record.judgements}
    assert judged == {"top1": "unjudged", "native_share": "inside"}
    assert "its band is for training of 440 steps, and --max-train-steps is 3" in record.reason
    assert record.metrics["images"] == DIGITS_IMAGES["validation"] == 1797 - DIGITS_IMAGES["train"]
    assert 0 <= record.metrics["top1"] <= record.metrics["top5"] <= 1
    assert "3 steps, ended by the steps." in record.notes


def test_the_steps_the_log_and_the_graph_are_kept(short: Ended) -> None:
    (record,) = short.run.records
    directory = Path(short.run.directory)
    head, *steps = (directory / record.artefacts["steps"].path).read_text(encoding="utf-8").splitlines()
    losses = [float(line.split(",")[1]) for line in steps]
    assert [line.split(",")[0] for line in steps] == ["0", "1", "2"] and losses[-1] == record.metrics["final_loss"]
    assert f"loss = {losses[0]:.6f}, step = 0" in (directory / record.artefacts["log"].path).read_text(encoding="utf-8")
    graph = record.artefacts["graph"]
    assert graph.sha256 == file_digest(directory / graph.path)
    assert set(record.inputs) == {"train_data", "validation_data"} and all(a.sha256 for a in record.inputs.values())


def test_the_report_holds_the_training(short: Ended) -> None:
    page = (short.runs.parent / "report.html").read_text(encoding="utf-8")
    assert CASE in page and "<h2>Training</h2>" in page and "<h2>Accuracy by precision</h2>" in page


# Right answers that follow from precision and seed.
TRAINED = """
def trained():
    if a["export_saved_model"]:
        os.makedirs(a["export_saved_model"])
        open(os.path.join(a["export_saved_model"], "saved_model.pb"), "w").close()
    hits = HITS[a["precision"]][a["seed"] - 1]
    bits = "".join("1" if image < hits else "0" for image in range(368))
    steps = 0 if a["eval_only"] else 20
    return {
        "steps": steps, "first_step": 440 if a["eval_only"] else 0, "resumed_from": None,
        "stopped_by": None if a["eval_only"] else "epochs",
        "losses": [3.0 - 0.1 * step - 0.01 * a["seed"] for step in range(steps)], "rates": [0.1] * steps,
        "step_s": [0.1] * steps, "wait_s": [0.0] * steps, "resident_bytes": [None, None],
        "evaluations": [{"step": steps, "epoch": 20.0, "top1_hits": hits, "top5_hits": 364, "images": 364}],
        "correct": "%092x" % int(bits, 2), "reading": None if a["eval_only"] else READING,
        "kernels": [], "native_share": None if a["eval_only"] else 1.0,
    }
"""
BUSY = {"steal_s": 1.0, "busy_s": 1.0, "own_s": 1.0, "elapsed_s": 2.0, "throttle_events": None, "cpus": 2}
TWINS = "resnet50_v1_5 and digits and not shuffled"
needs_bf16 = pytest.mark.skipif("bf16" not in native_precisions(detect()), reason="no instructions for bf16 here")


def answered(place: Path, hits: dict[str, tuple[int, ...]], *argv: str) -> Ended:
    """Run the digits' rows of ResNet50 with stand-ins that answer so many images right, a number for each seed."""
    stack = stand_in(place, f"READING = {BUSY!r}\nHITS = {hits!r}", TRAINED)
    return session(place, "suites/training", "-k", TWINS, "--stack", stack, "--hw", "generic-cpu",
                   "--hw-mismatch", "run", *argv)  # fmt: skip


@needs_bf16
def test_each_seed_is_a_training_of_its_own_and_fp32_is_trained_once_for_both_rows(tmp_path: Path) -> None:
    ended = answered(tmp_path, {"fp32": (360, 361, 362), "bf16": (358, 352, 354)}, "--repeats", "3",
                     "--export-saved-model")  # fmt: skip
    fp32, bf16 = ended.run.records
    assert (fp32.verdict, bf16.verdict, ended.status) == ("inside", "unstable", 0), ended.text
    assert bf16.metrics["seeds"] == len(bf16.launched) == 3
    assert bf16.metrics["top1"] == pytest.approx((358 + 352 + 354) / 3 / 364)
    assert bf16.metrics["top1_below_fp32"] == pytest.approx((2 + 9 + 8) / 3 / 364)
    assert "3 seeds of 364 images cannot tell" in bf16.reason
    labels = sorted(path.stem for path in (Path(ended.run.directory) / "jobs").glob("resnet*.json"))
    ids = ("resnet50_v1_5-bf16-digits", "resnet50_v1_5-fp32-digits")
    assert labels == [f"{case}{seed}" for case in ids for seed in ("", "-seed2", "-seed3")]
    assert "Seed 2: trained in fp32 alike, top-1 is 0.9918." in bf16.notes
    assert bf16.metrics["final_loss"] == pytest.approx(3.0 - 1.9 - 0.01)  # trends are alike: the first seed's
    assert {"steps", "steps_seed3", "saved_model", "saved_model_seed2"} <= bf16.artefacts.keys()


@needs_bf16
def test_turns_with_other_seeds_keep_the_checkpoints_of_their_references_apart(tmp_path: Path) -> None:
    hits = {"fp32": (360, 361), "bf16": (358, 352)}
    stacks = (stand_in(tmp_path / n, f"READING = {BUSY!r}\nHITS = {hits!r}", TRAINED) for n in ("a", "b"))
    turns = [word for name, stack in zip("ab", stacks, strict=True) for word in ("--stack", f"{name}={stack}")]
    ended = session(tmp_path, "suites/training", "-k", "resnet50_v1_5-bf16-digits", *turns, "--hw", "generic-cpu",
                    "--hw-mismatch", "run", "--repeats", "2", "--model-dir", str(tmp_path / "kept"))  # fmt: skip
    jobs = [json.loads(path.read_text())["arguments"] for path in Path(ended.run.directory).glob("jobs/resnet*.json")]
    assert len(ended.run.records) == 4 and len(jobs) == 8, ended.text
    assert len({job["model_dir"] for job in jobs}) == 8  # of two stacks, seeds and precisions


@needs_bf16
def test_one_seed_is_decided_by_its_answers_and_a_busy_machine_does_not_touch_them(tmp_path: Path) -> None:
    ended = answered(tmp_path, {"fp32": (364,), "bf16": (300,)})
    fp32, bf16 = ended.run.records
    assert (fp32.verdict, bf16.verdict, ended.status) == ("inside", "outside", 1), ended.text
    told = {judgement.metric: judgement.verdict for judgement in bf16.judgements}
    assert told == {"top1": "outside", "top1_below_fp32": "outside", "native_share": "inside"}
    low, high = bf16.intervals["top1_below_fp32"]
    assert low < 64 / 364 < high and low > 0.1
    assert bf16.noise is not None and bf16.noise.steal_share == pytest.approx(0.25)
    assert "the hypervisor took 25.0 % of the cores' time" in bf16.noise.reasons[0]


@needs_bf16
def test_a_checkpoint_that_is_judged_alone_has_accuracy_and_nothing_else(tmp_path: Path) -> None:
    ended = answered(tmp_path, {"fp32": (360,), "bf16": (350,)}, "--eval-only", "--model-dir", str(tmp_path / "kept"))
    fp32, bf16 = ended.run.records
    told = {judgement.metric: judgement.verdict for judgement in bf16.judgements}
    assert told == {"top1": "outside", "top1_below_fp32": "unjudged", "native_share": "unjudged"}, ended.text
    assert fp32.verdict == "unjudged" and fp32.judgements[0].verdict == "inside"
    assert "--eval-only judges a checkpoint and trains nothing" in fp32.reason
    assert fp32.notes[:2] == (
        "A checkpoint was judged, and nothing was trained.",
        "Epoch 20: top-1 0.9890, top-5 1.0000.",
    )
    assert set(fp32.metrics) == {"top1", "top5", "images", "seeds"} and "train_data" not in fp32.inputs
