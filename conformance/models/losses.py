"""What training makes small: cross-entropy with soft targets, MixUp, and the weight decay of the recipes."""

from typing import Iterable, List, Tuple

import numpy as np
import tensorflow as tf


def targets(labels: tf.Tensor, classes: int, smoothing: float) -> tf.Tensor:
    """Return labels [B] as shares of the classes [B, classes] float32.

    Label smoothing (Szegedy et al. 2015, arXiv:1512.00567) spreads a part evenly over all classes.
    """
    return tf.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes


def mixup_share(alpha: float, seed: int, step: int) -> float:
    """Draw the share of MixUp for a step from Beta(alpha, alpha); a run that is resumed draws the same.

    Zhang et al. 2017 (arXiv:1710.09412) found alphas from 0.1 to 0.4 good for ImageNet.
    """
    return float(np.random.default_rng((seed, step)).beta(alpha, alpha))


def mixup(images: tf.Tensor, targets: tf.Tensor, share: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Mix each image and its targets with those of the one before it: ``share`` of its own, the rest of the other's.

    Batches are shuffled, so the one before is as good as a random one.
    """
    return tuple(share * x + (1.0 - share) * tf.roll(x, 1, axis=0) for x in (images, targets))


def cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Return the mean over the batch, in float32, of the cross-entropy with targets [B, classes]."""
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32)))


def decayed(variables: Iterable[tf.Variable]) -> List[tf.Variable]:
    """Return the variables that both recipes decay: all but gamma and beta, the bias of the dense layer too."""
    return [variable for variable in variables if "batch_normalization" not in variable.name]


def weight_decay(variables: Iterable[tf.Variable], amount: float) -> tf.Tensor:
    """Return amount times half the sum of the squares, a term of the loss."""
    return amount * tf.add_n([tf.nn.l2_loss(variable) for variable in decayed(variables)])
