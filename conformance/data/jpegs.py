"""Images as they are stored: JPEGs of one or three components, checked by decoding them whole."""

from typing import NamedTuple, Tuple

import tensorflow as tf

from conformance.data.imagenet import first_line

_JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
QUALITY = 100  # of a JPEG that is made of something else


class Stored(NamedTuple):
    """A JPEG as it goes into a record; ``was`` says what it was before: ``PNG``, ``CMYK``, or empty for as it came."""

    encoded: bytes
    height: int
    width: int
    was: str = ""


def stored(data: bytes) -> Stored:
    """Return an image as it is stored: as it is, or a PNG or a CMYK JPEG as an RGB JPEG of QUALITY.

    Greyscale JPEGs stay as they are. Raises ValueError for what is no image or cannot be decoded.
    """
    try:
        if data.startswith(PNG):
            return _as_jpeg(tf.io.decode_png(data, channels=3), "PNG")
        if not data.startswith(_JPEG):
            raise ValueError(f"it is neither JPEG nor PNG, and begins with {data[:8].hex(' ') or 'nothing'}")
        if tf.io.extract_jpeg_shape(data).numpy()[2] == 4:  # CMYK or YCCK
            return _as_jpeg(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), "CMYK")
        height, width = size(data)
        return Stored(data, height, width)
    except tf.errors.OpError as error:
        raise ValueError(first_line(error)) from None


def size(encoded: bytes) -> Tuple[int, int]:
    """Return height and width in pixels of a JPEG that decodes as a whole; raises InvalidArgumentError otherwise."""
    # The cheapest way to decode is the one of the evaluation.
    height, width, _ = tf.io.decode_jpeg(encoded, channels=3, fancy_upscaling=False, dct_method="INTEGER_FAST").shape
    return height, width


def _as_jpeg(pixels: tf.Tensor, was: str) -> Stored:
    height, width, _ = pixels.shape
    return Stored(tf.io.encode_jpeg(pixels, format="rgb", quality=QUALITY).numpy(), height, width, was)
