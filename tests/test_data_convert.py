"""From archives to TFRecords: every image once, as it was, in a seeded order, and after a kill on where it stopped."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from archive_examples import SYNSETS, Told, labels_file, train_archive, validation_archive

tf = pytest.importorskip("tensorflow")

from conformance.data import journal, manifest, storage  # noqa: E402
from conformance.data.archives import index_train  # noqa: E402
from conformance.data.convert import MD5, Request, convert, shuffled  # noqa: E402
from conformance.data.imagenet import Fields, fields, read_shard  # noqa: E402
from conformance.data.shards import find_shards  # noqa: E402
from conformance.wire import Refused  # noqa: E402

pytestmark = pytest.mark.tensorflow

# 8 x 8 pixels of the ink 230, 30, 60, 20 (cyan, magenta, yellow, black), which is about the RGB of CMYK_RGB.
CMYK = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJCAYHCQcGBggLCAkKCgoKCgYICwwLCgwJ"
    "CgoK/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAE"
    "EQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6"
    "g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkA"
    "SwAAPwD8Y6/YSv0Mr9rK/9k="
)
CMYK_RGB = (23, 207, 180)
PNG_NAME, CMYK_NAME, GREY_NAME = "n02105855_2933.JPEG", "n04266014_7.JPEG", "n01440764_grey (1) é.JPEG"
VIDEO = b"\x00\x00\x00\x18ftypmp42" + bytes(5000)

KILLED = """
import os, signal, sys
from conformance.data.convert import Request, convert

class Killer:
    def phase(self, name): pass
    def progress(self, done, total, unit, note=""):
        if total and done >= total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

convert(Request(*{arguments!r}), 2, Killer())
"""


class Archives(NamedTuple):
    train: str
    validation: str
    labels: str
    images: dict[str, dict[str, bytes]]  # of train, by synset and name
    held: dict[str, bytes]  # of validation, by name
    lines: list[str]


def picture(rng: np.random.RandomState) -> np.ndarray:
    height, width = rng.randint(9, 160, 2)
    ramp = np.add.outer(np.arange(height), np.arange(width))[:, :, np.newaxis] * rng.randint(1, 4, 3)
    return (ramp % 256).astype(np.uint8)


def jpeg(rng: np.random.RandomState) -> bytes:
    return bytes(tf.io.encode_jpeg(picture(rng), quality=90).numpy())


def make_archives(directory: Path, **changes: bytes) -> Archives:
    """Write an archive pair; ``changes`` are images of the first synset by name without its ending."""
    rng = np.random.RandomState(0)
    images = {
        synset: {f"{synset}_{number}.JPEG": jpeg(rng) for number in rng.permutation(200)[:45]} for synset in SYNSETS
    }
    images["n02105855"][PNG_NAME] = bytes(tf.io.encode_png(picture(rng)).numpy())
    images["n04266014"][CMYK_NAME] = CMYK
    images["n01440764"][GREY_NAME] = bytes(tf.io.encode_jpeg(picture(rng)[:, :, :1]).numpy())
    images["n01440764"].update({f"{name}.JPEG": data for name, data in changes.items()})
    held = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(rng) for number in range(1, 61)}
    held["ILSVRC2012_val_00000031.JPEG"] = CMYK
    lines = [SYNSETS[place] for place in rng.randint(0, len(SYNSETS), len(held))]
    return Archives(
        train_archive(directory / "train.tar", images),
        validation_archive(directory / "val.tar", held),
        labels_file(directory / "labels.txt", lines),
        images, held, lines,
    )  # fmt: skip


def request(archives: Archives, output: Path, **changes: Any) -> Request:
    asked = Request(archives.train, archives.validation, archives.labels, str(output), "both", True, False, 0, 16, 5)
    return asked._replace(**changes)


def refusal(asked: Request) -> Refused:
    with pytest.raises(Refused) as caught:
        convert(asked, 2, Told())
    return caught.value


def records(directory: Path, split: str) -> list[Fields]:
    return [fields(record) for path in find_shards(str(directory), split) for record in read_shard(path)]


def digests(directory: Path) -> dict[str, str]:
    found = manifest.read(str(directory))
    return {shard["name"]: shard["sha256"] for split in found.splits.values() for shard in split.shards}


def tree(directory: Path) -> dict[str, bytes]:
    root = directory / "jpeg"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return make_archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def whole(archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set that was written without a break."""
    output = tmp_path_factory.mktemp("whole") / "imagenet"
    convert(request(archives, output), 2, Told())
    return output


def test_every_train_image_is_in_one_record_with_the_label_of_its_sorted_synset(
    archives: Archives, whole: Path
) -> None:
    found = records(whole, "train")
    expected = [(name, synset, label) for label, synset in enumerate(SYNSETS, 1) for name in archives.images[synset]]
    assert sorted((x.filename.decode(), x.synset.decode(), x.label) for x in found) == sorted(expected)


def test_every_validation_image_has_the_label_of_its_line(archives: Archives, whole: Path) -> None:
    found = {x.filename.decode(): (x.synset.decode(), x.label) for x in records(whole, "validation")}
    named = zip(sorted(archives.held), archives.lines)
    assert found == {name: (line, SYNSETS.index(line) + 1) for name, line in named}


def test_jpegs_keep_their_bytes_and_tell_their_size(archives: Archives, whole: Path) -> None:
    sources = {name: data for members in archives.images.values() for name, data in members.items()}
    for found in records(whole, "train"):
        assert tf.io.decode_jpeg(found.encoded).shape[:2] == (found.height, found.width)
        changed = found.encoded != sources[found.filename.decode()]
        assert changed == (found.filename.decode() in (PNG_NAME, CMYK_NAME))


def test_a_png_and_a_cmyk_jpeg_become_rgb_jpegs_of_the_same_picture(archives: Archives, whole: Path) -> None:
    found = {x.filename.decode(): x.encoded for x in records(whole, "train")}
    assert tf.io.extract_jpeg_shape(found[CMYK_NAME]).numpy().tolist() == [8, 8, 3]
    assert np.abs(tf.io.decode_jpeg(found[CMYK_NAME]).numpy().astype(int) - CMYK_RGB).max() <= 3
    before = tf.io.decode_png(archives.images["n02105855"][PNG_NAME]).numpy().astype(int)
    assert np.abs(tf.io.decode_jpeg(found[PNG_NAME]).numpy() - before).mean() < 3
    assert manifest.read(str(whole)).made["converted"] == {"PNG": 1, "CMYK": 2}


def test_dataset_json_tells_what_was_made_from_what(archives: Archives, whole: Path) -> None:
    said = json.loads((whole / "dataset.json").read_text())
    assert (said["schema"], said["dataset"], said["classes"], said["label_base"]) == (2, "imagenet", 4, 1)
    assert said["synsets"] == list(SYNSETS)
    assert said["made"]["archives"]["train.tar"] == {"bytes": os.path.getsize(archives.train), "md5": None}
    assert {name: (split["images"], len(split["shards"])) for name, split in said["splits"].items()} == {
        "train": (183, 16),
        "validation": (60, 5),
    }
    manifest.check(str(whole), manifest.read(str(whole)), digests=True)
    assert not (whole / journal.NAME).exists()


def test_both_layouts_are_the_same_files_once_on_disk(whole: Path) -> None:
    flat, folder = whole / "train-00003-of-00016", whole / "train" / "train-00003-of-00016"
    assert os.path.samefile(flat, folder) and len(list((whole / "train").iterdir())) == 16


def test_subdirectories_hold_the_shards_of_the_flat_layout(archives: Archives, whole: Path, tmp_path: Path) -> None:
    convert(request(archives, tmp_path / "out", layout="subdirs", jpeg_tree=False), 2, Told())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "train", "validation"]
    flat = digests(whole)
    assert digests(tmp_path / "out") == {f"{name.split('-')[0]}/{name}": flat[name] for name in flat}


def test_the_jpeg_tree_has_a_folder_a_class_and_the_images_of_the_records(archives: Archives, whole: Path) -> None:
    found, expected = tree(whole), {}
    for split, folder in (("train", "train"), ("validation", "val")):
        for x in records(whole, split):
            expected[f"{folder}/{x.synset.decode()}/{x.filename.decode()}"] = x.encoded
    assert found == expected and len(found) == 183 + 60
    assert sorted(path.name for path in (whole / "jpeg" / "val").iterdir()) == list(SYNSETS)


def test_the_order_is_mixed_by_the_seed_alone(archives: Archives, whole: Path, tmp_path: Path) -> None:
    for name, seed, threads in (("same", 0, 1), ("other", 1, 3)):
        convert(request(archives, tmp_path / name, layout="flat", jpeg_tree=False, seed=seed), threads, Told())
    assert digests(tmp_path / "same") == digests(whole)
    orders = [[x.filename for x in records(place, "train")] for place in (whole, tmp_path / "other")]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert len({x.label for x in records(whole, "train")[:11]}) > 1


@pytest.mark.parametrize(("asked", "sizes"), [(1024, [1] * 183), (7, [27, 26, 26, 26, 26, 26, 26])])
def test_shards_are_equally_large_and_none_is_empty(archives: Archives, asked: int, sizes: list[int]) -> None:
    index = index_train(archives.train, Told())
    shards = shuffled(index, "train", asked, request(archives, Path("out")))
    assert [len(shard.images) for shard in shards] == sizes
    assert sorted(np.concatenate([shard.images for shard in shards])) == list(range(183))
    assert shards[-1].name == f"train-{len(sizes) - 1:05d}-of-{len(sizes):05d}"


def test_after_a_kill_the_same_command_ends_in_the_same_digests_and_redoes_no_finished_shard(
    archives: Archives, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    script = KILLED.format(arguments=tuple(request(archives, output)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    lines = [json.loads(line) for line in (output / journal.NAME).read_bytes().splitlines(keepends=True)]
    finished = [line["shard"]["name"] for line in lines[1:] if "shard" in line]
    assert 1 < len(finished) < 21 and not (output / "dataset.json").exists()
    spoiled, *kept = finished
    (output / spoiled).write_bytes(b"spoiled since")
    before = {name: os.stat(output / name) for name in kept}
    with open(output / journal.NAME, "ab") as file:
        file.write(b'{"shard": {"na')  # a line that the kill cut short

    told = Told()
    convert(request(archives, output), 2, told)
    assert told.last == (243, 243)
    assert digests(output) == digests(whole) and tree(output) == tree(whole)
    for name, status in before.items():
        assert (os.stat(output / name).st_ino, os.stat(output / name).st_mtime_ns) == (
            status.st_ino,
            status.st_mtime_ns,
        )
    assert {path.name for path in output.rglob("*")} == {path.name for path in whole.rglob("*")}


def test_what_is_finished_is_not_read_again(archives: Archives, whole: Path) -> None:
    (whole / journal.NAME).write_text("")  # as after a kill between the last two steps
    told = Told()
    convert(request(archives, whole), 2, told)
    assert told.phases == [] and not (whole / journal.NAME).exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (VIDEO, "it is neither JPEG nor PNG, and begins with 00 00 00 18 66 74 79 70."),
        (b"", "it is neither JPEG nor PNG, and begins with nothing."),
        (b"\xff\xd8\xff\xe0" + bytes(400), "Invalid JPEG data, size 404."),
    ],
    ids=["video", "empty", "damaged"],
)
def test_an_image_that_cannot_be_decoded_is_named_and_finished_shards_are_kept(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    broken = make_archives(tmp_path, n01440764_999=data)
    error = refusal(request(broken, tmp_path / "out"))
    expected = f"'n01440764_999.JPEG' of n01440764 in {broken.train!r} cannot be decoded: {reason}"
    assert (error.message, error.hint.endswith("shards that are finished are kept.")) == (expected, True)
    lines = [json.loads(line) for line in (tmp_path / "out" / journal.NAME).read_bytes().splitlines()]
    for line in lines[1:]:
        manifest.check_shard(str(tmp_path / "out"), line["shard"], digest=True)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_jpeg_that_is_cut_short_is_named(archives: Archives, tmp_path: Path) -> None:
    cut = next(iter(archives.images["n01443537"].values()))[:-300]
    error = refusal(request(make_archives(tmp_path, n01440764_999=cut), tmp_path / "out"))
    assert error.message.startswith("'n01440764_999.JPEG' of n01440764 in ")


def test_another_archive_than_ilsvrc2012_is_refused_by_its_md5(archives: Archives, tmp_path: Path) -> None:
    error = refusal(request(archives, tmp_path / "out", checksum=True))
    assert error.message.startswith(f"The train archive {archives.train!r} has MD5 ")
    assert error.message.endswith(f"; ILSVRC2012's is {MD5['train']}.")
    assert not list((tmp_path / "out").glob("train*"))


def test_a_conversion_that_finished_nothing_makes_way_for_another(archives: Archives, tmp_path: Path) -> None:
    refusal(request(archives, tmp_path / "out", checksum=True))
    made = convert(request(archives, tmp_path / "out", seed=9, layout="subdirs"), 2, Told())
    assert made.made["seed"] == 9 and (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 3}, "its seed is 0, not 3."),
        ({"layout": "flat"}, "its layout is 'both', not 'flat'."),
        ({"jpeg_tree": False}, "its jpeg_tree is True, not False."),
        ({"train_shards": 8}, "its shards is {'train': 16, 'validation': 5}, not {'train': 8, 'validation': 5}."),
    ],
)
def test_the_conversion_of_something_else_is_not_overwritten(
    archives: Archives, whole: Path, changes: dict[str, Any], sentence: str
) -> None:
    error = refusal(request(archives, whole, **changes))
    assert error.message == f"{str(whole)!r} holds the conversion of something else: {sentence}"


def test_an_unfinished_conversion_of_another_seed_is_not_gone_on_with(archives: Archives, tmp_path: Path) -> None:
    broken = make_archives(tmp_path, n01440764_999=VIDEO)
    refusal(request(broken, tmp_path / "out"))
    assert refusal(request(broken, tmp_path / "out", seed=7)).message.endswith("its seed is 0, not 7.")


def test_a_directory_of_something_else_is_not_written_to(archives: Archives, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    error = refusal(request(archives, tmp_path / "out"))
    path = str(tmp_path / "out")
    assert (
        error.message == f"{path!r} is not empty and is no data set of ours: it holds 1 entries, such as 'thesis.tex'."
    )
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_two_conversions_do_not_write_to_one_directory(archives: Archives, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / journal.NAME, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = refusal(request(archives, tmp_path / "out"))
    assert error.message == f"Another process is writing to {str(tmp_path / 'out')!r}."


def test_a_directory_that_cannot_be_made_is_told(archives: Archives, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal(request(archives, tmp_path / "file" / "out"))
    assert error.message.startswith(f"{str(tmp_path / 'file' / 'out')!r} cannot be written: Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_permission_is_told(archives: Archives, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    error = refusal(request(archives, tmp_path / "out"))
    assert "cannot be written: Permission denied" in error.message


def test_a_disk_that_takes_no_more_is_told_and_what_was_finished_is_kept(archives: Archives, tmp_path: Path) -> None:
    output = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        error = refusal(request(archives, output, validation_shards=60, jpeg_tree=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{str(output)}/train-" in error.message and " cannot be written: " in error.message
    assert error.message.endswith(" bytes are free there.")
    assert not list(output.rglob("*.part"))
    convert(request(archives, output, validation_shards=60, jpeg_tree=False), 2, Told())


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001"
    os.symlink("/dev/full", f"{path}.part")
    with pytest.raises(Refused) as caught:
        storage.write_shard(str(path), [b"x" * 5_000_000])
    assert caught.value.message.startswith(f"{str(path)!r} cannot be written: No space left on device; ")
    assert os.listdir(tmp_path) == []


def test_too_little_free_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        storage.check_space(str(tmp_path), 10**18)
    expected = f"1,000,000,000,000,000,000 bytes are still to be written to {str(tmp_path)!r}, and "
    assert caught.value.message.startswith(expected) and caught.value.message.endswith(" are free.")


def test_the_space_for_the_jpeg_tree_is_counted() -> None:
    assert storage.needed_bytes(1000, 1, as_files=True) >= 2000 > storage.needed_bytes(1000, 1, as_files=False) >= 1000


@pytest.mark.parametrize("shards", [0, -3])
def test_a_number_of_shards_that_is_none_is_told(archives: Archives, tmp_path: Path, shards: int) -> None:
    error = refusal(request(archives, tmp_path / "out", train_shards=shards))
    assert error.message == f"{shards} shards were asked for; allowed are 1 and more."
