"""The training suite from the outside: three steps of a real network on real digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from session_examples import Ended, session

from conformance.fixtures.digests import file_digest

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
    assert record.metrics["images"] == 364 and 0 <= record.metrics["top1"] <= record.metrics["top5"] <= 1
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
