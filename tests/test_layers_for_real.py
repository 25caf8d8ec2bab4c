"""Layers as a real TensorFlow runs them: the same twice, and under an instruction set that is wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance import wire
from conformance.hardware.detect import detect
from conformance.judging.attribution import Layer, changed_layers, layers_of
from conformance.subject import onednn
from conformance.subject.verbose_pass import Log, Subject, VerbosePass

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow

IMAGES = np.ones((2, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Log]:
    """One step of a small network, twice in one process and once in another that may use less, at the same time."""
    with tf.Graph().as_default() as graph:
        fed = tf.compat.v1.placeholder(tf.float32, IMAGES.shape, name="in")
        rng = np.random.default_rng(0)
        x = fed
        for inner, outer in ((3, 16), (16, 32), (32, 32)):
            kernel = tf.constant(rng.normal(0, 0.1, (3, 3, inner, outer)).astype(np.float32))
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        tf.reduce_mean(tf.nn.max_pool2d(x, 2, 2, "VALID"), [1, 2], name="out")
    subject = Subject(graph.as_graph_def(), "fp32", "in", "out")
    job = tmp_path_factory.mktemp("layers") / "job.json"
    wire.write_job(wire.Job(wire.MEASURE, "unused", 1, 1, {}), str(job))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(conformance.__file__).parents[1]))
        patch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        twice = VerbosePass(str(job))
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        lesser = VerbosePass(str(job))
    twice.begin(IMAGES, [subject] * 2)
    lesser.begin(IMAGES, [subject])
    return dict(zip(("first", "second", "avx2"), twice.logs() + lesser.logs(), strict=True))


def layers(log: Log) -> tuple[Layer, ...]:
    assert log.error is None
    return layers_of(onednn.layers(onednn.parse(log.lines).timed), log.step_s)


def test_a_step_has_each_of_its_convolutions_once_with_a_share_of_its_time(logs: dict[str, Log]) -> None:
    found = layers(logs["first"])
    convolutions = [one for one in found if one.primitive == "convolution"]
    assert [one.problem.split("_")[1] for one in convolutions] == ["ic3oc16", "ic16oc32", "ic32oc32"]
    assert all(one.step_share and 0 < one.step_share < 1 for one in found)


def test_the_same_stack_twice_runs_no_layer_otherwise(logs: dict[str, Log]) -> None:
    assert changed_layers(layers(logs["first"]), layers(logs["second"])) == ()


@pytest.mark.skipif("avx512f" not in detect().flags, reason="this CPU has no more than AVX2")
def test_under_a_lesser_instruction_set_every_convolution_is_told(logs: dict[str, Log]) -> None:
    changes = changed_layers(layers(logs["first"]), layers(logs["avx2"]))
    convolutions = [change for change in changes if change.layer.startswith("convolution")]
    assert len(convolutions) == 3
    assert all(":avx512_core" in change.base and ":avx2" in change.new for change in convolutions)
    assert onednn.parse(logs["avx2"].lines).isa.startswith("Intel AVX2")


def test_each_log_says_by_which_onednn_it_was_written(logs: dict[str, Log]) -> None:
    first, second = (onednn.parse(logs[name].lines) for name in ("first", "second"))
    assert first.version and (first.version, first.isa) == (second.version, second.isa)
