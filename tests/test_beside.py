"""What a case is compared with, run for real on a network of one layer: it uses the subject's own functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from benchmarks import trained  # noqa: E402
from conformance.data import training  # noqa: E402
from conformance.models import resnet  # noqa: E402
from conformance.models.resnet import ResNet, Variant  # noqa: E402
from conformance.subject.training_arguments import completed  # noqa: E402
from conformance.subject.training_step import Step  # noqa: E402

pytestmark = pytest.mark.tensorflow
ROOT = Path(__file__).parents[1]


def beside(place: Path, **spec: Any) -> dict[str, Any]:
    (place / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "benchmarks.beside", str(place / "spec.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_dummy_data_decoding_and_judging_take_turns_on_the_same_images(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        fed = tf.compat.v1.placeholder(tf.float32, (None, 224, 224, 3), name="input_tensor")
        means = tf.reduce_mean(tf.nn.conv2d(fed, np.ones((3, 3, 3, 8), np.float32), 8, "SAME"), (1, 2))
        tf.nn.softmax(tf.matmul(means, np.ones((8, 1001), np.float32)), name="softmax_tensor")
    (tmp_path / "one.pb").write_bytes(graph.as_graph_def().SerializeToString())
    threads = {"inter_op_threads": 1, "intra_op_threads": 1}
    (tmp_path / "data").mkdir()
    beside(tmp_path, kind="jpegs", directory=str(tmp_path / "data"), images=6)
    answer = beside(
        tmp_path, kind="feed", graph=str(tmp_path / "one.pb"), precision="fp32", data=str(tmp_path / "data"),
        batch_size=4, rounds=2, folder=str(tmp_path), **threads,
    )  # fmt: skip
    assert all(len(answer[name]) == 2 and min(answer[name]) > 0 for name in ("dummy", "decoding", "judging"))
    assert answer["load_s"] > 0 and all(0 < share < 1 for share in answer["compute_share"])


SPEC = {"network": "small", "batch_size": 2, "image_size": 32, "intra_op_threads": 1}


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resnet.VARIANTS, "small", Variant((1, 2), (4, 8)))


@pytest.mark.usefixtures("_small")
def test_a_case_and_fit_take_as_many_turns_of_as_many_steps(tmp_path: Path) -> None:
    rounds = 3
    told = trained.beside_fit({**SPEC, "precision": "bf16", "rounds": rounds, "steps": 2, "folder": str(tmp_path)})
    for side in told["ours"], told["keras"]:
        assert [len(turn) for turn in side["step_s"]] == [2] * rounds == [2] * len(side["processor_s"])
        assert min(side["processor_s"]) > 0 and all(min(turn) > 0 for turn in side["step_s"])
    assert told["ours"]["parameters"] == told["keras"]["parameters"] > 0


@pytest.mark.usefixtures("_small")
def test_a_long_training_tells_its_times_and_memory(tmp_path: Path) -> None:
    told = trained.steps({**SPEC, "precision": "bf16", "steps": 12, "folder": str(tmp_path)})
    assert [len(told[name]) for name in ("step_s", "wait_s", "resident_bytes")] == [12] * 3
    assert 1e6 < min(told["used_bytes"]) < max(told["resident_bytes"])


def numbered(network: Any, kind: Any) -> list[Any]:
    """Return the layers of a kind in the order in which they were made, which Keras tells by their names."""
    return sorted(
        (layer for layer in network.layers if isinstance(layer, kind)),
        key=lambda layer: int(("0" + layer.name.rpartition("_")[2]) if layer.name[-1].isdigit() else 0),
    )


@pytest.mark.usefixtures("_small")
def test_a_case_and_fit_move_the_same_weights_alike() -> None:
    layers = tf.keras.layers
    ours, keras = ResNet("small", trained.CLASSES, 0), trained.keras_network("small", 32, "fp32")
    blocks = [block for layer in ours.layers for block in layer]
    own = [ours.initial, *(c for b in blocks for c in (b.shortcut, b.reduce, b.spatial, b.expand) if c is not None)]
    convolutions, norms = numbered(keras, layers.Conv2D), numbered(keras, layers.BatchNormalization)
    for mine, convolution, norm in zip(own, convolutions, norms, strict=True):
        convolution.set_weights([mine.kernel.numpy()])
        norm.set_weights([x.numpy() for x in (mine.gamma, mine.beta, mine.mean, mine.variance)])
    (dense,) = numbered(keras, layers.Dense)
    dense.set_weights([ours.dense_kernel.numpy(), ours.dense_bias.numpy()])
    pairs = [(mine.kernel, theirs.kernel) for mine, theirs in zip(own, convolutions, strict=True)]
    pairs += [(ours.dense_kernel, dense.kernel), (ours.dense_bias, dense.bias)]
    before = [mine.numpy() for mine, _ in pairs]
    batch = training.synthetic(4, 32, trained.CLASSES, 1, False)
    step = Step(ours, completed(trained.ARGUMENTS))
    for _ in range(2):
        told = step([batch], trained.RATE, 1.0)
        loss = keras.train_on_batch(*batch)[0]
    assert told.loss == pytest.approx(loss, rel=1e-3)
    for (mine, theirs), was in zip(pairs, before, strict=True):
        moved = np.linalg.norm(mine.numpy() - was)
        assert moved > 0 and np.linalg.norm(mine.numpy() - theirs.numpy()) < 0.02 * moved, mine.name
