"""Finding the files of a dataset, and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from conformance.data.geometry import eval_geometry
from conformance.data.shards import find_shards, shards_digest
from conformance.wire import Refused


def fill(directory: Path, *names: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(name.encode())
    return str(directory)


def refusal(directory: str, subset: str = "validation") -> Refused:
    with pytest.raises(Refused) as caught:
        find_shards(directory, subset)
    return caught.value


def test_flat_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"validation-{number:05d}-of-00012" for number in range(12)]
    fill(tmp_path, *reversed(names), "train-00000-of-00001", "synset_labels.txt")
    assert find_shards(str(tmp_path), "validation") == [str(tmp_path / name) for name in names]


def test_shards_in_a_directory_of_their_subset_are_found(tmp_path: Path) -> None:
    fill(tmp_path / "train", "train-00000-of-00002", "train-00001-of-00002")
    fill(tmp_path / "validation", "validation-00000-of-00001")
    assert find_shards(str(tmp_path), "validation") == [str(tmp_path / "validation/validation-00000-of-00001")]
    assert len(find_shards(str(tmp_path), "train")) == 2


def test_a_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    error = refusal(str(tmp_path / "imagenet"))
    assert error.message == f"The dataset directory {str(tmp_path / 'imagenet')!r} does not exist."
    assert error.hint == "Give the directory that holds the TFRecord files of the dataset."


def test_an_empty_directory_is_an_error_and_not_dummy_data(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).message == f"There is no file validation-*-of-* in {str(tmp_path)!r}, which is empty."


def test_a_directory_with_other_things_says_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path, "b.tar", "a.tar")
    expected = f"There is no file train-*-of-* in {str(tmp_path)!r}, which holds 2 other entries, such as 'a.tar'."
    assert refusal(str(tmp_path), "train").message == expected


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["validation-00000-of-00004", "validation-00003-of-00004"],
            "2 of 4 validation shards are missing in {}: the first is validation-00001-of-00004.",
        ),
        (
            ["validation-00000-of-00001", "validation-00000-of-00128"],
            "{} mixes validation shards of several sets: of 1, 128.",
        ),
        (
            ["validation-00000-of-00001", "validation-00001-of-00001"],
            "Shard 'validation-00001-of-00001' in {} is numbered beyond its total.",
        ),
        (
            ["validation-00000-of-00001", "validation-00000-of-00001.part"],
            "File 'validation-00000-of-00001.part' in {} is not named like validation-00000-of-00128.",
        ),
    ],
    ids=["gap", "mixed", "beyond", "misnamed"],
)
def test_a_set_that_is_not_complete_is_told(tmp_path: Path, names: list[str], sentence: str) -> None:
    directory = fill(tmp_path, *names)
    error = refusal(directory)
    assert error.message == sentence.format(repr(directory))
    assert error.hint == f"Convert or copy {directory!r} again, so that it holds one complete set."


def test_an_empty_shard_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "train-00000-of-00002", "train-00001-of-00002")
    (tmp_path / "train-00001-of-00002").write_bytes(b"")
    expected = f"Shard 'train-00001-of-00002' in {str(tmp_path)!r} is an empty file."
    assert refusal(str(tmp_path), "train").message == expected


def test_the_digest_depends_on_names_and_bytes_and_not_on_the_directory(tmp_path: Path) -> None:
    names = ["train-00000-of-00002", "train-00001-of-00002"]
    for place in ("a", "b"):
        fill(tmp_path / place, *names)
    first, second = (shards_digest(find_shards(str(tmp_path / place), "train")) for place in ("a", "b"))
    lines = "".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in names)
    assert first == second == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "b" / names[1]).write_bytes(b"other")
    assert shards_digest(find_shards(str(tmp_path / "b"), "train")) != first


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (256, 341, 16, 58)),
        ((500, 375), (341, 256, 58, 16)),
        ((333, 500), (256, 384, 16, 80)),
        ((256, 256), (256, 256, 16, 16)),
        ((1000, 501), (510, 256, 143, 16)),
    ],
)
def test_the_crop_lies_where_the_recipe_puts_it(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert eval_geometry(*size) == expected


def test_integer_division_is_the_truncation_of_the_recipe() -> None:
    sides = [*range(1, 700, 7), 255, 256, 257, 4288, 9331]
    for short in sides:
        for long in (side for side in sides if side >= short):
            assert eval_geometry(short, long)[:2] == (256, int(256 * long / short))
