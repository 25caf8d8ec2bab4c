"""What a network is trained on: the batches of a training split in a seeded order, or one batch made on the device.

The order follows from the seed and the number of the epoch alone, so that a run can go on in the middle of an epoch.
"""

import itertools
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import tensorflow as tf

from conformance.data.imagenet import LABELS, first_line, parse
from conformance.data.preprocessing import DIGIT_SIDE, MEANS, digits_train
from conformance.data.shards import record_count
from conformance.data.tree import Tree
from conformance.wire import Refused

# Images [B, H, W, 3] in float32, or in bfloat16 where that is asked for, means subtracted, and labels int64 [B].
Batch = Tuple[tf.Tensor, tf.Tensor]
IMAGE_TYPES = {"fp32": tf.float32, "bf16": tf.bfloat16}

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
    # As both recipes decode; without fancy upscaling, TensorFlow 2.8 overruns its memory where it decodes a part.
    part = tf.io.decode_and_crop_jpeg(encoded, window, channels=3)
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

    shards: Union[Sequence[str], Tree]  # paths of records, or class folders
    dataset: str
    epoch_images: int  # that an epoch takes, whole steps
    batch_size: int
    image_size: int
    crop: str  # one of CROPS
    seed: int
    shuffled_labels: bool  # labels by a hash of the image: to be learnt by heart, and of no use for another image
    threads: int
    # Of ``ranks`` in sum, rank r takes the batches r, r + ranks ... of one order, so that together they see in a step
    # what one process with the batch of all would see. By file it takes these from its own shards instead.
    rank: int = 0
    ranks: int = 1
    by_file: bool = False
    dealt: Optional[int] = None  # batches that are dealt out at a time, where that is not one for each rank
    image_type: str = "fp32"  # one of IMAGE_TYPES

    @property
    def round(self) -> int:
        return self.dealt or self.ranks

    @property
    def own(self) -> Sequence[int]:
        """This rank's batches of each round."""
        return range(self.rank, self.round, self.ranks)

    def position(self, batch: int) -> int:
        """The position, among the images of all ranks and epochs, where one of this rank's batches begins."""
        begun, number = divmod(batch, len(self.own))
        return (begun * self.round + self.own[number]) * self.batch_size

    @property
    def tree(self) -> Optional[Tree]:
        return self.shards if isinstance(self.shards, Tree) else None


def files_suffice(shards: Sequence[str], ranks: int, epoch_images: int) -> bool:
    """Tell whether the own files of each rank hold its share of an epoch, so that it need not read others."""
    counts = [record_count(path) for path in shards]
    return all(sum(counts[rank::ranks]) >= epoch_images // ranks for rank in range(ranks))


def batches(split: Split, skip: int = 0) -> Iterator[Batch]:
    """Yield this rank's batches without end, after its first ``skip``; each epoch takes an image once at most.

    Raises Refused for a record that cannot be used, a label out of range, and a split with fewer images than told.
    """
    tree, highest = split.tree, LABELS[split.dataset]
    place = tree.root if tree else split.shards[0]
    again = "Run `conformance data verify` on the data set, which counts its images and names its bad records."
    if tree and tree.images < split.epoch_images:
        found = "%r holds %d images, and an epoch is to take %d." % (place, tree.images, split.epoch_images)
        raise Refused(found, "Give the class folders of all images.")
    iterator = iter(_pipeline(split, skip))
    for number in itertools.count(skip):
        try:
            images, labels, positions = next(iterator)
        except tf.errors.OpError as error:
            if tree:
                _blame(split, tree, number)
            found = "A record of the training split of %r cannot be used: %s." % (place, first_line(error))
            raise Refused(found, again) from None
        if int(positions[-1]) != split.position(number) + split.batch_size - 1:
            raise Refused("The training split of %r holds fewer than %d images." % (place, split.epoch_images), again)
        low, high = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
        if low < 1 or high > highest:
            found = "The training split of %r has the labels %d to %d" % (place, low, high)
            raise Refused("%s; allowed are 1 to %d." % (found, highest), again)
        yield images, labels


def _blame(split: Split, tree: Tree, number: int) -> None:
    """Raise Refused for the first file of a batch that cannot be used."""
    before = number % len(split.own) * split.batch_size
    images = [int(image) for _, image in _order(split, number).skip(before).take(split.batch_size)]
    seed = tf.constant([split.seed, 0], tf.int64)
    tree.check(images, lambda encoded: CROPS[split.crop](encoded, seed, split.image_size))


def _pipeline(split: Split, skip: int) -> tf.data.Dataset:
    """Return (images, labels, positions) of what ``_order`` gives."""
    load = split.tree.load if split.tree else parse

    def prepare(position: tf.Tensor, element: tf.Tensor) -> Tuple[tf.Tensor, ...]:
        encoded, label, _ = load(element)
        image = CROPS[split.crop](encoded, tf.stack([tf.constant(split.seed, tf.int64), position]), split.image_size)
        if split.shuffled_labels:
            label = 1 + tf.strings.to_hash_bucket_strong(encoded, LABELS[split.dataset], key=[split.seed, 1])
        return tf.cast(image, IMAGE_TYPES[split.image_type]), label, position

    prepared = _order(split, skip).map(prepare, num_parallel_calls=split.threads, deterministic=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = split.threads
    return prepared.batch(split.batch_size, drop_remainder=True).prefetch(2).with_options(options)


def _order(split: Split, skip: int) -> tf.data.Dataset:
    """Return (positions, elements): an image's place among all that are seen, in this epoch and before it.

    An element is a record, or the number of an image in a tree; of a tree nothing is read here, so that its ranks need
    no files of their own.
    """
    size, ranks, tree = split.batch_size, split.ranks, split.tree
    by_file = split.by_file and not tree
    shards = [] if tree else split.shards[split.rank :: ranks] if by_file else split.shards
    first, begun = divmod(skip // len(split.own) * split.round * size, split.epoch_images)
    start = tf.constant(begun, tf.int64)

    def shuffled_records(epoch: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.random.stateless_uniform([len(shards)], [tf.constant(split.seed, tf.int64), epoch])
        ordered = tf.gather(tf.constant(list(shards)), tf.argsort(numbers))
        read = tf.data.Dataset.from_tensor_slices(ordered).interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(_INTERLEAVED, len(shards)),
            num_parallel_calls=min(_INTERLEAVED, len(shards), split.threads),
            deterministic=True,
        )
        # Skipping by reading: which records come then is known only to the shuffling.
        return read.shuffle(_SHUFFLED, split.seed * 65_537 + epoch, reshuffle_each_iteration=False)

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        if tree:
            shuffled = tf.data.Dataset.from_tensor_slices(tree.shuffled(split.seed, epoch))
        else:
            shuffled = shuffled_records(epoch)
        skipped = tf.where(epoch == first, start, 0)
        before = epoch * split.epoch_images
        if by_file:
            taken = shuffled.take(split.epoch_images // ranks).enumerate().skip(skipped // ranks)
            return taken.map(lambda own, record: (before + place_of(own), record))
        taken = shuffled.take(split.epoch_images).enumerate(before).skip(skipped)
        if ranks == 1:
            return taken
        return taken.filter(lambda position, record: position // size % split.round % ranks == split.rank)

    def place_of(own: tf.Tensor) -> tf.Tensor:
        return (own // size * ranks + split.rank) * size + own % size

    return tf.data.Dataset.range(first, tf.int64.max).flat_map(of_epoch)


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
