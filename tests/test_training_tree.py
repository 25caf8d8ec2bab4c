"""Class folders of JPEGs: the same labels and pixels as the records of the same images, in an order of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from archive_examples import SYNSETS, Told  # noqa: E402
from test_data_convert import Archives, make_archives, request  # noqa: E402

from conformance.data import imagenet, training  # noqa: E402
from conformance.data.convert import convert  # noqa: E402
from conformance.data.shards import find_shards  # noqa: E402
from conformance.data.training import CROPS, Split, batches, imagenet_train  # noqa: E402
from conformance.data.tree import RECORDS, TREE, Tree, find_images, layout  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow


class Set:
    """The same images as class folders, as they came, and as the records of a conversion."""

    def __init__(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        self.tree, self.records = place / "tree", place / "records"
        archives = make_archives(place)
        write_tree(archives, self.tree)
        convert(request(archives, self.records, layout="subdirs", jpeg_tree=False), 2, Told())
        self.images = sum(map(len, archives.images.values()))


def write_tree(archives: Archives, place: Path) -> None:
    files = {f"train/{synset}/{name}": data for synset, own in archives.images.items() for name, data in own.items()}
    for number, (name, data) in enumerate(archives.held.items()):
        files[f"val/{archives.lines[number]}/{name}"] = data
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Set:
    return Set(tmp_path_factory.mktemp("made") / "set")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a tree of a few grey squares that may be changed."""
    for number, (split, synset) in enumerate(itertools.product(("train", "val"), SYNSETS[:3])):
        (tmp_path / split / synset).mkdir(parents=True)
        for image in range(4):
            pixels = np.full((16, 16, 3), 10 * number + image, np.uint8)
            path = tmp_path / split / synset / f"{synset}_{image}.JPEG"
            path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return tmp_path


def tree(place: Path, subset: str = "train", dataset: str = "imagenet") -> Tree:
    found = find_images(str(place), subset, dataset)
    assert isinstance(found, Tree)
    return found


def split(images: Any, epoch_images: int, **changes: Any) -> Split:
    given = {"dataset": "imagenet", "batch_size": 4, "image_size": 24, "crop": "intel", "seed": 1}
    given = {**given, "shuffled_labels": False, "threads": 2, **changes}
    return Split(shards=images, epoch_images=epoch_images, **given)


def take(wanted: Split, count: int, skip: int = 0) -> list[tuple[bytes, list[int]]]:
    """Return the pixels, as one text of bytes, and the labels of so many batches."""
    found = itertools.islice(batches(wanted, skip), count)
    return [(images.numpy().tobytes(), labels.numpy().tolist()) for images, labels in found]


def refusal(work: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value


@pytest.mark.parametrize("shuffled_labels", [False, True])
def test_an_image_is_trained_on_alike_from_a_tree_and_from_records(
    made: Set, shuffled_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = tf.constant([3, 4], tf.int64)  # the same crop for each image, which otherwise follows from its place
    monkeypatch.setitem(CROPS, "intel", lambda encoded, _, size: imagenet_train(encoded, seed, size, True))
    shards = find_shards(str(made.records), "train")
    for_one = {"batch_size": 1, "shuffled_labels": shuffled_labels}
    ours, theirs = (take(split(x, made.images, **for_one), made.images) for x in (tree(made.tree), shards))
    assert len({pixels for pixels, _ in ours}) > made.images - 5 and ours != theirs  # in another order
    assert sorted(ours) == sorted(theirs)


def test_an_image_is_evaluated_alike_from_a_tree_and_from_records(made: Set) -> None:
    found = []
    for images in (tree(made.tree, "validation"), find_shards(str(made.records), "validation")):
        rows = []
        for batch in imagenet.batches(images, 25, "imagenet", 2):
            rows += [(batch.filenames[n], batch.labels[n], batch.images[n].tobytes()) for n in range(len(batch.labels))]
        found.append(sorted(rows))
    assert len(found[0]) == 60 and found[0] == found[1]


def test_an_evaluation_goes_through_a_tree_by_the_names(made: Set) -> None:
    names = sorted(path.relative_to(made.tree / "val").as_posix() for path in (made.tree / "val").glob("*/*"))
    (batch,) = imagenet.batches(tree(made.tree, "validation"), 60, "imagenet", 2)
    assert batch.shards.tolist() == [os.fsencode(made.tree / "val" / name) for name in names]
    assert batch.labels.tolist() == [1 + SYNSETS.index(name.split("/")[0]) for name in names]


def test_the_same_seed_gives_the_same_first_50_batches_whatever_the_directory_says_first(
    made: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(made.tree)
    first, threads, other = (take(split(whole, 180, **given), 50) for given in ({}, {"threads": 1}, {"seed": 2}))
    assert first == threads and len({pixels for pixels, _ in first}) == 50
    assert not {pixels for pixels, _ in first} & {pixels for pixels, _ in other}
    real = os.scandir

    @contextlib.contextmanager
    def backwards(place: str) -> Iterator[Any]:
        with real(place) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr(os, "scandir", backwards)
    assert take(split(tree(made.tree), 180), 50) == first


def test_every_epoch_takes_every_image_once_and_in_another_order(made: Set) -> None:
    order = training._order(split(tree(made.tree), made.images), 0).take(3 * made.images)
    seen = np.array([int(number) for _, number in order]).reshape(3, made.images)
    assert (np.sort(seen) == np.arange(made.images)).all()
    assert (seen[0] != seen[1]).mean() > 0.9 and (seen[1] != seen[2]).mean() > 0.9
    assert abs(np.corrcoef(seen[0], np.arange(made.images))[0, 1]) < 0.3  # the whole list is shuffled, not parts of it


@pytest.mark.parametrize("skip", [1, 44, 45, 107])
def test_a_run_enters_in_the_middle_of_an_epoch_where_the_one_before_left(made: Set, skip: int) -> None:
    wanted = split(tree(made.tree), 180)  # 45 batches an epoch
    assert take(wanted, 3, skip) == take(wanted, skip + 3)[skip:]


def test_what_is_skipped_is_not_read(small: Path) -> None:
    wanted = split(tree(small), 12)
    after = take(wanted, 1, 2)
    names = sorted((small / "train").glob("*/*"))
    order = [int(number) for _, number in training._order(wanted, 0).take(12)]
    assert sorted(order) == list(range(12))
    for number in order[:8]:
        names[number].unlink()
    assert take(wanted, 1, 2) == after


@pytest.mark.parametrize("by_file", [False, True])
def test_ranks_share_the_shuffled_list_by_position(made: Set, by_file: bool) -> None:
    whole = tree(made.tree)
    one = take(split(whole, 176, batch_size=8), 22)
    first, second = (take(split(whole, 176, rank=rank, ranks=2, by_file=by_file), 22) for rank in (0, 1))
    assert [(pixels + second[n][0], labels + second[n][1]) for n, (pixels, labels) in enumerate(first)] == one


def test_what_is_there_tells_the_layout(made: Set, small: Path, tmp_path: Path) -> None:
    assert (layout(str(made.tree)), layout(str(made.records)), layout(str(small))) == (TREE, RECORDS, TREE)
    (small / "val").rename(small / "validation")
    assert tree(small, "validation").images == 12
    (small / "train-00000-of-00001").write_bytes(b"")
    both = f"'{small}' holds both records, train-*-of-*, and class folders, such as 'train/n01440764'."
    assert refusal(lambda: layout(str(small))).message == both
    (tmp_path / "other" / "images").mkdir(parents=True)
    neither = refusal(lambda: layout(str(tmp_path / "other"))).message
    assert neither == (
        "There is neither a file train-*-of-* or validation-*-of-* nor a class folder in train, val or validation in "
        f"'{tmp_path / 'other'}', which holds 1 other entries, such as 'images'."
    )
    assert refusal(lambda: layout("/nowhere")).message == "The dataset directory '/nowhere' does not exist."


def put(name: str, data: bytes = b"") -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda place: (place / old).rename(place / new) and None


def emptied(place: Path) -> None:
    for path in (place / "train/n01443537").iterdir():
        path.unlink()


def crowded(place: Path) -> None:
    for split, number in itertools.product(("train", "val"), range(1000)):
        (place / split / f"n9{number:07d}").mkdir()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename("train/n01443537", "train/goldfish"),
         "'{}/train/goldfish' is no class folder: its name is not a WordNet id such as n01440764."),
        (emptied, "Class folder '{}/train/n01443537' is empty."),
        (put("train/n01443537/notes.txt"), "'{}/train/n01443537/notes.txt' is not named as a JPEG; "),
        (lambda place: (place / "train/n01443537/more").mkdir(), "'{}/train/n01443537/more' is a directory; "),
        (put("train/n01440764_9.JPEG"), "'{}/train/n01440764_9.JPEG' lies beside the class folders, not in one."),
        (lambda place: shutil.rmtree(place / "val/n01443537"),
         "Class folder 'n01443537' is in '{}/train' and not in '{}/val'."),
        (lambda place: shutil.rmtree(place / "train/n01440764"),
         "Class folder 'n01440764' is in '{}/val' and not in '{}/train'."),
        (put("validation/n01440764/a.JPEG"), "There are class folders in '{}/val' and in '{}/validation'."),
        (lambda place: shutil.rmtree(place / "train"), "There is no class folder in '{}/train'."),
        (crowded, "'{}/train' holds 1,003 class folders; allowed are 1 to 1,000."),
    ],
)  # fmt: skip
def test_a_tree_that_is_not_whole_is_refused_with_the_path(
    small: Path, change: Callable[[Path], None], told: str
) -> None:
    change(small)
    refused = refusal(lambda: find_images(str(small), "train", "imagenet"))
    assert refused.message.startswith(told.replace("{}", str(small))) and refused.hint


def test_hidden_files_are_passed_over(small: Path) -> None:
    for name in ("train/.DS_Store", "train/.cache/a.JPEG", "train/n01443537/._a.JPEG"):
        put(name)(small)
    assert tree(small).images == 12


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "it is neither JPEG nor PNG, and begins with nothing."),
        (b"GIF89a..", "it is neither JPEG nor PNG, and begins with 47 49 46 38 39 61 2e 2e."),
        (b"\xff\xd8\xff\xe0 cut off", "Invalid JPEG data"),
        (b"\x89PNG\r\n\x1a\n cut off", "Invalid PNG"),
        (None, "No such file or directory."),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_its_path(small: Path, data: bytes | None, told: str) -> None:
    names = {"train": "n01443537_2.JPEG", "validation": "n01440764_3.JPEG"}
    paths = [small / "train/n01443537" / names["train"], small / "val/n01440764" / names["validation"]]
    ours, held = tree(small), tree(small, "validation")
    for path in paths:
        path.unlink() if data is None else path.write_bytes(data)
    works = [lambda: take(split(ours, 12), 3), lambda: list(imagenet.batches(held, 5, "imagenet", 2))]
    for number, work in enumerate(works):
        assert refusal(work).message.startswith(f"'{paths[number]}' cannot be used as a JPEG: {told}")


def test_a_tree_with_fewer_images_than_told_is_refused_before_the_first_batch(small: Path) -> None:
    told = f"'{small}/train' holds 12 images, and an epoch is to take 16."
    assert refusal(lambda: next(batches(split(tree(small), 16)))).message == told
