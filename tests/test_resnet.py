"""ResNet50 v1.5: its counts, its shapes, and the arithmetic of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.models import resnet  # noqa: E402
from conformance.models.resnet import ConvBatchNorm, ResNet, truncated_normal  # noqa: E402

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def network() -> ResNet:
    return ResNet("resnet50_v1_5", 1001, 0)


def convolutions(network: ResNet) -> Iterator[ConvBatchNorm]:
    return (module for module in network.submodules if isinstance(module, ConvBatchNorm))


def convolved(images: np.ndarray, kernel: np.ndarray, stride: int, pads: tuple[int, int]) -> np.ndarray:
    """Convolve [B, H, W, C] with [h, w, C, K] by its definition."""
    x = np.pad(images.astype(np.float64), [(0, 0), pads, pads, (0, 0)])
    size, _, _, outputs = kernel.shape
    high, wide = ((length - size) // stride + 1 for length in x.shape[1:3])
    y = np.zeros((len(x), high, wide, outputs))
    for i in range(high):
        for j in range(wide):
            patch = x[:, stride * i : stride * i + size, stride * j : stride * j + size]
            y[:, i, j] = np.tensordot(patch, kernel, 3)
    return y


def test_it_has_the_counts_of_the_paper(network: ResNet) -> None:
    assert len(list(convolutions(network))) == 53
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == 25_559_081
    statistics = [v for v in network.variables if not v.trainable]
    assert sum(int(np.prod(v.shape)) for v in statistics) == 53_120
    assert len(network.trainable_variables) == 53 * 3 + 2 and len(statistics) == 53 * 2


@pytest.mark.parametrize(("batch", "side"), [(2, 224), (3, 32)])
def test_images_become_logits(network: ResNet, batch: int, side: int) -> None:
    shapes = tf.function(network).get_concrete_function(tf.TensorSpec([batch, side, side, 3])).output_shapes
    assert shapes == tf.TensorShape([batch, 1001])


def test_each_stage_halves_the_image_and_doubles_the_filters(network: ResNet) -> None:
    inputs = tf.TensorSpec([1, 56, 56, 64])
    shapes = []
    for layer in network.layers:
        for block in layer:
            traced = tf.function(lambda x, block=block: block(x, False)).get_concrete_function(inputs)
            inputs = tf.TensorSpec(traced.output_shapes)
        shapes.append(inputs.shape.as_list()[1:])
    assert shapes == [[56, 56, 256], [28, 28, 512], [14, 14, 1024], [7, 7, 2048]]
    assert [len(layer) for layer in network.layers] == [3, 4, 6, 3]


def test_the_stride_of_a_block_is_in_its_3x3_and_its_shortcut(network: ResNet) -> None:
    for stage, layer in enumerate(network.layers):
        for index, block in enumerate(layer):
            stride = 2 if stage and not index else 1
            assert (block.reduce.stride, block.spatial.stride, block.expand.stride) == (1, stride, 1)
            assert (block.reduce.size, block.spatial.size, block.expand.size) == (1, 3, 1)
            assert (block.shortcut is None) == bool(index)
            assert block.shortcut is None or (block.shortcut.stride, block.shortcut.size) == (stride, 1)
    assert (network.initial.size, network.initial.stride) == (7, 2)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(
    ("size", "stride", "pads"),
    [(7, 2, (3, 3)), (3, 2, (1, 1)), (1, 2, (0, 0)), (3, 1, (1, 1)), (1, 1, (0, 0))],
)
def test_padding_depends_on_the_kernel_only(size: int, stride: int, pads: tuple[int, int], side: int) -> None:
    rng = np.random.default_rng(0)
    layer = ConvBatchNorm(rng, "layer", size, 2, 4, stride)
    for variable, low in ((layer.gamma, 0.5), (layer.beta, -1), (layer.mean, -1), (layer.variance, 0.5)):
        variable.assign(rng.uniform(low, 1.5, variable.shape))
    images = rng.standard_normal((2, side, side, 2)).astype(np.float32)
    y = convolved(images, layer.kernel.numpy(), stride, pads)
    y = (y - layer.mean) / np.sqrt(layer.variance + 1e-5) * layer.gamma + layer.beta
    np.testing.assert_allclose(layer(tf.constant(images), False), y, rtol=1e-4, atol=1e-5)


def test_a_training_step_normalises_by_the_batch_and_moves_the_statistics_by_a_tenth() -> None:
    rng = np.random.default_rng(0)
    layer = ConvBatchNorm(rng, "layer", 1, 2, 3, 1)
    images = (5 + 3 * rng.standard_normal((4, 6, 6, 2))).astype(np.float32)
    y = layer(tf.constant(images), True).numpy()
    x = convolved(images, layer.kernel.numpy(), 1, (0, 0)).reshape(-1, 3)
    np.testing.assert_allclose(y.reshape(-1, 3), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.mean, 0.9 * 0 + 0.1 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.variance, 0.9 * 1 + 0.1 * x.var(0, ddof=1), rtol=1e-4)
    layer(tf.constant(images), True)
    np.testing.assert_allclose(layer.mean, 0.19 * x.mean(0), rtol=1e-4)


def test_inference_leaves_the_statistics_alone() -> None:
    layer = ConvBatchNorm(np.random.default_rng(0), "layer", 1, 2, 3, 1)
    before = [v.numpy() for v in layer.variables]
    layer(tf.ones([1, 4, 4, 2]), False)
    for old, new in zip(before, layer.variables):
        np.testing.assert_array_equal(old, new)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A variant that is made in no time."""
    monkeypatch.setitem(resnet.VARIANTS, "small", resnet.Variant((1, 2), (4, 8)))
    return "small"


def weights(network: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in network.variables]


def test_the_classes_change_the_last_layer_only(small: str) -> None:
    ten, eleven = (ResNet(small, classes, 0) for classes in (10, 11))
    assert (ten.dense_kernel.shape, eleven.dense_kernel.shape) == ([32, 10], [32, 11])
    shapes = [
        sorted((v.name, tuple(v.shape)) for v in network.variables if "dense" not in v.name)
        for network in (ten, eleven)
    ]
    assert shapes[0] == shapes[1]
    assert ten(tf.zeros([1, 32, 32, 3])).shape == [1, 10]


def test_the_seed_decides_the_weights(small: str) -> None:
    made = [weights(ResNet(small, 11, seed)) for seed in (1, 1, 2)]
    assert all((a == b).all() for a, b in zip(made[0], made[1]))
    assert any((a != b).any() for a, b in zip(made[0], made[2]))


def test_weights_are_truncated_at_two_sigmas_and_keep_the_scale_of_their_inputs(network: ResNet) -> None:
    kernel = network.layers[3][0].spatial.kernel.numpy()  # 3 x 3 x 512 x 512
    sigma = np.sqrt(1 / (9 * 512))
    assert kernel.std() == pytest.approx(sigma, rel=0.01) and abs(kernel.mean()) < 0.01 * sigma
    assert abs(kernel).max() <= 2 * sigma / 0.8796256610342398 * (1 + 1e-6)
    assert network.dense_kernel.numpy().std() == pytest.approx(0.01, rel=0.01)
    assert abs(truncated_normal(np.random.default_rng(0), (10_000,))).max() <= 2.0
