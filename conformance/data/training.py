"""What a network is trained on: the batches of a training split in a seeded order, or one batch made on the device.

The order follows from the seed and the number of the epoch alone, so that a run can go on in the middle of an epoch.
"""

import itertools
from typing import Callable, Dict, Iterator, NamedTuple, Sequence, Tuple

import tensorflow as tf

from conformance.data.imagenet import LABELS, first_line, parse
from conformance.data.preprocessing import DIGIT_SIDE, MEANS, digits_train
from conformance.wire import Refused

Batch = Tuple[tf.Tensor, tf.Tensor]  # images float32 [B, H, W, 3], means subtracted, and labels int64 [B]

EVALUATED_AT = {"imagenet": 224, "digits": DIGIT_SIDE}  # side of the images in an evaluation, in pixels
_INTERLEAVED = 10  # shards read at once, and the records that are shuffled: as HabanaAI/Model-References 1.6.1
_SHUFFLED = 10_000
_WHOLE_IMAGE = [[[0.0, 0.0, 1.0, 1.0]]]
_PATCHES = 4  # a synthetic image has so many on a side


def imagenet_train(encoded: tf.Tensor, seed: tf.Tensor, size: int, half_pixel_centers: bool) -> tf.Tensor:
    """Return a random part of an image as size x size x 3, flipped or not; ``seed`` is int64 [2].

    Szegedy et al. 2014 (arXiv:1409.4842): 5 % to all of the area, sides of 0.75 to 1.33; both published recipes have
    these. Bilinear without antialiasing.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        tf.constant(_WHOLE_IMAGE),
        seed,
        min_object_covered=0.1,
        aspect_ratio_range=(0.75, 1.33),
        area_range=(0.05, 1.0),
        max_attempts=100,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    part = tf.io.decode_and_crop_jpeg(encoded, window, channels=3, fancy_upscaling=False, dct_method="INTEGER_FAST")
    sized = tf.raw_ops.ResizeBilinear(
        images=part[tf.newaxis], size=[size, size], align_corners=False, half_pixel_centers=half_pixel_centers
    )[0]
    flipped = tf.image.stateless_random_flip_left_right(sized, seed + [1, 0])  # another draw than the part's
    return tf.ensure_shape(flipped, [size, size, 3]) - tf.constant(MEANS)


# By name of the crop: IntelAI/models v1.6.1 resizes with half-pixel centres, Habana with TensorFlow 1's kernel.
CROPS: Dict[str, Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]] = {
    "intel": lambda encoded, seed, size: imagenet_train(encoded, seed, size, True),
    "habana": lambda encoded, seed, size: imagenet_train(encoded, seed, size, False),
    "digits": lambda encoded, seed, size: digits_train(encoded, seed),
}


class Split(NamedTuple):
    """A training split and how it is gone through."""

    shards: Sequence[str]
    dataset: str
    epoch_images: int  # that an epoch takes, whole steps
    batch_size: int
    image_size: int
    crop: str  # one of CROPS
    seed: int
    shuffled_labels: bool  # labels by a hash of the image: to be learnt by heart, and of no use for another image
    threads: int


def batches(split: Split, skip: int = 0) -> Iterator[Batch]:
    """Yield batches without end, after the first ``skip`` ones; each epoch takes an image once at most.

    Raises Refused for a record that cannot be used, a label out of range, and a split with fewer images than told.
    """
    place, highest = split.shards[0], LABELS[split.dataset]
    again = "Run `conformance data verify` on the data set, which counts its images and names its bad records."
    iterator = iter(_pipeline(split, skip))
    for number in itertools.count(skip):
        try:
            images, labels, positions = next(iterator)
        except tf.errors.OpError as error:
            found = "A record of the training split of %r cannot be used: %s." % (place, first_line(error))
            raise Refused(found, again) from None
        if int(positions[-1]) != (number + 1) * split.batch_size - 1:
            raise Refused("The training split of %r holds fewer than %d images." % (place, split.epoch_images), again)
        low, high = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
        if low < 1 or high > highest:
            found = "The training split of %r has the labels %d to %d" % (place, low, high)
            raise Refused("%s; allowed are 1 to %d." % (found, highest), again)
        yield images, labels


def _pipeline(split: Split, skip: int) -> tf.data.Dataset:
    """Return (images, labels, positions): an image's place among all that are seen, in this epoch and before it."""
    first, begun = divmod(skip * split.batch_size, split.epoch_images)

    def epoch_records(epoch: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.random.stateless_uniform([len(split.shards)], [tf.constant(split.seed, tf.int64), epoch])
        shards = tf.gather(tf.constant(list(split.shards)), tf.argsort(numbers))
        read = tf.data.Dataset.from_tensor_slices(shards).interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(_INTERLEAVED, len(split.shards)),
            num_parallel_calls=min(_INTERLEAVED, len(split.shards), split.threads),
            deterministic=True,
        )
        # Skipping by reading: which records come then is known only to the shuffling.
        shuffled = read.shuffle(_SHUFFLED, split.seed * 65_537 + epoch, reshuffle_each_iteration=False)
        taken = shuffled.take(split.epoch_images).enumerate(epoch * split.epoch_images)
        return taken.skip(tf.where(epoch == first, tf.constant(begun, tf.int64), 0))

    def prepare(position: tf.Tensor, record: tf.Tensor) -> Tuple[tf.Tensor, ...]:
        encoded, label, _ = parse(record)
        image = CROPS[split.crop](encoded, tf.stack([tf.constant(split.seed, tf.int64), position]), split.image_size)
        if split.shuffled_labels:
            label = 1 + tf.strings.to_hash_bucket_strong(encoded, LABELS[split.dataset], key=[split.seed, 1])
        return image, label, position

    records = tf.data.Dataset.range(first, tf.int64.max).flat_map(epoch_records)
    prepared = records.map(prepare, num_parallel_calls=split.threads, deterministic=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = split.threads
    return prepared.batch(split.batch_size, drop_remainder=True).prefetch(2).with_options(options)


def synthetic(batch_size: int, image_size: int, classes: int, seed: int, shuffled_labels: bool) -> Batch:
    """Return one batch made on the device; noise as Habana's synthetic images, and a patch that tells the class.

    The noise is a truncated normal of mean 127 and deviation 60. The class raises one channel of one patch by 60.
    """
    labels = tf.random.stateless_uniform([batch_size], [seed, 1], 1, classes, tf.int64)
    noise = tf.random.stateless_truncated_normal([batch_size, image_size, image_size, 3], [seed, 2], 127.0, 60.0)
    kinds = 3 * _PATCHES**2
    patches = tf.reshape(tf.one_hot(labels % kinds, kinds, 60.0), [batch_size, _PATCHES, _PATCHES, 3])
    images = noise + tf.image.resize(patches, [image_size, image_size], "nearest")
    if shuffled_labels:
        labels = tf.random.stateless_uniform([batch_size], [seed, 3], 1, classes, tf.int64)
    return images, labels
