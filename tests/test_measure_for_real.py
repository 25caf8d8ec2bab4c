"""Subjects as they really run: a child process, TensorFlow, a small frozen graph."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import conformance
from conformance import wire

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed here"),
]

SIDE, CLASSES = 32, 11

# Two convolutions, the mean, a dense layer: enough for every step of a subject, and made in no time. The bias of
# class 4 outweighs all else, so that the answer is known: every image is a 3 (labels are digit + 1).
MAKE_GRAPHS = """
import sys
import numpy as np, tensorflow as tf
v1 = tf.compat.v1

def logits(x, kernels, dense, bias):
    for kernel in kernels:
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
    return tf.nn.bias_add(tf.matmul(tf.reduce_mean(x, [1, 2]), dense), bias)

rng = np.random.RandomState(0)
weights = [rng.standard_normal(shape).astype(np.float32) / 100 for shape in ((3, 3, 3, 16), (3, 3, 16, 32), (32, 11))]
bias = np.zeros(11, np.float32)
bias[4] = 1000
for name, scale, batch in (("good.pb", 1.0, None), ("nan.pb", np.nan, None), ("batch7.pb", 1.0, 7)):
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [batch, 32, 32, 3], name="input_tensor")
        first = np.float32(scale) * weights[0]
        tf.nn.softmax(logits(x, [first, weights[1]], weights[2], bias), name="softmax_tensor")
    with open(sys.argv[1] + "/" + name, "wb") as file:
        file.write(graph.as_graph_def().SerializeToString())

class Network(tf.Module):
    def __init__(self):
        self.weights = [tf.Variable(weight) for weight in weights]

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, name="input_tensor")])
    def __call__(self, input_tensor):
        return {"softmax": tf.nn.softmax(logits(input_tensor, self.weights[:2], self.weights[2], bias))}

network = Network()
tf.saved_model.save(network, sys.argv[1] + "/saved", signatures={"serving_default": network.__call__})
"""
FLOP_PER_IMAGE = 2 * 16 * 16 * 16 * 27 + 2 * 8 * 8 * 32 * 9 * 16


class Ended(NamedTuple):
    status: int
    events: list[dict[str, Any]]
    log: str
    children: dict[str, set[int]]  # of the subject, at each phase

    @property
    def result(self) -> dict[str, Any]:
        assert self.events[-1]["event"] == "result", self.log[-3000:]
        found: dict[str, Any] = self.events[-1]["result"]
        return found

    @property
    def phases(self) -> list[str]:
        return [event["name"] for event in self.events if event["event"] == "phase"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("subject")


def environment() -> dict[str, str]:
    package = str(Path(conformance.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}


def subject(place: Path, kind: str, **arguments: Any) -> Ended:
    events, log, path = (place / name for name in ("events", "log", "job.json"))
    events.unlink(missing_ok=True)
    wire.write_job(wire.Job(kind, str(events), 1, 1, arguments), str(path))
    argv = [sys.executable, "-m", "conformance.subject", str(path)]
    children: dict[str, set[int]] = {}
    with log.open("w") as out, subprocess.Popen(argv, env=environment(), stdout=out, stderr=out) as process:
        while process.poll() is None:
            complete, _, _ = (events.read_bytes() if events.exists() else b"").rpartition(b"\n")
            said = wire.parse_events(complete)
            now = next((event["name"] for event in reversed(said) if event["event"] == "phase"), "")
            children.setdefault(now, set()).update(children_of(process.pid))
            time.sleep(0.02)
    return Ended(process.returncode, wire.parse_events(events.read_bytes()), log.read_text(), children)


def children_of(pid: int) -> set[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return {int(child) for thread in threads for child in (thread / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return set()


@pytest.fixture(scope="module")
def graphs(place: Path) -> Path:
    subprocess.run([sys.executable, "-c", MAKE_GRAPHS, str(place)], env=environment(), check=True, capture_output=True)
    return place


def measure(graphs: Path, arms: list[tuple[str, str, str]], **changes: Any) -> Ended:
    arguments = {
        "arms": [{"name": name, "graph": str(graphs / graph), "precision": claim} for name, graph, claim in arms],
        "input_name": "input_tensor",
        "output_name": "softmax_tensor",
        "image_size": SIDE,
        "batch_size": 4,
        "warmup_steps": 5,
        "steps": 40,
        "min_timed_s": 0.2,
        "seed": 0,
        "go_path": None,
    }
    return subject(graphs, wire.MEASURE, **{**arguments, **changes})


@pytest.fixture(scope="module")
def one(graphs: Path) -> Ended:
    return measure(graphs, [("fp32", "good.pb", "fp32")], batch_size=1)


@pytest.fixture(scope="module")
def two(graphs: Path) -> Ended:
    """One arm is what it says; the other is fp32 that claims to be int8, and answers nothing but NaN."""
    return measure(graphs, [("fp32", "good.pb", "fp32"), ("liar", "nan.pb", "int8")])


def test_a_measurement_is_one_series_with_its_proof(one: Ended) -> None:
    assert one.status == 0
    (arm,) = one.result["arms"]
    assert (arm["name"], arm["precision"], arm["finite"]) == ("fp32", "fp32", True)
    assert len(arm["step_s"]) >= 40 and sum(arm["step_s"]) >= 0.2 and min(arm["step_s"]) > 0
    assert arm["warmup_steps"] >= 5
    assert arm["ended_s"] - arm["begun_s"] == pytest.approx(sum(arm["step_s"]), rel=0.05)
    assert arm["block_mean_s"] and min(arm["step_s"]) <= min(arm["block_mean_s"]) <= max(arm["step_s"])


def test_what_was_proven_before_is_not_proven_again(graphs: Path) -> None:
    again = measure(graphs, [("fp32", "good.pb", "fp32")], batch_size=1, steps=5, min_timed_s=0.0, prove=False)
    (arm,) = again.result["arms"]
    assert arm["proof"] is None and len(arm["step_s"]) >= 5
    assert "prove the precision" not in again.phases
    # What TensorFlow's import starts for a moment is gone then; a second process of ours would not be.
    assert not again.children["load the graph"] and not again.children["warm up"]


def test_what_is_timed_comes_after_the_proof_and_between_two_ceilings(one: Ended) -> None:
    assert one.phases[0] == "import TensorFlow"
    assert one.phases[-4:] == ["warm up", "measure the ceiling", "time steps", "measure the ceiling"]
    assert "prove the precision" in one.phases[1:-4]


def test_the_subject_tells_what_it_runs_on(one: Ended) -> None:
    (started,) = [event for event in one.events if event["event"] == "started"]
    assert (started["inter_op_threads"], started["intra_op_threads"]) == (1, 1)
    assert started["affinity"] == sorted(os.sched_getaffinity(0))
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", started["tensorflow"])


def test_fp32_runs_in_fp32(one: Ended) -> None:
    proof = one.result["arms"][0]["proof"]
    assert proof["error"] is None and proof["native_share"] == 1.0
    assert proof["flop_per_image"] == FLOP_PER_IMAGE
    assert {kernel["data_type"] for kernel in proof["kernels"]} == {"f32:f32"}
    assert sum(kernel["calls"] for kernel in proof["kernels"]) == 2
    assert proof["onednn"]["version"] and proof["onednn"]["runtime"] and proof["onednn"]["isa"]


def test_fp32_that_claims_int8_is_found_out(two: Ended) -> None:
    honest, liar = two.result["arms"]
    assert honest["proof"]["native_share"] == 1.0
    assert (liar["precision"], liar["proof"]["native_share"], liar["proof"]["error"]) == ("int8", 0.0, None)
    assert {kernel["data_type"] for kernel in liar["proof"]["kernels"]} == {"f32:f32"}


def test_the_ceiling_is_measured_before_and_after_in_the_claimed_type(one: Ended, two: Ended) -> None:
    arms = [*one.result["arms"], *two.result["arms"]]
    for arm in arms:
        assert arm["ceiling_before_flop_per_s"] > 1e9 and arm["ceiling_after_flop_per_s"] > 1e9
    assert arms[1]["ceiling_before_flop_per_s"] != arms[2]["ceiling_before_flop_per_s"]


def test_a_graph_never_computes_faster_than_the_ceiling(one: Ended) -> None:
    (arm,) = one.result["arms"]
    assert FLOP_PER_IMAGE / np.median(arm["step_s"]) < arm["ceiling_before_flop_per_s"]


def test_the_time_between_timed_steps_is_under_one_percent(two: Ended) -> None:
    for arm in two.result["arms"]:  # of 5 s: in a shorter series one interruption by others would be more
        assert 0 < arm["gap_share"] < 0.01


def test_the_cpus_are_read_around_the_series(one: Ended) -> None:
    reading = one.result["reading"]
    assert reading["cpus"] == len(os.sched_getaffinity(0))
    assert reading["elapsed_s"] >= sum(one.result["arms"][0]["step_s"]) and reading["own_s"] > 0


def test_the_proof_is_one_child_begun_beside_the_import_and_gone_before_anything_is_timed(one: Ended) -> None:
    timed = ("warm up", "measure the ceiling", "time steps")
    before = [seen for phase, seen in one.children.items() if phase not in ("", "import TensorFlow", *timed)]
    (second,) = set().union(*before)
    assert second in one.children["import TensorFlow"]  # which may have short-lived children of its own
    assert [one.children.get(phase, set()) for phase in timed] == [set()] * 3  # a zombie would still be listed


def test_the_log_shows_the_lines_of_the_recipe(one: Ended) -> None:
    (arm,) = one.result["arms"]
    iterations = re.findall(r"^Iteration (\d+): (\d+\.\d{6}) sec$", one.log, re.M)
    assert [int(number) for number, _ in iterations] == list(
        range(10, arm["warmup_steps"] + len(arm["step_s"]) + 1, 10)
    )
    mean = float(np.mean(arm["step_s"]))
    printed = re.findall(r"^(Average time|Batch size|Latency|Throughput)(?:: | = )(\S+)(.*)$", one.log, re.M)
    assert [(name, unit) for name, _, unit in printed] == [
        ("Average time", " sec"),
        ("Batch size", ""),
        ("Latency", " ms"),
        ("Throughput", " images/sec"),
    ]
    values = [float(value) for _, value, _ in printed]
    assert values == pytest.approx([mean, 1, 1000 * mean, 1 / mean], rel=0.01)


def test_latency_is_printed_of_single_images_only(two: Ended) -> None:
    assert "Batch size = 4" in two.log and "Latency" not in two.log


def test_two_arms_take_turns_in_blocks(two: Ended) -> None:
    first, second = two.result["arms"]
    assert len(first["block_mean_s"]) == len(second["block_mean_s"]) >= 10
    assert first["begun_s"] < second["begun_s"] < first["ended_s"]
    seconds = [sum(arm["step_s"]) for arm in (first, second)]
    assert min(seconds) > 0.1 * max(seconds)  # as far as the neighbours let them


def test_outputs_that_are_no_numbers_are_told_of_the_arm_that_gave_them(two: Ended) -> None:
    assert [arm["finite"] for arm in two.result["arms"]] == [True, False]


@pytest.fixture(scope="module")
def digits(place: Path) -> Path:
    """A set of 110 digits: ten of each class for training, a fifth, rounded up, for validation."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 11)
    np.savez(place / "arrays.npz", images=rng.integers(0, 17, (110, 8, 8)), labels=labels)
    ended = subject(place, wire.WRITE_DIGITS, arrays=str(place / "arrays.npz"), output=str(place / "digits"), seed=0)
    assert re.fullmatch("[0-9a-f]{64}", ended.result["digest"])
    return place / "digits"


def judge(
    graphs: Path, digits: Path, graph: str, input_name: str, output_name: str, results: bool, images: int | None = None
) -> Ended:
    return subject(
        graphs,
        wire.ACCURACY,
        graph=str(graphs / graph),
        precision="fp32",
        input_name=input_name,
        output_name=output_name,
        data=str(digits),
        dataset="digits",
        image_size=SIDE,
        batch_size=7,
        images=images,
        bits_path=str(graphs / "bits"),
        answers_path=str(graphs / "answers.npz"),
        results_path=str(graphs / "results.csv") if results else None,
    )


def test_every_image_is_judged_by_a_saved_model_the_last_partial_batch_too(graphs: Path, digits: Path) -> None:
    said = json.loads((digits / "dataset.json").read_text())["splits"]
    assert said["validation"]["images"] == 30  # 3 of each class: 4 batches of 7, and 2 images
    ended = judge(graphs, digits, "saved", "input_tensor:0", "Identity:0", results=True)
    result = ended.result
    # Every image is called a 3. What else stands among the first five are the lower classes, for ties: 0 to 3.
    assert (result["images"], result["top1_hits"], result["top5_hits"]) == (30, 3, 12)
    assert result["proof"]["native_share"] == 1.0 and result["proof"]["flop_per_image"] == FLOP_PER_IMAGE
    assert result["graph"]["classes"] == CLASSES
    assert 0 < result["compute_s"] < result["elapsed_s"]

    lines = re.findall(
        r"^Processed (\d+) images\. \(Top1 accuracy, Top5 accuracy\) = \((\S+), (\S+)\)$", ended.log, re.M
    )
    assert [int(count) for count, _, _ in lines] == [7, 14, 21, 28, 30]
    assert lines[-1][1:] == ("0.1000", "0.4000")

    header, *rows = (graphs / "results.csv").read_text().splitlines()
    assert header == "filename,actual,prediction" and len(rows) == 30
    actual = [int(row.split(",")[1]) for row in rows]
    assert all(re.fullmatch(r"digit_\d{5}\.JPEG,\d+,4", row) for row in rows)
    bits = np.unpackbits(np.fromfile(graphs / "bits", np.uint8))[:30]
    assert bits.tolist() == [int(label == 4) for label in actual] and sum(bits) == 3

    with np.load(graphs / "answers.npz") as answers:
        assert answers["label"].tolist() == actual and set(answers["prediction"]) == {4}
        names = [row.split(",")[0] for row in rows]
        assert [name.decode() for name in answers["filename"]] == names
        places = set(zip(answers["shard"].tolist(), answers["record"].tolist()))
        assert len(places) == 30 and min(places) == (0, 0)
        first = tf_records(str(answers["shards"][answers["shard"][9]]))[answers["record"][9]]
        assert names[9].encode() in first


def tf_records(path: str) -> list[bytes]:
    """Return the records of a TFRecord file: a length of 8 bytes, a checksum of 4, the bytes, a checksum of 4."""
    data, found = Path(path).read_bytes(), []
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        found.append(data[12:end])
        data = data[end + 4 :]
    return found


def test_a_number_of_images_is_judged_exactly_or_refused(graphs: Path, digits: Path) -> None:
    few = judge(graphs, digits, "batch7.pb", "input_tensor", "softmax_tensor", results=False, images=10)
    assert few.result["images"] == 10  # a whole batch, and three images in a graph that only takes seven
    assert len(np.fromfile(graphs / "bits", np.uint8)) == 2
    many = judge(graphs, digits, "good.pb", "input_tensor", "softmax_tensor", results=False, images=31)
    assert (many.status, many.events[-1]["message"]) == (1, "31 images were asked for, and the split holds 30.")


def test_answers_that_are_no_numbers_are_neither_right_nor_wrong(graphs: Path, digits: Path) -> None:
    ended = judge(graphs, digits, "nan.pb", "input_tensor", "softmax_tensor", results=False)
    last = ended.events[-1]
    assert ended.status == 1 and last["event"] == "failed"
    assert last["message"] == "The graph's output for images 0 to 6 holds NaN or Inf."


def test_a_frozen_network_has_the_names_of_the_recipe_and_is_the_same_for_the_same_seed(place: Path) -> None:
    arguments = {"model": "resnet50_v1_5", "classes": CLASSES, "image_size": SIDE, "seed": 3}
    ended = subject(place, wire.FREEZE_SEEDED, output=str(place / "seeded.pb"), **arguments)
    assert ended.status == 0 and ended.result == {}
    graph = (place / "seeded.pb").read_bytes()
    assert b"input_tensor" in graph and b"softmax_tensor" in graph
    assert 4 * 23_530_571 < len(graph) < 4 * 23_700_000  # its parameters and statistics as float32, and little else
    assert not (place / "seeded.pb.part").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("neural_compressor") is None, reason="Neural Compressor is not installed here"
)
def test_a_quantised_graph_runs_its_convolutions_in_int8(graphs: Path) -> None:
    arguments = {"dataset": "dummy", "data": None, "image_size": SIDE, "images": 8, "batch_size": 4, "seed": 0}
    tensors = {"input_name": "input_tensor", "output_name": "softmax_tensor"}
    paths = {"graph": str(graphs / "good.pb"), "output": str(graphs / "int8.pb")}
    quantized = subject(graphs, wire.QUANTIZE, **arguments, **tensors, **paths)
    assert quantized.result == {"convolutions": {"int8": 2}, "calibration": {"sha256": None, "images": 8}}
    measured = measure(graphs, [("int8", "int8.pb", "int8")], steps=5, min_timed_s=0.05)
    assert measured.result["arms"][0]["proof"]["native_share"] >= 0.95
