"""``conformance data``: from archives to a data set by the command line, and mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_examples import SYNSETS, labels_file, train_archive, validation_archive

from conformance.cli import OK, USAGE, main
from conformance.commands.data import spread_of, verified_lines


def told(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """Return what a command prints that succeeds; its progress is on stderr."""
    status = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert status == OK, err
    assert err.startswith("import TensorFlow\n")
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: Any) -> list[str]:
    status = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert (status, out) == (USAGE, "")
    return err.splitlines()


@pytest.mark.tensorflow
def test_archives_become_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tf = pytest.importorskip("tensorflow")

    def jpegs(stem: str, first: int) -> dict[str, bytes]:
        pixels = np.zeros((9, 9, 3), np.uint8)
        return {f"{stem}_{n}.JPEG": tf.io.encode_jpeg(pixels + n).numpy() for n in range(first, first + 3)}

    train = train_archive(tmp_path / "t.tar", {s: jpegs(s, 9 * n) for n, s in enumerate(SYNSETS)})
    validation = validation_archive(tmp_path / "v.tar", jpegs("ILSVRC2012_val", 100))
    labels = labels_file(tmp_path / "labels.txt", list(SYNSETS[:3]))
    output = tmp_path / "out"
    command = ("data", "imagenet", "--train-archive", train, "--validation-archive", validation, "--labels", labels)
    out = told(capsys, *command, "--output", output, "--no-checksum", "--jpeg-tree", "--train-shards", 2)
    assert out.startswith(f"{output}: imagenet, 4 classes\n  train") and " 12 images in 2 files, SHA-256" in out
    assert (output / "jpeg" / "val" / SYNSETS[0] / "ILSVRC2012_val_100.JPEG").exists()


def test_what_a_verified_data_set_holds_is_a_table() -> None:
    splits = {
        "train": {"images": 1_281_167, "shards": 1024, "decoded": 80_524, "histogram": [732, 1300], "sha256": "a" * 64},
        "validation": {"images": 49_999, "shards": 128, "decoded": 3126, "histogram": [50, 49], "sha256": "b" * 64},
    }
    found = {
        "dataset": "imagenet",
        "made": {"by": "conformance data verify"},
        "splits": splits,
        "duplicates": {"images": 2, "first": "one and the other"},
        "note": "as dataset.json says",
    }
    assert verified_lines(Path("data"), found) == [
        "data: imagenet, every record is right; as dataset.json says.",
        "  split            images  shards    decoded  images of a class",
        "  train         1,281,167   1,024     80,524  732 to 1,300, median 732",
        "  validation       49,999     128      3,126  49 to 50, median 49; ImageNet's has 50,000 images",
        f"  train        SHA-256 {'a' * 64}",
        f"  validation   SHA-256 {'b' * 64}",
        "  In validation too, byte for byte: 2; the first: one and the other.",
    ]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            "imagenet --output x",
            "The following arguments are required: --train-archive, --validation-archive, --labels.",
        ),
        ("subset x --images 5 --output y --seed -1", "Seed -1 was given; allowed are 0 to 4294967295."),
        ("verify", "The following arguments are required: DIR."),
        ("digits --outptu x", "The following arguments are required: --output."),
        ("verfy x", "Unknown command 'verfy' (did you mean 'verify'?); known: digits, imagenet, subset, verify."),
    ],
)
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str], argv: str, error: str) -> None:
    assert refused(capsys, "data", *argv.split())[0] == f"error: {error}"


@pytest.mark.parametrize(
    ("histogram", "words"),
    [
        ([1300, 732, 1300], "732 to 1,300, median 1,300"),
        ([50] * 1000, "50"),
        ([0, 1, 0], "1, and 2 of 3 classes have none"),
    ],
)
def test_a_histogram_of_classes_is_told_by_its_ends(histogram: list[int], words: str) -> None:
    assert spread_of(histogram) == words
