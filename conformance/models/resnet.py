"""ResNet v1.5 and ResNeXt with plain TensorFlow operations, as the published recipes train them.

Deep Residual Learning, He et al. 2015 (arXiv:1512.03385); v1.5 moves the stride of a bottleneck from its first
1x1 to its 3x3 convolution. Aggregated Residual Transformations, Xie et al. 2016 (arXiv:1611.05431): the 3x3 is
wider and falls into groups. ``resnet50_v1_5`` is IntelAI/models v1.6.1, ``resnext101_32x4d`` is
HabanaAI/Model-References 1.6.1.
"""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import tensorflow as tf


class Variant(NamedTuple):
    """Blocks and filters of each stage, and what the recipes do differently; a bottleneck has 4 times its filters."""

    blocks: Tuple[int, ...]
    filters: Tuple[int, ...] = (64, 128, 256, 512)
    width: int = 1  # channels of the 1x1 and the 3x3 of a bottleneck, for each filter
    groups: int = 1  # of the 3x3
    same_padding: bool = False  # TensorFlow's SAME at stride 2; else by the kernel only, the same on both sides
    glorot_dense: bool = False  # initial dense kernel uniform after Glorot; else normal with deviation 0.01


VARIANTS: Dict[str, Variant] = {
    "resnet50_v1_5": Variant(blocks=(3, 4, 6, 3)),
    "resnext101_32x4d": Variant(blocks=(3, 4, 23, 3), width=2, groups=32, same_padding=True, glorot_dense=True),
}

BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


class ConvBatchNorm(tf.Module):
    """A convolution without bias and its batch normalisation, in the type of its input; variables are float32."""

    def __init__(
        self,
        rng: np.random.Generator,
        name: str,
        size: int,
        inputs: int,
        outputs: int,
        stride: int,
        groups: int = 1,
        same_padding: bool = False,
    ) -> None:
        super().__init__(name=name)
        self.size, self.stride, self.same_padding = size, stride, same_padding
        inputs //= groups  # that one output sees
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
        if self.stride > 1 and not self.same_padding:
            before = (self.size - 1) // 2
            after = self.size - 1 - before
            x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
            padding = "VALID"
        # A kernel for fewer channels than x has makes the convolution a grouped one.
        x = tf.nn.conv2d(x, used_as(x.dtype, self.kernel), self.stride, padding)
        if not training:
            return tf.compat.v1.nn.fused_batch_norm(
                x, self.gamma, self.beta, self.mean, self.variance, BATCH_NORM_EPSILON, is_training=False
            )[0]
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, self.gamma, self.beta, epsilon=BATCH_NORM_EPSILON)
        for moving, batch in ((self.mean, mean), (self.variance, variance)):
            moving.assign_sub((moving - batch) * (1.0 - BATCH_NORM_MOMENTUM))
        return y


class Bottleneck(tf.Module):
    """1x1, 3x3 with the stride and the groups, 1x1 that widens; ReLU after the sum with the shortcut."""

    def __init__(
        self,
        rng: np.random.Generator,
        name: str,
        inputs: int,
        filters: int,
        stride: int,
        project: bool,
        variant: Variant,
    ) -> None:
        super().__init__(name=name)
        width, outputs, same = variant.width * filters, 4 * filters, variant.same_padding
        self.shortcut = ConvBatchNorm(rng, "shortcut", 1, inputs, outputs, stride, 1, same) if project else None
        self.reduce = ConvBatchNorm(rng, "reduce", 1, inputs, width, 1)
        self.spatial = ConvBatchNorm(rng, "spatial", 3, width, width, stride, variant.groups, same)
        self.expand = ConvBatchNorm(rng, "expand", 1, width, outputs, 1)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x, training)
        y = tf.nn.relu(self.reduce(x, training))
        y = tf.nn.relu(self.spatial(y, training))
        return tf.nn.relu(self.expand(y, training) + shortcut)


class ResNet(tf.Module):
    """Images [B, H, W, 3] float32, RGB, means subtracted, to logits [B, classes] float32.

    ``classes`` counts the background class 0 that the recipes keep: 1001 for ImageNet. ``compute`` is the type of
    activations and of kernels at their use, float32 or bfloat16; variables, statistics and logits are float32.
    """

    def __init__(self, variant: str, classes: int, seed: int, compute: tf.DType = tf.float32) -> None:
        super().__init__(name=variant)
        rng = np.random.default_rng(seed)
        self.variant, self.compute = VARIANTS[variant], compute
        self.initial = ConvBatchNorm(rng, "initial_conv", 7, 3, 64, 2, 1, self.variant.same_padding)
        self.layers: List[List[Bottleneck]] = []
        inputs = 64
        for stage, (blocks, filters) in enumerate(zip(self.variant.blocks, self.variant.filters)):
            layer = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = "block_layer%d_%d" % (stage + 1, block)
                layer.append(Bottleneck(rng, name, inputs, filters, stride, block == 0, self.variant))
                inputs = 4 * filters
            self.layers.append(layer)
        limit = np.sqrt(6.0 / (inputs + classes))
        shape = (inputs, classes)
        dense = rng.uniform(-limit, limit, shape) if self.variant.glorot_dense else rng.normal(0.0, 0.01, shape)
        self.dense_kernel = tf.Variable(dense.astype(np.float32), name="final_dense/kernel")
        self.dense_bias = tf.Variable(tf.zeros([classes]), name="final_dense/bias")

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.endpoints(images, training)["fc"]

    def endpoints(self, images: tf.Tensor, training: bool = False) -> Dict[str, tf.Tensor]:
        """Return the output of each row of the papers' tables: conv1, conv2 to conv5 (conv2_x to conv5_x of He et
        al.), average_pool [B, C] and fc, the logits; the last two are float32.
        """
        found = {}
        x = tf.nn.relu(self.initial(used_as(self.compute, images), training), name="initial_conv")
        found["conv1"] = x
        x = tf.nn.max_pool2d(x, 3, 2, "SAME", name="initial_max_pool")
        for number, layer in enumerate(self.layers, 2):
            for block in layer:
                x = block(x, training)
            found["conv%d" % number] = x
        x = tf.reduce_mean(used_as(tf.float32, x), [1, 2], name="final_reduce_mean")
        found["average_pool"] = x
        x = tf.matmul(used_as(self.compute, x), used_as(self.compute, self.dense_kernel))
        found["fc"] = tf.nn.bias_add(used_as(tf.float32, x), self.dense_bias, name="final_dense")
        return found


def used_as(dtype: tf.DType, x: tf.Tensor) -> tf.Tensor:
    """Return x in a type; a variable that has it stays what it is, and the operation that uses it reads it."""
    return x if x.dtype == dtype else tf.cast(x, dtype)


def truncated_normal(rng: np.random.Generator, shape: Tuple[int, ...]) -> np.ndarray:
    """Draw a standard normal, redrawing what lies beyond two sigmas."""
    values = rng.standard_normal(shape)
    outside = np.abs(values) > 2.0
    while outside.any():
        values[outside] = rng.standard_normal(int(outside.sum()))
        outside = np.abs(values) > 2.0
    return values
