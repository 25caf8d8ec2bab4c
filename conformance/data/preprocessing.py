"""From the bytes of a JPEG to what a network is fed: float32 RGB with the ImageNet means subtracted."""

from typing import Callable, Dict

import tensorflow as tf

from conformance.data.geometry import CROPPED, eval_geometry

MEANS = (123.68, 116.78, 103.94)  # R, G, B; no division by a deviation
DIGIT_SIDE = 32
_SHIFT = 2  # pixels that a digit in training may move in each direction


def imagenet_eval(encoded: tf.Tensor) -> tf.Tensor:
    """Return the central 224 x 224 x 3 of an image whose shorter side is scaled to 256.

    As ``datasets/preprocessing`` of IntelAI/models v1.6.1 does with ``resize_method='crop'``:
    bilinear with half-pixel centres, without antialiasing.
    """
    image = _decoded(encoded)
    shape = tf.shape(image)
    height, width, top, left = eval_geometry(shape[0], shape[1], tf.minimum)
    resized = tf.image.resize(image, tf.stack([height, width]), "bilinear", antialias=False)
    cropped = resized[top : top + CROPPED, left : left + CROPPED]
    return tf.ensure_shape(cropped, [CROPPED, CROPPED, 3]) - tf.constant(MEANS)


def digits_eval(encoded: tf.Tensor) -> tf.Tensor:
    """Return a 32 x 32 x 3 digit; one of another size raises InvalidArgumentError."""
    return _digit(encoded) - tf.constant(MEANS)


def digits_train(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return a digit moved by up to 2 pixels each way, never flipped; ``seed`` is int64 [2]."""
    padded = tf.pad(_digit(encoded), [[_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]])
    offset = tf.random.stateless_uniform([2], seed, 0, 2 * _SHIFT + 1, tf.int32)
    moved = padded[offset[0] : offset[0] + DIGIT_SIDE, offset[1] : offset[1] + DIGIT_SIDE]
    return tf.ensure_shape(moved, [DIGIT_SIDE, DIGIT_SIDE, 3]) - tf.constant(MEANS)


EVALUATIONS: Dict[str, Callable[[tf.Tensor], tf.Tensor]] = {"imagenet": imagenet_eval, "digits": digits_eval}


def _decoded(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, fancy_upscaling=False, dct_method="INTEGER_FAST")


def _digit(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.ensure_shape(_decoded(encoded), [DIGIT_SIDE, DIGIT_SIDE, 3]), tf.float32)
