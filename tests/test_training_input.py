"""What a training is fed: each image once an epoch, in a seeded order that can be entered in the middle."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.data import imagenet, training  # noqa: E402
from conformance.data.digits import write_digits  # noqa: E402
from conformance.data.preprocessing import MEANS, digits_eval  # noqa: E402
from conformance.data.shards import find_shards  # noqa: E402
from conformance.data.training import CROPS, Split, batches, synthetic  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

IMAGES = 80  # of the training split: a tenth of 10 classes less a fifth, rounded up


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("input")
    images = np.random.RandomState(5).randint(0, 17, (100, 8, 8))
    np.savez(place / "arrays.npz", images=images, labels=np.arange(100) % 10)
    write_digits(str(place / "arrays.npz"), str(place / "set"), 0, 3)
    return find_shards(str(place / "set"), "train")


def split(shards: list[str], **changes: Any) -> Split:
    given = {"dataset": "digits", "epoch_images": 72, "batch_size": 8, "image_size": 32, "crop": "digits"}
    return Split(shards=shards, **{**given, "seed": 1, "shuffled_labels": False, "threads": 2, **changes})


def take(made: Split, count: int, skip: int = 0) -> list[tuple[bytes, list[int]]]:
    """Return the images, as one text of bytes, and the labels of so many batches."""
    found = itertools.islice(batches(made, skip), count)
    return [(images.numpy().tobytes(), labels.numpy().tolist()) for images, labels in found]


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the digits where they are, so that one is known by its bytes."""
    monkeypatch.setitem(CROPS, "digits", lambda encoded, seed, size: digits_eval(encoded))


def test_the_same_seed_gives_the_same_first_50_batches_on_any_number_of_threads(shards: list[str]) -> None:
    first, again, other = (take(split(shards, **given), 50) for given in ({}, {"threads": 1}, {"seed": 2}))
    assert first == again
    assert len({text for text, _ in first}) == 50  # moved anew in each epoch
    assert not {text for text, _ in first} & {text for text, _ in other}


@pytest.mark.usefixtures("unmoved")
def test_every_epoch_takes_every_image_once_and_in_another_order(shards: list[str]) -> None:
    seen = take(split(shards, epoch_images=IMAGES, batch_size=1), 3 * IMAGES)
    epochs = [[text for text, _ in seen[start : start + IMAGES]] for start in range(0, 3 * IMAGES, IMAGES)]
    assert all(len(set(epoch)) == IMAGES and set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len({epoch[0] for epoch in epochs}) == 3 and len({tuple(epoch) for epoch in epochs}) == 3
    own = [label for _, (label,) in take(split(shards, epoch_images=IMAGES, batch_size=1), IMAGES)]
    assert np.bincount(own).tolist() == [0] + [8] * 10


@pytest.mark.parametrize("skip", [1, 5, 9, 13, 31])
def test_a_run_enters_in_the_middle_of_an_epoch_where_the_one_before_left(shards: list[str], skip: int) -> None:
    assert take(split(shards), 12, skip) == take(split(shards), skip + 12)[skip:]


@pytest.mark.usefixtures("unmoved")
def test_shuffled_labels_stay_with_their_image_and_tell_nothing_of_it(shards: list[str]) -> None:
    made = {"epoch_images": IMAGES, "batch_size": 1}
    true = {text: label for text, (label,) in take(split(shards, **made), IMAGES)}
    seen = take(split(shards, shuffled_labels=True, **made), 2 * IMAGES)
    drawn = {text: label for text, (label,) in seen}
    assert all(drawn[text] == label for text, (label,) in seen) and set(drawn) == set(true)
    assert set(drawn.values()) <= set(range(1, 11)) and len(set(drawn.values())) > 7
    assert sum(drawn[text] == label for text, label in true.items()) < 0.3 * IMAGES
    others = {text: label for text, (label,) in take(split(shards, shuffled_labels=True, seed=2, **made), IMAGES)}
    assert others != drawn


def test_a_split_with_fewer_images_than_told_is_refused(shards: list[str]) -> None:
    with pytest.raises(Refused, match="train-00000-of-00003' holds fewer than 88 images") as caught:
        take(split(shards, epoch_images=88), 12)
    assert "conformance data verify" in caught.value.hint


@pytest.mark.parametrize(("layout", "boxes"), [("", 2), ("", 0), ("train", None)])
def test_the_records_of_intel_with_boxes_and_those_of_habana_without_parse_alike(
    layout: str, boxes: int | None, tmp_path: Path
) -> None:
    jpegs = [tf.io.encode_jpeg(np.full((32, 32, 3), shade, np.uint8)).numpy() for shade in (40, 200)]
    (tmp_path / layout).mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(tmp_path / layout / "train-00000-of-00001")) as writer:
        for label, jpeg in enumerate(jpegs, 3):
            example = tf.train.Example.FromString(imagenet.example(jpeg, 32, 32, label, b"n01440764", b"a.JPEG"))
            if boxes is not None:  # as in IntelAI/models, whose images have any number of them
                feature = example.features.feature
                feature["image/class/text"].bytes_list.value.append(b"a fish")
                for side in ("xmin", "xmax", "ymin", "ymax"):
                    feature["image/object/bbox/" + side].float_list.value.extend([0.5] * boxes)
                feature["image/object/bbox/label"].int64_list.value.extend([label] * boxes)
            writer.write(example.SerializeToString())
    found = find_shards(str(tmp_path), "train")
    seen = {label: digits_eval(jpeg).numpy().tobytes() for label, jpeg in enumerate(jpegs, 3)}
    given = {"epoch_images": 2, "batch_size": 1, "image_size": 32, "crop": "whole"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CROPS, "whole", lambda encoded, seed, size: digits_eval(encoded))
        assert {label: pixels for pixels, (label,) in take(split(found, **given), 2)} == seen


@pytest.mark.parametrize(
    ("encoded", "label", "message"),
    [
        (None, 11, "has the labels 11 to 11; allowed are 1 to 10"),
        (None, 0, "has the labels 0 to 0; allowed are 1 to 10"),
        (b"no JPEG", 3, "cannot be used: "),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(
    encoded: bytes | None, label: int, message: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "train-00000-of-00001")
    jpeg = tf.io.encode_jpeg(np.zeros((32, 32, 3), np.uint8)).numpy()
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(8):
            writer.write(imagenet.example(encoded or jpeg, 32, 32, label, b"", b""))
    with pytest.raises(Refused, match=message):
        take(split([path], epoch_images=8), 1)


def ramps(height: int = 200, width: int = 240) -> bytes:
    """Draw an image whose red tells the column and whose green tells the row."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns, rows, 0 * rows], 2).astype(np.uint8)
    return bytes(tf.io.encode_jpeg(pixels, quality=100, chroma_downsampling=False).numpy())


def crops(name: str, count: int) -> np.ndarray:
    """Return as many crops of the ramps, 40 x 40 pixels of (column, row, nothing)."""
    encoded = ramps()
    made = [CROPS[name](encoded, tf.constant([3, number], tf.int64), 40).numpy() for number in range(count)]
    return np.stack(made) + np.array(MEANS)


def test_the_crop_of_imagenet_has_the_areas_and_the_sides_of_the_recipes_and_flips_half_of_them() -> None:
    found = crops("intel", 300)
    scales = (found[:, 20, 30, 0] - found[:, 20, 10, 0]) / 20, (found[:, 30, 20, 1] - found[:, 10, 20, 1]) / 20
    widths, heights = 40 * abs(scales[0]), 40 * scales[1]
    areas, aspects = widths * heights / (200 * 240), widths / heights
    assert 0.04 < areas.min() < 0.12 and 0.9 < areas.max() < 1.02
    assert 0.7 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.4
    assert 0.4 < (scales[0] < 0).mean() < 0.6


def test_habanas_crop_takes_the_same_parts_with_the_kernel_of_tensorflow_1() -> None:
    # By rows, which no flip turns, and the mean of a whole row, because JPEG rounds.
    intel, habana = (crops(name, 20)[..., 1].mean(2) for name in ("intel", "habana"))
    scales = (intel[:, 35] - intel[:, 5]) / 30
    shifts = (intel - habana)[:, 5:35].mean(1)
    np.testing.assert_allclose(shifts, (scales - 1) / 2, atol=0.15)  # half a pixel of each grid
    assert shifts.max() > 1


def test_a_crop_is_the_same_for_the_same_seed_only() -> None:
    encoded = ramps()
    first, again, other = (CROPS["intel"](encoded, tf.constant([7, n], tf.int64), 24).numpy() for n in (0, 0, 1))
    assert first.shape == (24, 24, 3) and (first == again).all() and (first != other).any()


def test_synthetic_images_are_habanas_noise_and_a_patch_that_tells_the_class() -> None:
    images, labels = synthetic(256, 32, 11, 1, False)
    assert images.shape == (256, 32, 32, 3) and images.dtype == tf.float32
    assert set(labels.numpy().tolist()) == set(range(1, 11))
    pixels = images.numpy()
    assert np.median(pixels) == pytest.approx(127, abs=2) and pixels.min() >= 7 and pixels.max() <= 307
    for label in (1, 10):
        own = pixels[labels.numpy() == label].mean(0).reshape(4, 8, 4, 8, 3).mean((1, 3)).reshape(-1)
        assert own.argmax() == label and own.max() - np.median(own) == pytest.approx(60, abs=8)
    same, _ = synthetic(256, 32, 11, 1, True)
    np.testing.assert_array_equal(same, images)


def test_shuffled_labels_of_synthetic_images_leave_the_patch() -> None:
    _, true = synthetic(256, 8, 11, 1, False)
    _, drawn = synthetic(256, 8, 11, 1, True)
    assert np.mean(true.numpy() == drawn.numpy()) < 0.2


def test_each_dataset_is_evaluated_at_the_size_that_its_preprocessing_gives() -> None:
    encoded = ramps(32, 32)
    for name, side in training.EVALUATED_AT.items():
        assert imagenet.EVALUATIONS[name](encoded).shape == (side, side, 3)
