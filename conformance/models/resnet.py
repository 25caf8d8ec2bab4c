"""ResNet v1.5 with plain TensorFlow operations, as IntelAI/models v1.6.1 trains it.

Deep Residual Learning, He et al. 2015 (arXiv:1512.03385); v1.5 moves the stride of a
bottleneck from its first 1x1 to its 3x3 convolution.
"""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import tensorflow as tf


class Variant(NamedTuple):
    """Blocks and filters of each stage; a bottleneck has 4 times its filters as outputs."""

    blocks: Tuple[int, ...]
    filters: Tuple[int, ...] = (64, 128, 256, 512)


VARIANTS: Dict[str, Variant] = {"resnet50_v1_5": Variant(blocks=(3, 4, 6, 3))}

BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


class ConvBatchNorm(tf.Module):
    """A convolution without bias and its batch normalisation; padding depends on the kernel only."""

    def __init__(self, rng: np.random.Generator, name: str, size: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(name=name)
        self.size, self.stride = size, stride
        # Variance scaling, scale 1, fan-in, normal truncated at two sigmas (which keeps 0.8796 of the deviation).
        sigma = np.sqrt(1.0 / (size * size * inputs)) / 0.87962566103423978
        kernel = sigma * truncated_normal(rng, (size, size, inputs, outputs))
        self.kernel = tf.Variable(kernel.astype(np.float32), name="kernel")
        self.gamma = tf.Variable(tf.ones([outputs]), name="batch_normalization/gamma")
        self.beta = tf.Variable(tf.zeros([outputs]), name="batch_normalization/beta")
        self.mean = tf.Variable(tf.zeros([outputs]), trainable=False, name="batch_normalization/moving_mean")
        self.variance = tf.Variable(tf.ones([outputs]), trainable=False, name="batch_normalization/moving_variance")

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        padding = "SAME"
        if self.stride > 1:
            before = (self.size - 1) // 2
            after = self.size - 1 - before
            x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
            padding = "VALID"
        x = tf.nn.conv2d(x, self.kernel, self.stride, padding)
        if not training:
            return tf.compat.v1.nn.fused_batch_norm(
                x, self.gamma, self.beta, self.mean, self.variance, BATCH_NORM_EPSILON, is_training=False
            )[0]
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, self.gamma, self.beta, epsilon=BATCH_NORM_EPSILON)
        for moving, batch in ((self.mean, mean), (self.variance, variance)):
            moving.assign_sub((moving - batch) * (1.0 - BATCH_NORM_MOMENTUM))
        return y


class Bottleneck(tf.Module):
    """1x1, 3x3 with the stride, 1x1 with 4 times the filters; ReLU after the sum with the shortcut."""

    def __init__(
        self, rng: np.random.Generator, name: str, inputs: int, filters: int, stride: int, project: bool
    ) -> None:
        super().__init__(name=name)
        outputs = 4 * filters
        self.shortcut = ConvBatchNorm(rng, "shortcut", 1, inputs, outputs, stride) if project else None
        self.reduce = ConvBatchNorm(rng, "reduce", 1, inputs, filters, 1)
        self.spatial = ConvBatchNorm(rng, "spatial", 3, filters, filters, stride)
        self.expand = ConvBatchNorm(rng, "expand", 1, filters, outputs, 1)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x, training)
        y = tf.nn.relu(self.reduce(x, training))
        y = tf.nn.relu(self.spatial(y, training))
        return tf.nn.relu(self.expand(y, training) + shortcut)


class ResNet(tf.Module):
    """Images [B, H, W, 3] float32, RGB, means subtracted, to logits [B, classes] float32.

    ``classes`` counts the background class 0 that the recipes keep: 1001 for ImageNet.
    """

    def __init__(self, variant: str, classes: int, seed: int) -> None:
        super().__init__(name=variant)
        rng = np.random.default_rng(seed)
        self.initial = ConvBatchNorm(rng, "initial_conv", 7, 3, 64, 2)
        self.layers: List[List[Bottleneck]] = []
        inputs = 64
        for stage, (blocks, filters) in enumerate(zip(*VARIANTS[variant])):
            layer = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = "block_layer%d_%d" % (stage + 1, block)
                layer.append(Bottleneck(rng, name, inputs, filters, stride, project=block == 0))
                inputs = 4 * filters
            self.layers.append(layer)
        dense = rng.normal(0.0, 0.01, (inputs, classes))
        self.dense_kernel = tf.Variable(dense.astype(np.float32), name="final_dense/kernel")
        self.dense_bias = tf.Variable(tf.zeros([classes]), name="final_dense/bias")

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = tf.nn.relu(self.initial(images, training), name="initial_conv")
        x = tf.nn.max_pool2d(x, 3, 2, "SAME", name="initial_max_pool")
        for layer in self.layers:
            for block in layer:
                x = block(x, training)
        x = tf.reduce_mean(x, [1, 2], name="final_reduce_mean")
        return tf.nn.bias_add(tf.matmul(x, self.dense_kernel), self.dense_bias, name="final_dense")


def truncated_normal(rng: np.random.Generator, shape: Tuple[int, ...]) -> np.ndarray:
    """Draw a standard normal, redrawing what lies beyond two sigmas."""
    values = rng.standard_normal(shape)
    outside = np.abs(values) > 2.0
    while outside.any():
        values[outside] = rng.standard_normal(int(outside.sum()))
        outside = np.abs(values) > 2.0
    return values
