"""Samples of a data set: balanced, seeded, and of the very bytes of the records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_examples import SYNSETS, Told

tf = pytest.importorskip("tensorflow")

from conformance.data import manifest  # noqa: E402
from conformance.data.imagenet import example, fields, read_shard  # noqa: E402
from conformance.data.shards import find_shards, shard_name  # noqa: E402
from conformance.data.subset import Request, balanced, draw  # noqa: E402
from conformance.data.verify import verify  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

COUNTS = {"train": 700, "validation": 100}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    for split, count in COUNTS.items():
        for shard in range(3):
            with tf.io.TFRecordWriter(str(directory / shard_name(split, shard, 3))) as writer:
                for n in range(shard, count, 3):
                    name = f"{split}-{n}.JPEG"
                    pixels = np.full((8, 8, 3), n % 251, np.uint8)
                    encoded = tf.io.encode_jpeg(pixels).numpy() + name.encode() * (n % 7)
                    writer.write(example(encoded, 8, 8, n % 4 + 1, SYNSETS[n % 4].encode(), name.encode()))
    verify(str(directory), "imagenet", False, 2, Told())
    return directory


def request(data: Path, output: Path, images: int = 22, **changes: Any) -> Request:
    return Request(str(data), str(output), images, 0)._replace(**changes)


def drawn(directory: Path, split: str = "validation") -> list[bytes]:
    return [record for path in find_shards(str(directory), split) for record in read_shard(path)]


def refusal(asked: Request) -> Refused:
    with pytest.raises(Refused) as caught:
        draw(asked, 2, Told())
    return caught.value


def test_records_are_copied_byte_for_byte_and_none_twice(data: Path, tmp_path: Path) -> None:
    draw(request(data, tmp_path / "out"), 2, Told())
    found = drawn(tmp_path / "out")
    assert len(found) == len(set(found)) == 22 and set(found) <= set(drawn(data))


def test_classes_are_balanced_and_the_rest_is_drawn(data: Path, tmp_path: Path) -> None:
    draw(request(data, tmp_path / "out"), 2, Told())
    counts = Counter(fields(record).label for record in drawn(tmp_path / "out"))
    assert sorted(counts) == [1, 2, 3, 4] and sorted(counts.values()) == [5, 5, 6, 6]


def test_fewer_images_than_classes_are_one_of_each_drawn_class() -> None:
    labels = np.repeat(np.arange(1, 11), 5)
    chosen = labels[balanced(labels, 4, seed=0)]
    assert len(set(chosen.tolist())) == 4
    assert set(chosen.tolist()) != set(labels[balanced(labels, 4, seed=1)].tolist())


def test_the_seed_decides(data: Path, tmp_path: Path) -> None:
    for name, seed, threads in (("a", 3, 1), ("b", 3, 2), ("c", 4, 2)):
        draw(request(data, tmp_path / name, seed=seed), threads, Told())
    assert drawn(tmp_path / "a") == drawn(tmp_path / "b") != drawn(tmp_path / "c")


def test_a_calibration_set_is_drawn_from_train_and_has_a_split_of_its_own(data: Path, tmp_path: Path) -> None:
    said = draw(request(data, tmp_path / "out", 600, source="train", split="calibration"), 2, Told())
    assert list(said.splits) == ["calibration"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "calibration-00000-of-00002", "calibration-00001-of-00002", "dataset.json"
    ]  # fmt: skip
    assert {fields(record).filename.split(b"-")[0] for record in drawn(tmp_path / "out", "calibration")} == {b"train"}


def test_dataset_json_tells_of_what_it_is_a_sample(data: Path, tmp_path: Path) -> None:
    draw(request(data, tmp_path / "out", seed=9), 2, Told())
    said = manifest.read(str(tmp_path / "out"))
    source = manifest.read(str(data)).splits["validation"]
    origin = said.made["subset_of"]
    assert (said.made["seed"], origin["sha256"], origin["images"]) == (9, source.sha256, 100)
    manifest.check(str(tmp_path / "out"), said, digests=True)
    assert verify(str(tmp_path / "out"), "imagenet", True, 2, Told())["note"] == "as dataset.json says"


@pytest.mark.parametrize("images", [0, 101])
def test_more_images_than_there_are_is_told(data: Path, tmp_path: Path, images: int) -> None:
    expected = f"{images} images were asked for; allowed are 1 to 100, as many as validation has."
    assert refusal(request(data, tmp_path / "out", images)).message == expected


def test_a_class_of_too_few_images_is_named() -> None:
    with pytest.raises(Refused) as caught:
        balanced(np.array([1] * 9 + [2] * 2), 8, seed=0)
    assert caught.value.message == "Label 2 has 2 images, and 4 of each are needed for 8 in all."
    assert caught.value.hint == "Ask for 4."


def test_a_data_set_that_nobody_verified_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    error = refusal(request(tmp_path / "data", tmp_path / "out"))
    assert error.message == f"{str(tmp_path / 'data')!r} has no dataset.json."
    assert error.hint.startswith(f"Run `conformance data verify {tmp_path / 'data'}`")


def test_an_output_that_is_not_empty_is_told_and_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    path = str(tmp_path / "out")
    expected = f"{path!r} is not empty and is no data set of ours: it holds 1 entries, such as 'thesis.tex'."
    assert refusal(request(data, tmp_path / "out")).message == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_split_that_is_not_there_is_told(data: Path, tmp_path: Path) -> None:
    draw(request(data, tmp_path / "out"), 2, Told())
    error = refusal(request(tmp_path / "out", tmp_path / "again", 2, source="train", split="calibration"))
    assert error.message == f"{str(tmp_path / 'out')!r} has no split 'train'."
