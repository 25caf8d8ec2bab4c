"""Batch normalisations folded into convolutions: the same answers, and what must stay does."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.models import graphs, resnet  # noqa: E402
from conformance.models.folding import NORMALISATIONS, folded  # noqa: E402
from conformance.models.resnet import ResNet  # noqa: E402
from conformance.subject.freeze import frozen, strip_defaults  # noqa: E402

pytestmark = pytest.mark.tensorflow

v1 = tf.compat.v1
RNG = np.random.RandomState


def normalised(x: Any, channels: int, seed: int = 0, training: bool = False, name: str = "norm") -> Any:
    """Normalise by random statistics; returns all outputs."""
    rng = RNG(seed)
    scale, offset, mean, variance = (tf.constant(rng.uniform(0.3, 2.0, channels), tf.float32) for _ in range(4))
    if training:
        mean = variance = tf.constant([], tf.float32)
    outputs = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=1e-3, is_training=training, name=name
    )
    return outputs


def convolution(x: Any, inputs: int, outputs: int, seed: int = 0, name: str = "conv") -> Any:
    kernel = RNG(seed).standard_normal((3, 3, inputs, outputs)).astype(np.float32) / 3
    return tf.nn.conv2d(x, tf.constant(kernel), 1, "SAME", name=name)


def graph(body: Callable[[Any], Any]) -> Any:
    with tf.Graph().as_default() as made:
        x = v1.placeholder(tf.float32, [None, 6, 6, 3], name="input_tensor")
        tf.identity(body(x), name="output")
    return made.as_graph_def()


def answers(graph_def: Any, images: np.ndarray, output: str = "output") -> np.ndarray:
    with tf.Graph().as_default() as made:
        tf.import_graph_def(graph_def, name="")
        with v1.Session(graph=made) as session:
            return np.asarray(session.run(output + ":0", {"input_tensor:0": images}))


def count(graph_def: Any) -> collections.Counter[str]:
    return collections.Counter(node.op for node in graph_def.node)


def left(graph_def: Any) -> int:
    return sum(count(graph_def)[op] for op in NORMALISATIONS)


def images(side: int = 6, batch: int = 4) -> np.ndarray:
    return RNG(1).standard_normal((batch, side, side, 3)).astype(np.float32)


def test_a_folded_graph_gives_the_same_answers() -> None:
    def body(x: Any) -> Any:
        x = tf.nn.relu(normalised(convolution(x, 3, 8), 8)[0])
        return normalised(convolution(x, 8, 5, seed=2, name="conv_2"), 5, seed=3, name="norm_2")[0]

    before = graph(body)
    after = folded(before)
    assert (left(before), left(after)) == (2, 0)
    assert count(after)["BiasAdd"] == 2
    np.testing.assert_allclose(answers(after, images()), answers(before, images()), rtol=1e-5, atol=1e-5)


def test_a_normalisation_of_the_first_version_with_a_default_epsilon_is_folded() -> None:
    before = graph(lambda x: normalised(convolution(x, 3, 4), 4)[0])
    node = next(node for node in before.node if node.name == "norm")
    node.op = "FusedBatchNorm"
    del node.attr["U"], node.attr["epsilon"]
    after = folded(before)
    assert left(after) == 0
    np.testing.assert_allclose(answers(after, images()), answers(before, images()), rtol=1e-5, atol=1e-5)


def test_constants_behind_identities_are_found() -> None:
    before = graph(lambda x: normalised(convolution(x, 3, 4), 4)[0])
    for node in before.node:
        if node.op in (*NORMALISATIONS, "Conv2D"):
            for i, source in enumerate(node.input):
                if next(n for n in before.node if n.name == source).op == "Const":
                    read = before.node.add(name=source + "/read", op="Identity", input=[source])
                    read.attr["T"].type = tf.float32.as_datatype_enum
                    node.input[i] = read.name
    assert left(folded(before)) == 0
    np.testing.assert_allclose(answers(folded(before), images()), answers(before, images()), rtol=1e-5, atol=1e-5)


def trained(x: Any) -> Any:
    return normalised(convolution(x, 3, 4), 4, training=True)[0]


def shared(x: Any) -> Any:
    x = convolution(x, 3, 4)
    return normalised(x, 4)[0] + x


def twice(x: Any) -> Any:
    x = convolution(x, 3, 4)
    return normalised(x, 4)[0] + normalised(x, 4, seed=5, name="norm_2")[0]


def watched(x: Any) -> Any:
    outputs = normalised(convolution(x, 3, 4), 4)
    return outputs[0] + outputs[1]


def alone(x: Any) -> Any:
    return normalised(tf.nn.relu(convolution(x, 3, 4)), 4)[0]


def depthwise(x: Any) -> Any:
    return normalised(tf.nn.depthwise_conv2d(x, tf.ones([3, 3, 3, 2]), [1, 1, 1, 1], "SAME"), 6)[0]


def fed(x: Any) -> Any:
    kernel = tf.transpose(x[:3, :3, :3, :], [1, 2, 3, 0])  # a kernel that is no constant
    return normalised(tf.nn.conv2d(x, kernel, 1, "SAME"), 3)[0]


@pytest.mark.parametrize("body", [trained, shared, twice, watched, alone, depthwise, fed])
def test_what_is_no_constant_affair_of_one_convolution_stays(body: Callable[[Any], Any]) -> None:
    before = graph(body)
    assert list(folded(before).node) == list(before.node)
    assert left(before) in (1, 2) and np.isfinite(answers(folded(before), images())).all()


def test_a_normalisation_in_training_stays_though_its_attribute_is_the_default_and_stripped() -> None:
    before = graph(trained)
    strip_defaults(before)
    node = next(node for node in before.node if node.name == "norm")
    assert "is_training" not in node.attr
    given = before.SerializeToString(deterministic=True)
    assert left(folded(before)) == 1
    assert before.SerializeToString(deterministic=True) == given  # nor is it changed


def test_the_graph_that_is_given_is_not_changed() -> None:
    before = graph(lambda x: normalised(convolution(x, 3, 4), 4)[0])
    given = before.SerializeToString(deterministic=True)
    folded(before)
    assert before.SerializeToString(deterministic=True) == given


def test_no_normalisation_is_left_in_resnet_and_its_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resnet.VARIANTS, "narrow", resnet.Variant((3, 4, 6, 3), (4, 4, 4, 4)))
    network = ResNet("narrow", 11, 0)
    rng = RNG(0)
    for variable in network.variables:
        if "batch_normalization" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    before = frozen(network, 32)
    after = graphs.optimized(before, "input_tensor", "softmax_tensor")
    assert (left(before), left(after)) == (53, 0)
    assert len(after.node) < len(before.node)  # nothing of what was folded is carried along
    assert count(after)["Conv2D"] == count(after)["BiasAdd"] - 1 == 53
    expected = answers(before, images(32, 2), "softmax_tensor")
    assert expected.std() > 1e-4
    np.testing.assert_allclose(answers(after, images(32, 2), "softmax_tensor"), expected, atol=1e-5)
