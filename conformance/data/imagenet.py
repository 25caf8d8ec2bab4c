"""The ImageNet record schema, read in a fixed order with every image counted.

A record is a ``tf.train.Example`` with ``image/encoded`` (JPEG), ``image/class/label`` (1 to
the number of labels; the network's output 0 is the background) and ``image/filename``.
"""

import re
from typing import Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from conformance.data.preprocessing import EVALUATIONS
from conformance.wire import Refused

LABELS = {"imagenet": 1000, "digits": 10}  # the labels of each dataset are 1 to this

_INTERLEAVED = 8  # shards read at once; fixed, so that the order depends on the shards alone
_READING_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string, ""),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64, -1),
    "image/filename": tf.io.FixedLenFeature((), tf.string, ""),
}


class Batch(NamedTuple):
    """What a network is fed, and what it ought to say; the last batch may be smaller."""

    images: np.ndarray  # float32 [B, H, W, 3]
    labels: np.ndarray  # int64 [B], 1 to the number of labels
    filenames: np.ndarray  # bytes [B], empty where the record has none
    shards: np.ndarray  # bytes [B], the path of each image's shard, or of its file
    records: np.ndarray  # int64 [B], its number in the shard, from 0


class Source:
    """The images of a split, in a fixed order."""

    def elements(self, threads: int) -> tf.data.Dataset:
        """Return (path, number in it, what ``load`` takes) of each image."""
        raise NotImplementedError

    def load(self, element: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return (JPEG bytes, label, file name)."""
        raise NotImplementedError

    def blame(self, dataset: str, done: int) -> None:
        """Raise Refused for the first image, after ``done`` good ones, that cannot be read or evaluated."""
        raise NotImplementedError


def batches(
    images: Union[Sequence[str], Source],
    batch_size: int,
    dataset: str,
    threads: int,
    most: Optional[int] = None,
    part: Tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yield every image of shards, or of another source, once in a fixed order, decoded on ``threads`` threads.

    ``dataset`` is ``imagenet`` or ``digits``; ``most`` ends after so many images; of a ``part`` (r, n) come the
    batches r, r + n, r + 2 n ... only, which are no smaller for that. Raises Refused, naming shard and
    record, for a record that cannot be read or decoded and for a label out of range.
    """
    source = images if isinstance(images, Source) else Records(images)
    preprocess, highest = EVALUATIONS[dataset], LABELS[dataset]

    def prepare(shard: tf.Tensor, index: tf.Tensor, element: tf.Tensor) -> Tuple[tf.Tensor, ...]:
        encoded, label, filename = source.load(element)
        return preprocess(encoded), label, filename, shard, index

    wanted = source.elements(threads).take(-1 if most is None else most)
    if part != (0, 1):
        numbered = wanted.enumerate().filter(lambda number, element: number // batch_size % part[1] == part[0])
        wanted = numbered.map(lambda number, element: element)
    prepared = wanted.map(prepare, num_parallel_calls=threads, deterministic=True)
    batched = iter(_with_threads(prepared.batch(batch_size).prefetch(2), threads).as_numpy_iterator())
    done = 0
    while True:
        try:
            batch = next(batched, None)
        except _READING_ERRORS:
            source.blame(dataset, done)
            raise
        if batch is None:
            return
        labels = batch[1]
        if labels.min() < 1 or labels.max() > highest:
            source.blame(dataset, done)
            raise ValueError(f"labels {labels.min()} to {labels.max()}")
        done += len(labels)
        yield Batch(*batch)


class Records(Source):
    """The records of shards, in an order that interleaves these; the number of one is its index in its shard."""

    def __init__(self, shards: Sequence[str]) -> None:
        self.shards = list(shards)

    def elements(self, threads: int) -> tf.data.Dataset:
        def numbered(shard: tf.Tensor) -> tf.data.Dataset:
            return tf.data.TFRecordDataset(shard).enumerate().map(lambda index, record: (shard, index, record))

        return tf.data.Dataset.from_tensor_slices(self.shards).interleave(
            numbered,
            cycle_length=min(_INTERLEAVED, len(self.shards)),
            num_parallel_calls=min(_INTERLEAVED, len(self.shards), threads),
            deterministic=True,
        )

    def load(self, element: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return parse(element)

    def blame(self, dataset: str, done: int) -> None:
        try:
            for shard, index, record in self.elements(1).skip(done).as_numpy_iterator():
                fault = _fault(record, dataset)
                if fault:
                    message = f"Record {index} of {shard.decode()!r} {fault}."
                    raise Refused(message, "Convert the dataset again from its original images.")
        except _READING_ERRORS:
            for path in self.shards:
                for _ in read_shard(path):
                    pass


def parse(record: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (JPEG bytes, label, file name); empty, -1 and empty stand for what is missing."""
    found = tf.io.parse_single_example(record, _FEATURES)
    return found["image/encoded"], found["image/class/label"], found["image/filename"]


class Fields(NamedTuple):
    """A record read without a graph; empty and -1 stand for what is missing."""

    encoded: bytes
    label: int
    filename: bytes
    synset: bytes
    height: int
    width: int


def fields(record: bytes) -> Fields:
    """Return what a record holds; raises ValueError for what is no example."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("is no example of the ImageNet schema") from None

    def text(name: str) -> bytes:
        values = feature["image/" + name].bytes_list.value
        return values[0] if len(values) == 1 else b""

    def number(name: str) -> int:
        values = feature["image/" + name].int64_list.value
        return values[0] if len(values) == 1 else -1

    size = number("height"), number("width")
    return Fields(text("encoded"), number("class/label"), text("filename"), text("class/synset"), *size)


def example(encoded: bytes, height: int, width: int, label: int, synset: bytes, filename: bytes) -> bytes:
    """Return a record with the fields of Habana's and IntelAI's converters; boxes and texts are left out."""
    numbers = {"height": height, "width": width, "channels": 3, "class/label": label}
    texts = {
        "colorspace": b"RGB",
        "class/synset": synset,
        "format": b"JPEG",
        "filename": filename,
        "encoded": encoded,
    }
    feature = {
        "image/" + name: tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
        for name, number in numbers.items()
    }
    for name, text in texts.items():
        feature["image/" + name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True))


def _with_threads(data: tf.data.Dataset, threads: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.deterministic = True
    return data.with_options(options)


def _fault(record: bytes, dataset: str) -> Optional[str]:
    try:
        encoded, label, filename = parse(record)
    except tf.errors.InvalidArgumentError as error:
        return f"is no example of the ImageNet schema: {first_line(error)}"
    filename = filename.numpy().decode("utf-8", "replace")
    named = f" ({filename})" if filename else ""
    if encoded == b"":
        return "has no image/encoded" + named
    if label == -1:
        return "has no image/class/label" + named
    if not 1 <= label <= LABELS[dataset]:
        return f"has label {int(label)}{named}; allowed are 1 to {LABELS[dataset]}"
    try:
        EVALUATIONS[dataset](encoded)
    except tf.errors.InvalidArgumentError as error:
        return f"holds an image that cannot be used{named}: {first_line(error)}"
    return None


def read_shard(path: str) -> Iterator[bytes]:
    """Yield the records of one shard in their order; raises Refused where it is damaged."""
    count = 0
    try:
        # Three times as fast as a tf.data pipeline, and on every thread at once.
        for record in tf.compat.v1.io.tf_record_iterator(path):
            yield record
            count += 1
    except _READING_ERRORS as error:
        message = f"Shard {path!r} is damaged after {count} good records: {first_line(error)}."
        raise Refused(message, "Copy it again from where it came, or convert the dataset again.") from error


def first_line(error: tf.errors.OpError) -> str:
    """Return what went wrong, without the names of nodes that TensorFlow puts around it."""
    line = error.message.splitlines()[0]
    return re.sub(r"\{\{.*?\}\} ?|\s*\[Op:\w+\]( name:\s*)?", "", line).strip(" .")
