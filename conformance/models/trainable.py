"""Whether this TensorFlow can train a network: its grouped convolutions and its bfloat16 need oneDNN on a CPU."""

import numpy as np
import tensorflow as tf

from conformance.models.resnet import ConvBatchNorm, ResNet
from conformance.wire import Refused


def check_trainable(network: ResNet) -> None:
    """Take the gradient of one such layer as the network has; raises Refused where TensorFlow has none.

    It is tried and not asked for: TensorFlow 2.8 says that oneDNN is off where it is on. For before a step is traced,
    because AutoGraph makes another error of a Refused that is raised in one.
    """
    groups, dtype = network.variant.groups, network.compute
    layer = ConvBatchNorm(np.random.default_rng(0), "tried", 3, 2 * groups, 2 * groups, 1, groups)
    x = tf.ones([1, 4, 4, 2 * groups], dtype)
    try:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, True)
        tape.gradient(y, [x, layer.kernel])
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError):
        raise Refused(
            "TensorFlow %s has no gradient of a %s convolution with groups=%d on this device, and cannot train %s."
            % (tf.__version__, dtype.name, groups, network.name),
            "On a CPU oneDNN has it: set TF_ENABLE_ONEDNN_OPTS=1, or take a TensorFlow that is built with oneDNN.",
        ) from None
