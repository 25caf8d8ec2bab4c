"""The digits set: the schema of its records, its split, its enlargement, and what may be in its way."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.data import manifest  # noqa: E402
from conformance.data.digits import dataset_digest, enlarged, split, write_digits  # noqa: E402
from conformance.data.imagenet import batches, fields, read_shard  # noqa: E402
from conformance.data.shards import find_shards  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)  # of the 1797 digits


def arrays(path: Path, **changes: Any) -> str:
    rng = np.random.RandomState(5)
    values: dict[str, Any] = {"images": rng.randint(0, 17, (60, 8, 8)), "labels": np.arange(60) % 10}
    np.savez(path, **{**values, **changes})
    return str(path)


def refusal(arrays_npz: str, output: Path, seed: int = 0, shards: int = 2) -> Refused:
    with pytest.raises(Refused) as caught:
        write_digits(arrays_npz, str(output), seed, shards)
    return caught.value


@pytest.fixture
def source(tmp_path: Path) -> str:
    return arrays(tmp_path / "digits.npz")


def test_the_split_is_stratified_and_holds_no_image_twice() -> None:
    labels = np.repeat(np.arange(10), COUNTS)
    train, validation = split(labels, seed=3)
    assert len(validation) == 364
    assert sorted([*train, *validation]) == list(range(1797))
    assert np.bincount(labels[validation]).tolist() == [int(np.ceil(count / 5)) for count in COUNTS]


def test_another_seed_is_another_split() -> None:
    labels = np.repeat(np.arange(10), COUNTS)
    first, again, other = (split(labels, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_enlarging_is_bilinear_with_half_pixel_centres() -> None:
    image = np.random.RandomState(0).randint(0, 17, (8, 8))
    expected = tf.image.resize(image[:, :, np.newaxis] * 255 / 16, [32, 32], "bilinear")[:, :, 0]
    assert enlarged(image).dtype == np.uint8
    assert np.abs(enlarged(image) - np.asarray(expected)).max() < 0.502


@pytest.mark.parametrize(("level", "pixel"), [(0, 0), (8, 128), (16, 255)])
def test_a_plain_digit_stays_plain(level: int, pixel: int) -> None:
    assert (enlarged(np.full((8, 8), level)) == pixel).all()


def test_the_records_follow_the_imagenet_schema(tmp_path: Path, source: str) -> None:
    write_digits(source, str(tmp_path / "set"), 0, 2)
    with np.load(source) as values:
        images, labels = values["images"], values["labels"]
    seen = set()
    for subset in ("train", "validation"):
        for record in tf.data.TFRecordDataset(find_shards(str(tmp_path / "set"), subset)):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            integers = {key: value.int64_list.value[0] for key, value in feature.items() if value.int64_list.value}
            texts = {key: value.bytes_list.value[0] for key, value in feature.items() if value.bytes_list.value}
            encoded, filename = texts.pop("image/encoded"), texts.pop("image/filename").decode()
            index = int(filename[len("digit_") : -len(".JPEG")])
            assert integers == {
                "image/height": 32,
                "image/width": 32,
                "image/channels": 3,
                "image/class/label": labels[index] + 1,
            }
            assert texts == {
                "image/colorspace": b"RGB",
                "image/format": b"JPEG",
                "image/class/synset": b"digit-%d" % labels[index],
            }
            # The recipe's INTEGER_FAST is off by up to 14 levels at this quality; what was written is not.
            pixels = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy().astype(int)
            assert np.abs(pixels - enlarged(images[index])[:, :, np.newaxis]).max() <= 1
            seen.add(index)
    assert seen == set(range(60))


def test_a_written_set_reads_back_whole(tmp_path: Path, source: str) -> None:
    said = write_digits(source, str(tmp_path / "set"), 0, 3)
    assert {name: split.images for name, split in said.splits.items()} == {"train": 40, "validation": 20}
    for subset, split_ in said.splits.items():
        found = list(batches(find_shards(str(tmp_path / "set"), subset), 16, "digits", 2))
        assert sum(len(batch.labels) for batch in found) == split_.images
        assert {label for batch in found for label in batch.labels} == set(range(1, 11))


def test_dataset_json_tells_seed_counts_and_digests(tmp_path: Path, source: str) -> None:
    said = write_digits(source, str(tmp_path / "set"), 4, 2)
    assert manifest.read(str(tmp_path / "set")) == said
    assert (said.dataset, said.classes, said.made["seed"], said.made["shards"]) == ("digits", 10, 4, 2)
    for subset, split_ in said.splits.items():
        assert [shard["name"] for shard in split_.shards] == [f"{subset}-0000{number}-of-00002" for number in (0, 1)]
        for shard in split_.shards:
            assert shard["sha256"] == hashlib.sha256((tmp_path / "set" / shard["name"]).read_bytes()).hexdigest()


def test_all_files_of_the_same_digits_are_the_same_bytes(tmp_path: Path, source: str) -> None:
    for name in "ab":
        write_digits(source, str(tmp_path / name), 0, 2, "both", jpeg_tree=True)
    first, again = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in "ab"
    )
    assert first == again and len(first) == 1 + 2 * 4 + 60


def test_digits_in_both_layouts_have_the_shards_twice_and_a_folder_of_jpegs_a_class(
    tmp_path: Path, source: str
) -> None:
    write_digits(source, str(tmp_path / "set"), 0, 2, "both", jpeg_tree=True)
    for subset, folder in (("train", "train"), ("validation", "val")):
        for path in find_shards(str(tmp_path / "set"), subset):
            assert os.path.samefile(path, tmp_path / "set" / subset / os.path.basename(path))
            for record in map(fields, read_shard(path)):
                image = tmp_path / "set" / "jpeg" / folder / record.synset.decode() / record.filename.decode()
                assert image.read_bytes() == record.encoded
        assert len(os.listdir(tmp_path / "set" / "jpeg" / folder)) == 10


def test_writing_twice_changes_nothing(tmp_path: Path, source: str) -> None:
    first = write_digits(source, str(tmp_path / "set"), 0, 2)
    before = os.stat(tmp_path / "set" / "train-00000-of-00002")
    assert write_digits(source, str(tmp_path / "set"), 0, 2) == first
    assert os.stat(tmp_path / "set" / "train-00000-of-00002").st_mtime_ns == before.st_mtime_ns


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, source: str) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_digits(source, str(tmp_path / name), seed, 2)
    first, again, other = (dataset_digest(str(tmp_path / name)) for name in "abc")
    assert first == again != other


def test_nothing_but_the_set_is_left_behind(tmp_path: Path, source: str) -> None:
    (tmp_path / "set").mkdir()
    write_digits(source, str(tmp_path / "set"), 0, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["digits.npz", "set"]


def test_a_writing_that_fails_leaves_nothing_behind(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(json, "dump", full_disk)
    with pytest.raises(Refused, match="dataset.json' cannot be written: no space left on device"):
        write_digits(source, str(tmp_path / "set"), 0, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits.npz"]


def test_a_set_of_another_seed_is_not_overwritten(tmp_path: Path, source: str) -> None:
    write_digits(source, str(tmp_path / "set"), 0, 2)
    error = refusal(source, tmp_path / "set", seed=1)
    assert error.message == f"{str(tmp_path / 'set')!r} holds another data set: its seed is 0, not 1."
    assert error.hint == "Delete it or name another directory."


def test_a_directory_of_something_else_is_not_overwritten(tmp_path: Path, source: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("precious")
    expected = f"{str(tmp_path / 'set')!r} is no complete set of digits: it has no dataset.json."
    assert refusal(source, tmp_path / "set").message == expected


def test_a_shard_that_changed_is_told(tmp_path: Path, source: str) -> None:
    said = write_digits(source, str(tmp_path / "set"), 0, 2)
    path = tmp_path / "set" / "validation-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Refused) as caught:
        dataset_digest(str(tmp_path / "set"))
    assert caught.value.message.startswith(f"Shard {str(path)!r} has SHA-256 ")
    assert caught.value.message.endswith(f"dataset.json says {said.splits['validation'].shards[1]['sha256']}.")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"images": np.zeros((60, 28, 28))},
            "The arrays of digits have the wrong shapes: images [60, 28, 28] and labels [60].",
        ),
        (
            {"labels": np.arange(59) % 10},
            "The arrays of digits have the wrong shapes: images [60, 8, 8] and labels [59].",
        ),
        (
            {"images": np.full((60, 8, 8), 255)},
            "The images of the digits are not whole numbers of 0 to 16: 255 to 255.",
        ),
        (
            {"images": np.full((60, 8, 8), 0.25)},
            "The images of the digits are not whole numbers of 0 to 16: 0.25 to 0.25.",
        ),
        (
            {"labels": np.arange(60) % 11},
            "The labels of the digits are not whole numbers of 0 to 9: 0 to 10.",
        ),
        ({"images": np.zeros((0, 8, 8)), "labels": np.zeros(0)}, "The arrays of digits hold no image."),
    ],
    ids=["shape", "length", "range", "fraction", "label", "none"],
)
def test_arrays_that_are_no_digits_are_told(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    error = refusal(arrays(tmp_path / "digits.npz", **changes), tmp_path / "set")
    assert error.message == sentence
    assert error.hint == "Give an .npz with images [N, 8, 8] of 0 to 16 and labels [N] of 0 to 9."


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"text"], ids=["empty", "cut", "text"])
def test_a_file_of_no_arrays_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "digits.npz").write_bytes(data)
    expected = f"The arrays of digits {str(tmp_path / 'digits.npz')!r} cannot be read: "
    assert refusal(str(tmp_path / "digits.npz"), tmp_path / "set").message.startswith(expected)


def test_arrays_without_labels_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=np.zeros((60, 8, 8)))
    assert "labels" in refusal(str(tmp_path / "digits.npz"), tmp_path / "set").message


@pytest.mark.parametrize("shards", [0, 21])
def test_a_number_of_shards_that_leaves_one_empty_is_told(tmp_path: Path, source: str, shards: int) -> None:
    error = refusal(source, tmp_path / "set", shards=shards)
    assert error.message == f"{shards} shards were asked for; allowed are 1 to 20."
