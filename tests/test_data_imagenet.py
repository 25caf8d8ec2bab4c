"""Reading records: every image once, in a fixed order, and every damaged record named."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.data.imagenet import Batch, batches  # noqa: E402
from conformance.data.preprocessing import MEANS, imagenet_eval  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

MEND = "Convert the dataset again from its original images."


def jpeg(value: int, side: int = 32) -> bytes:
    return bytes(tf.io.encode_jpeg(np.full((side, side, 3), value, np.uint8), quality=100).numpy())


def example(encoded: bytes | None, label: Any | None, filename: bytes | None = None) -> bytes:
    features: dict[str, Any] = {}
    for name, text in (("encoded", encoded), ("filename", filename)):
        if text is not None:
            features[f"image/{name}"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
    if isinstance(label, float):
        features["image/class/label"] = tf.train.Feature(float_list=tf.train.FloatList(value=[label]))
    elif label is not None:
        features["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def digit(number: int) -> bytes:
    return example(jpeg(2 * number), number % 10 + 1, b"digit_%d.JPEG" % number)


def write(directory: Path, *shards: Sequence[bytes]) -> list[str]:
    paths = [str(directory / f"validation-{number:05d}-of-{len(shards):05d}") for number in range(len(shards))]
    for number, records in enumerate(shards):
        with tf.io.TFRecordWriter(paths[number]) as writer:
            for record in records:
                writer.write(record)
    return paths


def read(shards: Sequence[str], batch_size: int = 4, dataset: str = "digits", threads: int = 2) -> list[Batch]:
    return list(batches(shards, batch_size, dataset, threads))


def refusal(shards: Sequence[str], **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read(shards, **options)
    return caught.value


def test_every_image_comes_once_and_the_last_batch_is_smaller(tmp_path: Path) -> None:
    shards = write(tmp_path, *([digit(10 * shard + k) for k in range(3 + shard)] for shard in range(10)))
    found = read(shards, batch_size=16)
    assert [len(batch.labels) for batch in found] == [16, 16, 16, 16, 11]
    names = [name for batch in found for name in batch.filenames]
    assert sorted(names) == sorted(b"digit_%d.JPEG" % (10 * s + k) for s in range(10) for k in range(3 + s))


def test_images_labels_and_names_belong_together(tmp_path: Path) -> None:
    for batch in read(write(tmp_path, [digit(k) for k in range(7)], [digit(k) for k in range(20, 25)])):
        assert (batch.images.dtype, batch.labels.dtype) == (np.float32, np.int64)
        assert batch.images.shape == (len(batch.labels), 32, 32, 3)
        for place, name in enumerate(batch.filenames):
            number = int(name.decode()[6:-5])
            assert batch.labels[place] == number % 10 + 1
            np.testing.assert_allclose(batch.images[place] + np.array(MEANS), 2 * number, atol=1.01)


def test_the_order_depends_on_neither_threads_nor_batch_size(tmp_path: Path) -> None:
    shards = write(tmp_path, *([digit(10 * shard + k) for k in range(5)] for shard in range(10)))
    orders = [
        [name for batch in read(shards, batch_size=size, threads=threads) for name in batch.filenames]
        for size, threads in ((1, 1), (7, 3), (50, 2))
    ]
    assert orders[0] == orders[1] == orders[2]


def test_imagenet_images_are_preprocessed_as_imagenet(tmp_path: Path) -> None:
    encoded = jpeg(90, side=300)
    (batch,) = read(write(tmp_path, [example(encoded, 1000)]), dataset="imagenet")
    np.testing.assert_allclose(batch.images[0], imagenet_eval(encoded), atol=1e-5)
    assert batch.labels.tolist() == [1000]
    assert batch.filenames.tolist() == [b""]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (lambda: example(jpeg(1), 0, b"a.JPEG"), "has label 0 (a.JPEG); allowed are 1 to 10"),
        (lambda: example(jpeg(1), 11), "has label 11; allowed are 1 to 10"),
        (lambda: example(jpeg(1), -7), "has label -7; allowed are 1 to 10"),
        (lambda: example(jpeg(1), None, b"b.JPEG"), "has no image/class/label (b.JPEG)"),
        (lambda: example(None, 3, b"c.JPEG"), "has no image/encoded (c.JPEG)"),
        (lambda: example(None, 3), "has no image/encoded"),
    ],
    ids=["background", "too-high", "negative", "no-label", "no-image", "no-image-no-name"],
)
def test_a_record_that_lacks_what_is_needed_is_named(tmp_path: Path, record: Any, fault: str) -> None:
    shards = write(tmp_path, [digit(k) for k in range(6)], [digit(20), digit(21), record(), digit(22)])
    error = refusal(shards)
    assert (error.message, error.hint) == (f"Record 2 of {shards[1]!r} {fault}.", MEND)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (
            lambda: example(b"\xff\xd8\xffnot a picture", 3, b"d.JPEG"),
            "holds an image that cannot be used (d.JPEG): ",
        ),
        (lambda: example(jpeg(9)[:-400], 3, b"e.JPEG"), "holds an image that cannot be used (e.JPEG): "),
        (lambda: example(jpeg(9, side=28), 3), "holds an image that cannot be used: "),
        (lambda: b"\x07garbage", "is no example of the ImageNet schema: "),
        (lambda: example(jpeg(9), 3.0), "is no example of the ImageNet schema: "),
    ],
    ids=["no-jpeg", "cut-jpeg", "wrong-size", "garbage", "float-label"],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, record: Any, fault: str) -> None:
    shards = write(tmp_path, [digit(1), record()], [digit(k) for k in range(5)])
    error = refusal(shards)
    assert error.message.startswith(f"Record 1 of {shards[0]!r} {fault}")
    assert error.hint == MEND


def test_batches_before_a_bad_record_are_whole(tmp_path: Path) -> None:
    shards = write(tmp_path, [*(digit(k) for k in range(9)), example(jpeg(1), 77)])
    found = batches(shards, 4, "digits", 2)
    assert [next(found).filenames[0], next(found).filenames[0]] == [b"digit_0.JPEG", b"digit_4.JPEG"]
    with pytest.raises(Refused, match="Record 9 .* has label 77; allowed are 1 to 10"):
        next(found)


def damaged_checksum(data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    at = 12 + length + 4 + 12 + 5  # inside the second record
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "good"),
    [(damaged_checksum, 1), (lambda data: data[:-3], 2), (lambda data: b"no TFRecord at all", 0)],
    ids=["checksum", "cut", "other-file"],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Any, good: int) -> None:
    shards = write(tmp_path, [digit(k) for k in range(9)], [digit(k) for k in range(3)])
    Path(shards[1]).write_bytes(damage(Path(shards[1]).read_bytes()))
    error = refusal(shards, batch_size=2)
    assert error.message.startswith(f"Shard {shards[1]!r} is damaged after {good} good records: ")
    assert error.hint == "Copy it again from where it came, or convert the dataset again."


def test_a_shard_that_vanished_is_named(tmp_path: Path) -> None:
    shards = write(tmp_path, [digit(1)], [digit(2)])
    Path(shards[1]).unlink()
    assert refusal(shards).message.startswith(f"Shard {shards[1]!r} is damaged after 0 good records: ")
