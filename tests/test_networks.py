"""ResNeXt-101 32x4d beside ResNet50 v1.5: counts, shapes, grouped kernels, bfloat16, and weights to start from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from network_reference import convolution, same_pads  # noqa: E402

from conformance.models import resnet  # noqa: E402
from conformance.models.pretrained import start_from  # noqa: E402
from conformance.models.resnet import ConvBatchNorm, ResNet, Variant  # noqa: E402
from conformance.models.trainable import check_trainable  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def resnext() -> ResNet:
    return ResNet("resnext101_32x4d", 1001, 0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A ResNeXt that is made in no time."""
    monkeypatch.setitem(resnet.VARIANTS, "small", Variant((1, 2), (4, 8), 2, 4, same_padding=True, glorot_dense=True))
    return "small"


def convolutions(network: ResNet) -> list[ConvBatchNorm]:
    return [module for module in network.submodules if isinstance(module, ConvBatchNorm)]


def test_resnext_has_the_counts_of_the_recipe(resnext: ResNet) -> None:
    assert len(convolutions(resnext)) == 104
    assert sum(int(np.prod(v.shape)) for v in resnext.trainable_variables) == 44_179_753
    assert [len(layer) for layer in resnext.layers] == [3, 4, 23, 3]
    assert all(v.dtype == tf.float32 for v in resnext.variables)


def test_the_3x3_of_resnext_has_32_groups_that_grow_from_4_to_32_channels(resnext: ResNet) -> None:
    kernels = [layer[0].spatial.kernel.shape.as_list() for layer in resnext.layers]
    assert kernels == [[3, 3, 4, 128], [3, 3, 8, 256], [3, 3, 16, 512], [3, 3, 32, 1024]]


@pytest.mark.parametrize(("batch", "side"), [(2, 224), (3, 32)])
def test_the_endpoints_are_the_rows_of_the_papers_table(resnext: ResNet, batch: int, side: int) -> None:
    traced = tf.function(resnext.endpoints).get_concrete_function(tf.TensorSpec([batch, side, side, 3]))
    halved = [[batch, side // parts, side // parts] for parts in (2, 4, 8, 16, 32)]
    channels = [64, 256, 512, 1024, 2048]
    names = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    expected = {name: shape + [depth] for name, shape, depth in zip(names, halved, channels)}
    expected.update(average_pool=[batch, 2048], fc=[batch, 1001])
    assert {name: shape.as_list() for name, shape in traced.output_shapes.items()} == expected


def test_initial_weights_are_those_of_the_recipe(resnext: ResNet) -> None:
    kernel = resnext.layers[3][0].spatial.kernel.numpy()  # 3 x 3 x 32 x 1024
    assert kernel.std() == pytest.approx(np.sqrt(1 / (9 * 32)), rel=0.01)
    dense, limit = resnext.dense_kernel.numpy(), np.sqrt(6 / (2048 + 1001))
    assert 0.999 * limit < abs(dense).max() <= limit and dense.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(("size", "stride", "groups"), [(7, 2, 1), (3, 2, 4), (3, 1, 4), (1, 2, 1)])
def test_resnext_pads_as_tensorflow_does_and_keeps_groups_apart(size: int, stride: int, groups: int, side: int) -> None:
    rng = np.random.default_rng(0)
    layer = ConvBatchNorm(rng, "layer", size, 8, 12, stride, groups, same_padding=True)
    images = rng.standard_normal((2, side, side, 8)).astype(np.float32)
    y, _ = convolution(images.astype(np.float64), layer.kernel.numpy(), stride, same_pads(side, size, stride))
    np.testing.assert_allclose(layer(tf.constant(images), False), y / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-5)


def operands(function: Any, op: str) -> Iterator[tuple[Any, ...]]:
    return (tuple(x.dtype for x in node.inputs) for node in function.graph.get_operations() if node.type == op)


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_is_in_every_kernel_and_in_no_variable_nor_logit(small: str, training: bool) -> None:
    network = ResNet(small, 11, 0, tf.bfloat16)
    function = tf.function(network).get_concrete_function(tf.TensorSpec([2, 32, 32, 3]), training)
    assert list(operands(function, "Conv2D")) == [(tf.bfloat16, tf.bfloat16)] * len(convolutions(network))
    assert list(operands(function, "MatMul")) == [(tf.bfloat16, tf.bfloat16)]
    kinds = {(x, scale) for x, scale, *_ in operands(function, "FusedBatchNormV3")}
    assert kinds == {(tf.bfloat16, tf.float32)}
    assert function.output_dtypes == tf.float32 and {v.dtype for v in network.variables} == {tf.float32}


def test_bfloat16_gives_nearly_the_gradients_of_float32(small: str) -> None:
    images = tf.random.stateless_normal([8, 32, 32, 3], [1, 2])
    found = []
    for compute in (tf.float32, tf.bfloat16):
        network = ResNet(small, 11, 0, compute)
        with tf.GradientTape() as tape:
            loss = tf.reduce_logsumexp(network(images, training=True))
        found.append(tape.gradient(loss, [network.dense_kernel, network.layers[1][1].spatial.kernel]))
    for exact, rounded in zip(*found):
        assert rounded.dtype == tf.float32
        error = tf.norm(rounded - exact) / tf.norm(exact)
        assert 0 < error < 0.2


@pytest.mark.parametrize("compute", [tf.float32, tf.bfloat16])
def test_groups_are_trained_where_onednn_is_on(small: str, compute: Any) -> None:
    check_trainable(ResNet(small, 3, 0, compute))


def test_training_groups_without_onednn_is_refused_in_one_sentence() -> None:
    code = """if True:
        import tensorflow as tf
        from conformance.models import resnet
        from conformance.models.trainable import check_trainable
        from conformance.wire import Refused

        for groups in (4, 1):
            resnet.VARIANTS["small"] = resnet.Variant((1,), (4,), 2, groups)
            try:
                print(check_trainable(resnet.ResNet("small", 3, 0)))
            except Refused as refused:
                print(refused.message, refused.hint)
    """
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": str(Path(resnet.__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    grouped, without_groups = ended.stdout.splitlines()
    said = "has no gradient of a float32 convolution with groups=4 on this device, and cannot train small. On a CPU"
    assert said in grouped and "TF_ENABLE_ONEDNN_OPTS=1" in grouped
    assert without_groups == "None"


@pytest.fixture
def checkpoint(small: str, tmp_path: Path) -> str:
    """A network of 11 classes, saved as a training run saves it."""
    saved = tf.train.Checkpoint(network=ResNet(small, 11, 1), step=tf.Variable(7))
    return saved.save(str(tmp_path / "training" / "step"))


def test_a_run_starts_from_the_weights_of_a_checkpoint(small: str, checkpoint: str) -> None:
    for path in (checkpoint, os.path.dirname(checkpoint)):
        network = ResNet(small, 11, 2)
        start_from(network, path, with_head=True)
        for loaded, saved in zip(network.variables, ResNet(small, 11, 1).variables):
            np.testing.assert_array_equal(loaded, saved)


def test_without_its_head_a_checkpoint_serves_other_classes(small: str, checkpoint: str) -> None:
    network, saved, made = ResNet(small, 5, 2), ResNet(small, 11, 1), ResNet(small, 5, 2)
    start_from(network, checkpoint, with_head=False)
    np.testing.assert_array_equal(network.dense_kernel, made.dense_kernel)
    np.testing.assert_array_equal(network.layers[1][1].spatial.kernel, saved.layers[1][1].spatial.kernel)


@pytest.mark.parametrize(
    ("other", "classes", "message"),
    [
        (Variant((1, 2), (4, 8), 2, 4), 5, r"network/dense_bias is \[11\] in it, and \[5\] in other with 5 classes"),
        (Variant((2, 2), (4, 8), 2, 4), 11, "network/layers/0/1/expand/beta is not there in it, and"),
        (Variant((1, 1), (4, 8), 2, 4), 11, r"layers/1/1/expand/beta is \[32\] in it, and not there in other"),
        (Variant((1, 2), (4, 8), 2, 2), 11, r"spatial/kernel is \[3, 3, 2, 8\] in it, and \[3, 3, 4, 8\] in other"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_and_nothing_of_it_loaded(
    other: Variant, classes: int, message: str, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(resnet.VARIANTS, "other", other)
    network, made = (ResNet("other", classes, 0) for _ in range(2))
    with pytest.raises(Refused, match=message):
        start_from(network, checkpoint, with_head=True)
    for variable, before in zip(network.variables, made.variables):
        np.testing.assert_array_equal(variable, before)


def test_what_is_no_checkpoint_is_refused(small: str, checkpoint: str, tmp_path: Path) -> None:
    Path(checkpoint + ".index").write_bytes(Path(checkpoint + ".index").read_bytes()[:50])
    for path in (checkpoint, str(tmp_path / "nothing"), str(tmp_path)):
        with pytest.raises(Refused, match=f"'{path}' is no checkpoint"):
            start_from(ResNet(small, 11, 0), path, with_head=True)
