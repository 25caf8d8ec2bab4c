"""Verifying a data set: what is in it, and every fault named by its shard and record."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_examples import SYNSETS, Told

tf = pytest.importorskip("tensorflow")

from conformance.data import manifest  # noqa: E402
from conformance.data.imagenet import example  # noqa: E402
from conformance.data.shards import shard_name  # noqa: E402
from conformance.data.verify import SAMPLED, verify  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

HINT = "Copy the shard again from where it came, or convert the data set again from its original images."


def jpeg(number: int) -> bytes:
    return bytes(
        tf.io.encode_jpeg(np.full((8, 8 + number % 5, 3), number * 7 % 256, np.uint8)).numpy() + b"%d" % number
    )


def record(number: int, **changes: Any) -> bytes:
    label = number % len(SYNSETS) + 1
    values: dict[str, Any] = {
        "encoded": jpeg(number),
        "height": 8,
        "width": 8 + number % 5,
        "label": label,
        "synset": SYNSETS[label - 1].encode(),
        "filename": b"image-%d.JPEG" % number,
    }
    return example(**{**values, **changes})


def write(directory: Path, split: str, *shards: Sequence[bytes]) -> None:
    directory.mkdir(exist_ok=True)
    for number, records in enumerate(shards):
        with tf.io.TFRecordWriter(str(directory / shard_name(split, number, len(shards)))) as writer:
            for data in records:
                writer.write(data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data set without a dataset.json: 60 and 20 images of 4 classes."""
    write(tmp_path / "set", "train", *([record(n) for n in range(30 * s, 30 * s + 30)] for s in range(2)))
    write(tmp_path / "set", "validation", [record(n) for n in range(100, 110)], [record(n) for n in range(110, 120)])
    return tmp_path / "set"


def run(directory: Path, full: bool = False) -> dict[str, Any]:
    return verify(str(directory), "imagenet", full, 2, Told())


def refusal(directory: Path, full: bool = False) -> Refused:
    with pytest.raises(Refused) as caught:
        run(directory, full)
    return caught.value


def test_counts_shards_and_classes_are_told(data: Path) -> None:
    found = run(data)
    assert {name: (split["images"], split["shards"]) for name, split in found["splits"].items()} == {
        "train": (60, 2),
        "validation": (20, 2),
    }
    histogram = found["splits"]["train"]["histogram"]
    assert len(histogram) == 1000 and histogram[:5] == [15, 15, 15, 15, 0]
    assert found["duplicates"] == {"images": 0, "first": None}


def test_one_image_in_sixteen_is_decoded_or_all(data: Path) -> None:
    assert SAMPLED == 16
    assert [split["decoded"] for split in run(data)["splits"].values()] == [4, 2]
    assert [split["decoded"] for split in run(data, full=True)["splits"].values()] == [60, 20]


def test_dataset_json_is_written_when_all_is_right_and_later_runs_hold_it(data: Path) -> None:
    assert run(data)["note"] == "dataset.json was written"
    said = json.loads((data / "dataset.json").read_text())
    assert (said["dataset"], said["classes"], said["synsets"]) == ("imagenet", 1000, list(SYNSETS))
    assert said["made"] == {"by": "conformance data verify"}
    manifest.check(str(data), manifest.read(str(data)), digests=True)
    assert run(data)["note"] == "as dataset.json says"


def test_after_a_copy_the_new_times_are_written(data: Path) -> None:
    run(data)
    os.utime(data / "train-00000-of-00002", (5, 5))
    assert run(data)["note"] == "dataset.json was written"
    assert manifest.read(str(data)).splits["train"].shards[0]["mtime_ns"] == 5_000_000_000


def damage_checksum(path: Path) -> None:
    """Turn one bit of the second record."""
    whole = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", whole[:8])
    whole[12 + length + 4 + 12 + 5] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("damage", "good"),
    [(damage_checksum, 1), (lambda path: path.write_bytes(path.read_bytes()[:-3]), 9)],
    ids=["checksum", "cut"],
)
def test_a_damaged_shard_is_named(data: Path, damage: Callable[[Path], None], good: int) -> None:
    path = data / "validation-00001-of-00002"
    damage(path)
    error = refusal(data)
    assert error.message.startswith(f"Shard {str(path)!r} is damaged after {good} good records: ")
    assert error.hint == HINT and not (data / "dataset.json").exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"label": 0}, "has label 0 (image-7.JPEG): labels begin with 1, and 0 is the background."),
        ({"label": 1001}, "has label 1001 (image-7.JPEG); allowed are 1 to 1000."),
        ({"encoded": b""}, "has no image/encoded (image-7.JPEG)."),
        ({"height": 9}, "says 9 x 10 pixels of an image of 8 x 10 (image-7.JPEG)."),
    ],
    ids=["zero", "high", "empty", "size"],
)
def test_a_record_that_is_wrong_is_named(data: Path, changes: dict[str, Any], fault: str) -> None:
    write(data, "train", [record(1), record(2), record(7, **changes)])
    for old in data.glob("train-*-of-00002"):
        old.unlink()
    error = refusal(data, full=True)
    assert error.message.startswith(f"Record 2 of {str(data / 'train-00000-of-00001')!r} {fault}")


def test_labels_from_zero_are_counted(tmp_path: Path) -> None:
    shards = [[record(n, label=n % 4, synset=b"") for n in range(s, 40, 2)] for s in range(2)]
    write(tmp_path, "validation", *shards)
    assert refusal(tmp_path).message.endswith("and 0 is the background. There are 9 more faults.")


def test_bytes_that_are_no_example_are_named(tmp_path: Path) -> None:
    write(tmp_path, "validation", [record(1), b"\x07garbage"])
    expected = f"Record 1 of {str(tmp_path / 'validation-00000-of-00001')!r} is no example of the ImageNet schema."
    assert refusal(tmp_path).message == expected


def test_an_image_that_cannot_be_decoded_is_found_in_full(tmp_path: Path) -> None:
    write(tmp_path, "validation", [record(1), record(2, encoded=b"\xff\xd8\xffvideo")])
    run(tmp_path)
    assert "holds an image that cannot be decoded (image-2.JPEG): " in refusal(tmp_path, full=True).message


def test_a_synset_with_two_labels_or_out_of_order_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a", "validation", [record(0)], [record(1, label=1)])
    assert refusal(tmp_path / "a").message == (
        "Label 1 is n01443537 in validation-00001-of-00002, and n01440764 elsewhere."
    )
    write(tmp_path / "b", "validation", [record(0, label=2), record(1, label=1)])
    assert refusal(tmp_path / "b").message == (
        "Labels do not follow the sorted synsets: 1 is n01443537 and 2 is n01440764."
    )
    write(tmp_path / "c", "validation", [record(0), record(1, label=1)])
    assert "gives label 1 a second synset: n01440764 and n01443537." in refusal(tmp_path / "c").message


def test_an_image_of_both_splits_is_a_leak_under_one_name_and_told_under_two(data: Path) -> None:
    write(data, "calibration", [record(105, filename=b"other.JPEG")])
    found = run(data)["duplicates"]
    assert found["images"] == 1
    assert found["first"] == (
        "record 0 of calibration-00000-of-00001 (other.JPEG) and record 5 of validation-00000-of-00002 (image-105.JPEG)"
    )
    (data / "dataset.json").unlink()
    write(data, "calibration", [record(104), record(105)])
    assert refusal(data).message == (
        "An image is in calibration and in validation: record 0 of calibration-00000-of-00001 (image-104.JPEG) and "
        "record 4 of validation-00000-of-00002 (image-104.JPEG). There are 1 more faults."
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.unlink(), "Shard {0!r} of dataset.json cannot be read: No such file or directory."),
        (lambda path: path.write_bytes(b"xy"), "Shard {0!r} has 2 bytes, dataset.json says "),
    ],
    ids=["gone", "size"],
)
def test_a_shard_that_differs_from_dataset_json_is_named(
    data: Path, change: Callable[[Path], Any], sentence: str
) -> None:
    run(data)
    path = data / "train-00001-of-00002"
    change(path)
    for call in (lambda: run(data), lambda: manifest.check(str(data), manifest.read(str(data)))):
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.message.startswith(sentence.format(str(path)))


def test_a_shard_of_the_same_size_and_other_bytes_is_named_by_its_digest(data: Path) -> None:
    run(data)
    path = data / "train-00001-of-00002"
    before = path.stat()
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    manifest.check(str(data), manifest.read(str(data)))  # size and time are all that is looked at
    with pytest.raises(Refused, match=r"train-00001-of-00002' has SHA-256 \w{64}, dataset.json says \w{64}\."):
        manifest.check(str(data), manifest.read(str(data)), digests=True)
    assert " has SHA-256 " in refusal(data).message


def test_a_directory_without_shards_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("")
    expected = f"There is no file validation-*-of-* in {str(tmp_path)!r}, which holds 1 other entries, such as 'a.tar'."
    assert refusal(tmp_path).message == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "cannot be read: JSONDecodeError"), ('{"schema": 1, "label_base": 1}', "has schema 1 and label base 1;")],
)
def test_a_dataset_json_that_is_none_is_told(data: Path, text: str, reason: str) -> None:
    (data / "dataset.json").write_text(text)
    assert f"{str(data / 'dataset.json')!r} {reason}" in refusal(data).message
