"""What a network sees of an image, against arithmetic of its own."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.data.geometry import eval_geometry  # noqa: E402
from conformance.data.preprocessing import MEANS, digits_eval, digits_train, imagenet_eval  # noqa: E402

pytestmark = pytest.mark.tensorflow


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Draw a smooth picture that differs in every direction and channel."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 80 * np.sin(rows / 9 + k) + 40 * np.cos(columns / (5 + k)) for k in range(channels)]
    return np.clip(np.stack(waves, axis=2), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    return bytes(tf.io.encode_jpeg(pixels, quality=95).numpy())


def decoded(encoded: bytes) -> np.ndarray:
    plain = tf.io.decode_jpeg(encoded, channels=3, fancy_upscaling=False, dct_method="INTEGER_FAST")
    return np.asarray(plain, np.float64)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize with half-pixel centres, one axis after the other, in float64."""
    for axis, outputs in enumerate(size):
        inputs = image.shape[axis]
        centres = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
        low = np.floor(centres).astype(int)
        weight = (centres - low).reshape([-1 if k == axis else 1 for k in range(3)])
        below, above = (np.take(image, np.clip(low + k, 0, inputs - 1), axis) for k in (0, 1))
        image = below * (1 - weight) + above * weight
    return image


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (333, 500), (256, 256), (231, 224), (1000, 501)])
def test_every_pixel_is_that_of_the_recipe(size: tuple[int, int]) -> None:
    encoded = jpeg(picture(*size))
    height, width, top, left = eval_geometry(*size)
    expected = bilinear(decoded(encoded), (height, width))[top : top + 224, left : left + 224] - MEANS
    image = imagenet_eval(encoded).numpy()
    assert image.dtype == np.float32
    assert image.shape == (224, 224, 3)
    np.testing.assert_allclose(image, expected, atol=1e-3)


def test_the_means_are_those_of_red_green_and_blue() -> None:
    red = np.zeros((256, 256, 3), np.uint8)
    red[..., 0] = 255
    centre = imagenet_eval(jpeg(red)).numpy()[112, 112]
    np.testing.assert_allclose(centre, np.array([255 - 123.68, -116.78, -103.94]), atol=2)


def test_a_grey_photograph_has_three_equal_channels() -> None:
    image = imagenet_eval(jpeg(picture(300, 260, channels=1))).numpy() + np.array(MEANS)
    np.testing.assert_allclose(image[..., 0], image[..., 1], atol=1e-4)
    np.testing.assert_allclose(image[..., 0], image[..., 2], atol=1e-4)


def test_tensors_and_the_recipe_agree_on_the_geometry_of_many_sizes() -> None:
    sizes = np.random.RandomState(0).randint(1, 9000, (2, 5000)).astype(np.int32)
    found = np.stack(eval_geometry(tf.constant(sizes[0]), tf.constant(sizes[1]), tf.minimum), axis=1)
    expected = [eval_geometry(int(h), int(w)) for h, w in sizes.T]
    np.testing.assert_array_equal(found, expected)
    # The recipe divides int32 tensors, which TensorFlow does in float64, and casts back.
    short, long = tf.constant(sizes.min(axis=0)), tf.constant(sizes.max(axis=0))
    np.testing.assert_array_equal(tf.cast(256 * long / short, tf.int32), found[:, :2].max(axis=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_digit_keeps_its_pixels(channels: int) -> None:
    encoded = jpeg(picture(32, 32, channels))
    image = digits_eval(encoded).numpy()
    assert image.shape == (32, 32, 3)
    np.testing.assert_allclose(image, decoded(encoded) - MEANS, atol=1e-4)


def test_a_digit_of_another_size_is_an_error() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        digits_eval(jpeg(picture(28, 28)))


def test_a_digit_in_training_is_moved_by_up_to_two_pixels_and_never_flipped() -> None:
    encoded = jpeg(picture(32, 32))
    padded = np.pad(decoded(encoded), [(2, 2), (2, 2), (0, 0)])
    moves = set()
    for step in range(100):
        image = digits_train(encoded, tf.constant([7, step], tf.int64)).numpy() + np.array(MEANS)
        moves.update(
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.allclose(image, padded[top : top + 32, left : left + 32], atol=1e-3)
        )
    assert {top for top, _ in moves} == {left for _, left in moves} == {0, 1, 2, 3, 4}


def test_a_seed_moves_a_digit_the_same_way_each_time() -> None:
    encoded = jpeg(picture(32, 32))
    first, second = (digits_train(encoded, tf.constant([1, 2], tf.int64)).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
