"""Reading the archives' headers: where each image lies, and every archive that is not what it must be."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from archive_examples import SYNSETS, Told, labels_file, tar, train_archive, validation_archive

pytest.importorskip("numpy")

from conformance.data.archives import Index, archive_md5, index_train, index_validation
from conformance.wire import Refused

IMAGES = {
    synset: {f"{synset}_{number}.JPEG": os.urandom(700 * number) for number in (10, 2, 31)}
    for synset in reversed(SYNSETS)
}
VALIDATION = {f"ILSVRC2012_val_{number:08d}.JPEG": os.urandom(99 + number) for number in (3, 1, 2, 4, 5)}
LINES = [SYNSETS[place] for place in (3, 0, 0, 1, 2)]


def train_refusal(data: bytes, tmp_path: Path) -> Refused:
    (tmp_path / "train.tar").write_bytes(data)
    with pytest.raises(Refused) as caught:
        index_train(str(tmp_path / "train.tar"), Told())
    return caught.value


def labels_refusal(tmp_path: Path, lines: list[str]) -> Refused:
    archive = validation_archive(tmp_path / "val.tar", VALIDATION)
    with pytest.raises(Refused) as caught:
        index_validation(archive, labels_file(tmp_path / "labels.txt", lines), SYNSETS)
    return caught.value


def cut(index: Index) -> list[tuple[str, str, bytes]]:
    """Return (synset, name, bytes) of each image, read where the index says that it lies."""
    data = Path(index.archive).read_bytes()
    return [
        (index.synsets[place], name.decode(), data[offset : offset + size])
        for place, name, offset, size in zip(index.classes, index.names, index.offsets, index.sizes)
    ]


def test_every_image_is_found_where_it_lies_in_the_order_of_synset_and_name(tmp_path: Path) -> None:
    index = index_train(train_archive(tmp_path / "train.tar", IMAGES), Told())
    assert index.synsets == SYNSETS
    assert cut(index) == sorted((synset, *item) for synset, members in IMAGES.items() for item in members.items())


def test_the_order_in_an_archive_does_not_matter(tmp_path: Path) -> None:
    first = index_train(train_archive(tmp_path / "a.tar", IMAGES), Told())
    other = {synset: dict(sorted(IMAGES[synset].items())) for synset in SYNSETS}
    assert cut(index_train(train_archive(tmp_path / "b.tar", other), Told())) == cut(first)


def test_line_n_is_the_synset_of_the_nth_validation_name(tmp_path: Path) -> None:
    archive = validation_archive(tmp_path / "val.tar", VALIDATION)
    index = index_validation(archive, labels_file(tmp_path / "labels.txt", [*LINES, "", ""]), SYNSETS)
    assert cut(index) == [(line, name, VALIDATION[name]) for line, name in zip(LINES, sorted(VALIDATION))]


def test_names_of_more_than_100_letters_and_of_other_scripts_are_read(tmp_path: Path) -> None:
    names = ["n01440764_" + "9" * 150 + ".JPEG", "n01440764_1 (copy) é鯉.JPEG"]
    index = index_train(train_archive(tmp_path / "train.tar", {SYNSETS[0]: dict.fromkeys(names, b"x")}), Told())
    assert [name for _, name, _ in cut(index)] == sorted(names)


def test_the_md5_is_the_file_s(tmp_path: Path) -> None:
    path = train_archive(tmp_path / "train.tar", IMAGES)
    assert archive_md5(path, Told()) == hashlib.md5(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name",
    ["../evil.JPEG", "/etc/evil.JPEG", "a/b.JPEG", "..", ".hidden", "a\\b.JPEG", "new\nline.JPEG", "\x1b[2J.JPEG", ""],
)
def test_a_hostile_member_name_is_refused(tmp_path: Path, name: str) -> None:
    error = train_refusal(tar({f"{SYNSETS[0]}.tar": tar({"ok.JPEG": b"x", name: b"x"})}), tmp_path)
    where = f"'{SYNSETS[0]}.tar' in {str(tmp_path / 'train.tar')!r}"
    expected = f"{where} holds a member named {name!r}; a name is one of a visible file, without a directory."
    assert error.message == expected
    assert error.hint == "Give the archives as image-net.org has them; nothing was written."


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("n01440764_1.JPEG")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    error = train_refusal(tar({"n01440764.tar": stream.getvalue()}), tmp_path)
    assert "'n01440764.tar' in " in error.message
    assert error.message.endswith(" holds 'n01440764_1.JPEG', which is no plain file.")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda data: data[:5000], "{0} is cut off: 'n01440764.tar' ends at byte 20,992 of 5,000."),
        (lambda data: data[:512], "{0} is cut off: 'n01440764.tar' ends at byte 20,992 of 512."),
        (lambda data: b"", "{0} is no tar archive, or its beginning is damaged: empty file."),
        (lambda data: b"<html>404</html>" * 40, "{0} is no tar archive, or its beginning is damaged: invalid header."),
        (lambda data: data[:3584] + b"x" * 512 + data[4096:], "'n01440764.tar' in {0} is damaged at byte 3,072: "),
    ],
    ids=["half", "header", "empty", "page", "inside"],
)
def test_an_archive_that_is_cut_off_or_damaged_is_told(tmp_path: Path, damage: Any, fault: str) -> None:
    # A header, then in the inner tar a header, 2,500 bytes in 5 blocks, and at byte 3,072 the second header.
    images = tar({"n01440764_1.JPEG": b"x" * 2500, "n01440764_2.JPEG": b"y" * 9000})
    error = train_refusal(damage(tar({"n01440764.tar": images})), tmp_path)
    assert error.message.startswith(fault.format(repr(str(tmp_path / "train.tar"))))
    assert error.hint == "Get the archive again from image-net.org, and compare its MD5."


def test_an_archive_that_ends_between_two_members_is_cut_off(tmp_path: Path) -> None:
    whole = tar({f"{synset}.tar": tar({"a.JPEG": b"x"}) for synset in SYNSETS})
    error = train_refusal(whole[: 512 + 10_240], tmp_path)
    assert error.message == f"{str(tmp_path / 'train.tar')!r} is cut off: it has no end mark."


def test_a_header_that_claims_a_negative_size_is_told(tmp_path: Path) -> None:
    header = bytearray(tar({"n01440764.tar": b""})[:512])
    header[124:136] = b"\xff" * 12  # base 256: -1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "is cut off: 'n01440764.tar' ends at byte" in train_refusal(bytes(header) + bytes(10_240), tmp_path).message


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (
            {"ILSVRC2012_val_00000001.JPEG": b"x"},
            "{} holds 'ILSVRC2012_val_00000001.JPEG'; a train archive holds one n########.tar for each synset.",
        ),
        ({"n01440764.zip": b"x"}, "{} holds 'n01440764.zip'; a train archive holds one n########.tar for each synset."),
        ({"n01440764.tar": tar({})}, "'n01440764.tar' in {} holds no image."),
        ({}, "{} holds no image."),
    ],
    ids=["validation", "zip", "empty-synset", "empty"],
)
def test_an_archive_that_is_no_train_archive_is_told(tmp_path: Path, members: dict[str, bytes], sentence: str) -> None:
    assert train_refusal(tar(members), tmp_path).message == sentence.format(repr(str(tmp_path / "train.tar")))


def test_a_name_that_comes_twice_is_told(tmp_path: Path) -> None:
    twice = tar({"a.JPEG": b"x"})[:1024] + tar({"a.JPEG": b"y"})
    expected = f"'n01440764.tar' in {str(tmp_path / 'train.tar')!r} holds 'a.JPEG' twice."
    assert train_refusal(tar({"n01440764.tar": twice}), tmp_path).message == expected


def test_an_archive_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        index_train(str(tmp_path / "none.tar"), Told())
    path = str(tmp_path / "none.tar")
    assert caught.value.message == f"The archive {path!r} cannot be read: No such file or directory."


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (LINES[:4], "has 4 lines for 5 validation images."),
        ([*LINES, SYNSETS[0]], "has 6 lines for 5 validation images."),
        (["490", *LINES[1:]], "is '490', which is no synset such as 'n01440764'."),
        (["tench, Tinca tinca", *LINES[1:]], "is 'tench, Tinca tinca', which is no synset such as 'n01440764'."),
    ],
    ids=["short", "long", "numbers", "words"],
)
def test_a_wrong_labels_file_is_told(tmp_path: Path, lines: list[str], fault: str) -> None:
    error = labels_refusal(tmp_path, lines)
    assert f"labels file {str(tmp_path / 'labels.txt')!r}" in error.message
    assert error.message.endswith(fault)
    assert error.hint.startswith("Give imagenet_2012_validation_synset_labels.txt: ")


def test_a_class_that_the_train_archive_lacks_is_named(tmp_path: Path) -> None:
    error = labels_refusal(tmp_path, [*LINES[:2], "n09999999", *LINES[3:]])
    path = str(tmp_path / "labels.txt")
    expected = f"Line 3 of the labels file {path!r} is 'n09999999', and the train archive lacks n09999999.tar."
    assert error.message == expected


def test_a_labels_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    archive = validation_archive(tmp_path / "val.tar", VALIDATION)
    with pytest.raises(Refused, match=r"The labels file '.*val\.tar' cannot be read: it is no text\."):
        index_validation(archive, archive, SYNSETS)
