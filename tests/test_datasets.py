"""What a data set says of itself, held against its files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from conformance.errors import UsageError
from conformance.fixtures import digests
from conformance.fixtures.datasets import read_manifest, split_artefact, split_images

BYTES = {"validation-00000-of-00002": b"first shard", "validation-00001-of-00002": b"the second"}
LINES = "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in BYTES.items())


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    for name, data in {**BYTES, "train-00000-of-00001": b"of another split"}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture
def said(bare: Path) -> Path:
    shards = [
        {
            "name": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "mtime_ns": (bare / name).stat().st_mtime_ns,
            "images": 3,
        }
        for name, data in BYTES.items()
    ]
    manifest = {"schema": 2, "dataset": "imagenet", "classes": 4, "label_base": 1, "made": {"seed": 0},
                "splits": {"validation": {"images": 6, "shards": shards}}}  # fmt: skip
    (bare / "dataset.json").write_text(json.dumps(manifest))
    return bare


def refusal(directory: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        split_artefact(directory, "validation")
    return caught.value


def test_a_split_has_one_digest_with_or_without_a_manifest(bare: Path, said: Path) -> None:
    with_manifest = split_artefact(said, "validation")
    (said / "dataset.json").unlink()
    assert split_artefact(bare, "validation") == with_manifest
    assert with_manifest.sha256 == hashlib.sha256(LINES.encode()).hexdigest()
    assert (with_manifest.path, with_manifest.bytes) == (str(bare), 21)


def test_a_split_in_its_own_directory_is_the_same_split(bare: Path) -> None:
    flat = split_artefact(bare, "validation")
    (bare / "validation").mkdir()
    for name in BYTES:
        (bare / name).rename(bare / "validation" / name)
    assert split_artefact(bare, "validation") == flat


def test_shards_of_the_written_size_and_time_are_not_read(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_digest_of", lambda *_: pytest.fail("was read"))
    assert split_artefact(said, "validation").sha256 == hashlib.sha256(LINES.encode()).hexdigest()


def test_a_copy_with_another_time_is_read_and_taken(said: Path) -> None:
    os.utime(said / "validation-00001-of-00002", ns=(5, 5))
    assert split_artefact(said, "validation").sha256 == hashlib.sha256(LINES.encode()).hexdigest()


def test_other_bytes_of_the_same_size_are_refused_with_both_digests(said: Path) -> None:
    path = said / "validation-00001-of-00002"
    path.write_bytes(b"THE SECOND")
    os.utime(path, ns=(5, 5))
    message = refusal(said).message
    for data in (b"the second", b"THE SECOND"):
        assert hashlib.sha256(data).hexdigest() in message


def test_a_shard_of_another_size_is_refused(said: Path) -> None:
    (said / "validation-00001-of-00002").write_bytes(b"cut")
    assert refusal(said).message.endswith("validation-00001-of-00002' has 3 bytes, and dataset.json says 10.")


def test_a_missing_shard_is_named(said: Path) -> None:
    (said / "validation-00000-of-00002").unlink()
    assert "validation-00000-of-00002' of dataset.json cannot be read" in refusal(said).message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": "two"}'])
def test_a_damaged_manifest_is_told(said: Path, text: str) -> None:
    (said / "dataset.json").write_text(text)
    refused = refusal(said)
    assert refused.message.startswith(f"'{said}/dataset.json' cannot be read: ")
    assert refused.hint == f"Write it again with `conformance data verify {said}`."


def test_images_are_counted_where_a_manifest_counts_them(bare: Path, said: Path) -> None:
    assert (split_images(said, "validation"), split_images(said, "train")) == (6, None)
    (said / "dataset.json").unlink()
    assert split_images(bare, "validation") is None and read_manifest(bare) is None


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = ("train/n02/b.JPEG", "train/n01/c.JPEG", "train/n01/a.JPEG", "train/n01/.hidden", "val/n01/v.JPEG")
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(number))
    return tmp_path


def test_images_in_class_folders_are_counted(tree: Path) -> None:
    assert (split_images(tree, "train"), split_images(tree, "validation")) == (3, 1)
    (tree / "val").rename(tree / "validation")
    assert split_images(tree, "validation") == 1
    (tree / "train" / "train-00000-of-00001").write_bytes(b"not in a class folder")
    assert split_images(tree, "train") == 3 and split_images(tree, "calibration") is None


def test_the_digest_of_a_tree_is_of_paths_and_sizes_and_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_digest_of", lambda *_: pytest.fail("was read"))
    artefact = split_artefact(tree, "train")
    digest = hashlib.sha256(b"n01/a.JPEG 2\nn01/c.JPEG 1\nn02/b.JPEG 0\n").hexdigest()
    assert (artefact.sha256, artefact.bytes) == (f"paths-and-sizes:{digest}", 3)
    (tree / "train/n01/a.JPEG").write_bytes(b"!!")  # other bytes, the same size
    assert split_artefact(tree, "train") == artefact
    (tree / "train/n01/a.JPEG").write_bytes(b"!!!")
    longer = split_artefact(tree, "train").sha256
    (tree / "train/n01/a.JPEG").rename(tree / "train/n02/a.JPEG")
    assert len({artefact.sha256, longer, split_artefact(tree, "train").sha256}) == 3
