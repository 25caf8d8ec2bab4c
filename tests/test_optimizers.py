"""Losses and optimisers: held against their formulas in float64, and one whole training step against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from network_reference import Step, value  # noqa: E402

from conformance.models import losses, resnet  # noqa: E402
from conformance.models.optimizers import Accumulator, Lars, Momentum, gradients, head  # noqa: E402
from conformance.models.resnet import ResNet, Variant  # noqa: E402

pytestmark = pytest.mark.tensorflow

SMALL = {
    "resnet": Variant((1, 2), (4, 8)),
    "resnext": Variant((1, 2), (4, 8), 2, 4, same_padding=True, glorot_dense=True),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(resnet.VARIANTS, request.param, SMALL[request.param])
    return request.param


def batch(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.uniform(-120, 130, (count, 24, 24, 3)).astype(np.float32)
    return images, rng.integers(0, classes, count)


def scrambled(network: ResNet) -> ResNet:
    """Moves gamma, beta and bias off their 1 and 0, where a wrong term of them would not show."""
    rng = np.random.default_rng(1)
    for variable in network.trainable_variables:
        if variable.shape.rank == 1:
            variable.assign_add(rng.uniform(-0.3, 0.3, variable.shape))
    return network


def test_one_step_is_that_of_numpy_in_float64(small: str) -> None:
    classes, smoothing, decay, momentum, rate = 7, 0.1, 0.05, 0.875, 0.1
    network = scrambled(ResNet(small, classes, 0))
    images, labels = batch(6, classes)
    shares = np.eye(classes)[labels] * 0.9 + 0.1 / classes
    reference = Step(network, images, shares, same=small == "resnext")
    variables = network.trainable_variables
    kept = ("gamma", "beta")  # by hand: what the recipes do not decay
    expected = {}
    for v in variables:
        decayed = 0.0 if v.name.split(":")[0].split("/")[-1] in kept else decay
        expected[v.ref()] = reference.gradients[v.ref()] + decayed * value(v)
    squares = sum((value(v) ** 2).sum() / 2 for v in variables if "gamma" not in v.name and "beta" not in v.name)
    before = {v.ref(): value(v) for v in variables}
    optimizer = Momentum(variables, momentum)

    def loss() -> Any:
        soft = losses.targets(tf.constant(labels), classes, smoothing)
        logits = network(tf.constant(images), training=True)
        return losses.cross_entropy(logits, soft) + losses.weight_decay(variables, decay)

    total, found = gradients(loss, variables)
    optimizer.apply(found, tf.constant(rate))
    assert float(total) == pytest.approx(reference.loss + decay * squares, rel=1e-4)
    assert len(reference.gradients) == len(variables) and len(reference.statistics) == 2 * (len(variables) - 2) // 3
    for variable, gradient in zip(variables, found):
        exact = expected[variable.ref()]
        scale = abs(exact).max()
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-4 * scale, err_msg=variable.name)
        np.testing.assert_allclose(
            variable, before[variable.ref()] - rate * exact, rtol=0, atol=1e-4 * rate * scale + 1e-6
        )
    for module in network.submodules:
        for variable in (getattr(module, "mean", None), getattr(module, "variance", None)):
            if variable is not None:
                np.testing.assert_allclose(variable, reference.statistics[variable.ref()], rtol=1e-4, atol=1e-4)


def test_momentum_adds_what_is_left_of_the_steps_before_and_the_rate_stays_outside() -> None:
    w = tf.Variable([1.0, -2.0])
    optimizer = Momentum([w], 0.9)
    optimizer.apply([tf.constant([1.0, 0.5])], tf.constant(0.1))
    optimizer.apply([tf.constant([1.0, 0.5])], tf.constant(0.01))
    np.testing.assert_allclose(w, [1 - 0.1 - 0.01 * 1.9, -2 - 0.05 - 0.01 * 0.95], rtol=1e-6)
    np.testing.assert_allclose(optimizer.velocities[0], [1.9, 0.95], rtol=1e-6)


def test_lars_scales_each_layer_by_its_norms_and_keeps_the_rate_in_the_velocity() -> None:
    rng = np.random.default_rng(0)
    names = ["conv/kernel", "batch_normalization/gamma", "final_dense/bias", "zero/kernel"]
    starts = [rng.standard_normal((3, 4)) for _ in names[:3]] + [np.zeros((3, 4))]
    variables = [tf.Variable(start.astype(np.float32), name=name) for start, name in zip(starts, names)]
    optimizer = Lars(variables, 0.9, 2e-4)
    weights, velocities = starts, [np.zeros((3, 4))] * 4
    for rate in (5.0, 1.0):
        slopes = [rng.standard_normal((3, 4)) for _ in names]
        optimizer.apply([tf.constant(slope, tf.float32) for slope in slopes], tf.constant(rate))
        for index, (w, g) in enumerate(zip(list(weights), slopes)):
            change = g
            if names[index].endswith("/kernel"):
                length, slope = np.linalg.norm(w), np.linalg.norm(g)
                trust = 0.001 * length / (slope + 2e-4 * length) if length else 1.0
                change = trust * (g + 2e-4 * w)
            velocities[index] = 0.9 * velocities[index] + rate * change
            weights[index] = w - velocities[index]
    for variable, expected in zip(variables, weights):
        np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6, err_msg=variable.name)


def test_accumulating_three_micro_batches_is_one_step_of_all_of_them(small: str) -> None:
    images, labels = batch(6, 7)

    def of(network: ResNet) -> tuple[Any, Momentum]:
        variables = network.trainable_variables

        def slopes(x: Any, y: Any) -> Any:
            def loss() -> Any:  # statistics of a batch differ from those of its parts: without them
                logits = network(x, training=False)
                return losses.cross_entropy(logits, losses.targets(y, 7, 0.1)) + losses.weight_decay(variables, 1e-2)

            return gradients(loss, variables)[1]

        return tf.function(slopes), Momentum(variables, 0.9)

    slopes, whole = of(scrambled(ResNet(small, 7, 0)))
    slopes_of_part, accumulated = of(scrambled(ResNet(small, 7, 0)))
    sums = Accumulator(accumulated.variables)
    for _ in range(2):
        whole.apply(slopes(tf.constant(images), tf.constant(labels)), tf.constant(0.001))
        for x, y in zip(np.split(images, 3), np.split(labels, 3)):
            sums.add(slopes_of_part(tf.constant(x), tf.constant(y)))
        accumulated.apply(sums.take_mean(3), tf.constant(0.001))
    for expected, found in zip(whole.velocities, accumulated.velocities):
        scale = abs(expected.numpy()).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_a_loss_scale_saves_small_gradients_and_is_taken_out_again() -> None:
    w = tf.Variable(1.0)

    def loss() -> Any:
        return tf.cast(tf.cast(w, tf.float16) * tf.constant(2e-5, tf.float16), tf.float32) * 1e-4

    lost, saved = (gradients(loss, [w], scale) for scale in (1.0, 1024.0))
    assert float(lost[1][0]) == 0.0 and float(saved[1][0]) == pytest.approx(2e-9, rel=0.02)
    assert float(lost[0]) == float(saved[0])


def test_label_smoothing_gives_every_class_its_part() -> None:
    found = losses.targets(tf.constant([3, 0]), 1001, 0.1).numpy()
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    assert found[0, 3] == found[1, 0] == pytest.approx(0.9 + 0.1 / 1001)
    assert found[0, 0] == pytest.approx(0.1 / 1001)
    np.testing.assert_array_equal(losses.targets(tf.constant([1]), 3, 0.0), [[0, 1, 0]])


def test_cross_entropy_is_the_mean_over_the_batch_in_float32() -> None:
    rng = np.random.default_rng(0)
    logits, shares = rng.normal(0, 4, (5, 9)), rng.dirichlet(np.ones(9), 5)
    expected = -(shares * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()
    assert float(
        losses.cross_entropy(tf.constant(logits, tf.float32), tf.constant(shares, tf.float32))
    ) == pytest.approx(expected, rel=1e-5)
    assert losses.cross_entropy(tf.zeros([2, 9], tf.bfloat16), tf.constant(shares[:2], tf.float32)).dtype == tf.float32


def test_mixup_mixes_images_and_targets_by_the_same_share_with_the_one_before() -> None:
    images = tf.reshape(tf.constant([0.0, 10.0, 20.0]), [3, 1, 1, 1])
    mixed, shares = losses.mixup(images, tf.eye(3), tf.constant(0.75))
    np.testing.assert_allclose(tf.reshape(mixed, [3]), [5.0, 7.5, 17.5])
    np.testing.assert_allclose(shares, [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]])


def test_the_share_of_mixup_is_drawn_anew_each_step_and_again_after_a_resume() -> None:
    drawn = [losses.mixup_share(0.2, 1, step) for step in range(2000)]
    assert drawn[7] == losses.mixup_share(0.2, 1, 7) != losses.mixup_share(0.2, 2, 7)
    assert len(set(drawn)) > 1900 and min(drawn) >= 0 and max(drawn) <= 1
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
    assert np.var(drawn) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)  # of Beta(a, a)


def test_fine_tuning_trains_the_dense_layer_only(small: str) -> None:
    network = ResNet(small, 7, 0)
    assert [v.ref() for v in head(network.trainable_variables)] == [
        v.ref() for v in network.trainable_variables if v is network.dense_kernel or v is network.dense_bias
    ]
    assert len(head(network.trainable_variables)) == 2
