"""Flips: which images are right in one case and wrong in another, and their pictures out of the records."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flip_examples import JPEG, Data, answered, example, field, image, run_in, tfrecord, varint

from conformance.judging.statistics import mcnemar
from conformance.records import Artefact, Record, Run
from conformance.reports.answers import read_answers
from conformance.reports.entries import entries
from conformance.reports.flips import CLASSES, IMAGES, PAGE_BYTES, PICTURES, Flips, Part, Unreadable, flips, mcnemar_p
from conformance.reports.page import page
from conformance.reports.pictures import features, jpeg, records

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "tfrecords", 40)


def found(*runs: Run) -> Flips:
    section = flips(runs, entries(runs))
    assert section
    return section


def pair(directory: Path, data: Data, wrong: tuple[list[int], list[int]]) -> Part:
    """Return what int8 says beside fp32, each wrong on the given images."""
    one, other = (answered(directory, data, precision, w) for precision, w in zip(("fp32", "int8"), wrong, strict=True))
    (part,) = found(run_in(directory, one, other)).parts
    return part


def texts(part: Part, name: str) -> list[tuple[str, ...]]:
    return [tuple(cell.text for cell in row.cells) for row in getattr(part, name).rows]


def test_a_record_is_found_behind_others(tmp_path: Path) -> None:
    shard = tmp_path / "shard"
    shard.write_bytes(tfrecord([b"zero", b"", b"two", b"three" * 1000, b"four"]))
    assert list(records(shard, [4, 2, 2])) == [(2, b"two"), (4, b"four")]


def test_records_before_the_damage_are_still_good(tmp_path: Path) -> None:
    shard = tmp_path / "shard"
    contents = [(0, b"zero"), (1, b"one"), (2, b"two")]
    whole = tfrecord([content for _, content in contents])
    ends = [20, 39, 58]
    for cut in range(len(whole)):
        shard.write_bytes(whole[:cut])
        read: list[tuple[int, bytes]] = []
        with pytest.raises(Unreadable, match="its shard ends before its record|a record is longer than the file"):
            read.extend(each for each in records(shard, range(3)))
        assert read == contents[: sum(end <= cut for end in ends)]


@pytest.mark.parametrize(
    ("length", "reason"),
    [(2**63, "its shard is damaged: a record is longer than the file"), (1, "its shard ends before its record")],
)
def test_a_length_that_cannot_be_is_damage(tmp_path: Path, length: int, reason: str) -> None:
    shard = tmp_path / "shard"
    shard.write_bytes(struct.pack("<QI", length, 0) + b"x" + bytes(4))
    with pytest.raises(Unreadable, match=reason):
        list(records(shard, [1]))


def test_a_record_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    shard = tmp_path / "shard"
    shard.write_bytes(struct.pack("<QI", 1 << 30, 0))
    os.truncate(shard, (1 << 30) + 16)
    with pytest.raises(Unreadable, match="its record has 1,073,741,824 bytes, too many for an image"):
        list(records(shard, [0]))


def test_a_shard_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "nothing", "."):
        with pytest.raises(Unreadable, match="its shard is not there any more"):
            list(records(tmp_path / name, [0]))


def test_bytes_are_taken_out_of_an_example_and_the_rest_is_passed_over() -> None:
    strange = varint(7 << 3 | 1) + bytes(8) + varint(8 << 3 | 5) + bytes(4) + varint(9 << 3) + varint(2**63)
    twice = field(1, field(1, field(1, b"a") + field(2, field(1, field(1, b"first") + field(1, b"second")))))
    whole = strange + example({"image/height": 300, "image/encoded": JPEG * 3, "image/format": b""}) + twice
    assert features(whole) == {"image/encoded": JPEG * 3, "image/format": b"", "a": b"first"}


def test_what_is_cut_off_or_garbled_is_never_taken_for_an_example() -> None:
    whole = image(7)
    for cut in range(1, len(whole)):
        with pytest.raises(Unreadable, match="its record is cut off"):
            features(whole[:cut])
    with pytest.raises(Unreadable, match=r"its record is no tf\.train\.Example"):
        features(b"\x0b")
    with pytest.raises(Unreadable, match="its record is cut off"):
        features(b"\x80" * 20)
    draw = np.random.default_rng(0)
    for _ in range(300):
        garbled = bytearray(whole)
        garbled[draw.integers(len(whole))] = draw.integers(256)
        try:
            features(bytes(garbled))
        except Unreadable:
            pass


def test_a_jpeg_says_its_size_and_anything_else_is_refused() -> None:
    assert jpeg(JPEG)[1:] == (8, 8)
    assert jpeg(b"\xff\xd8\xff\xff\xff\xc0\x00\x11\x08\x01\x02\x03\x04")[1:] == (0x0304, 0x0102)
    for other, reason in {b"\x89PNG": "no JPEG", b"": "no JPEG", JPEG[:50]: "no whole JPEG"}.items():
        with pytest.raises(Unreadable, match=reason):
            jpeg(other)


@pytest.mark.tensorflow
def test_what_tensorflow_writes_is_read_without_it(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    shard = tmp_path / "validation-00000-of-00001"
    encoded = [tf.io.encode_jpeg(np.full((5, 1 + n, 3), 9 * n, np.uint8)).numpy() for n in range(20)]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for number, content in enumerate(encoded):
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number + 1])),
                "image/object/bbox/xmin": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 0.25])),
                "image/filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"%d.JPEG" % number])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    read = {number: features(data) for number, data in records(shard, [3, 17])}
    assert read == {n: {"image/encoded": encoded[n], "image/filename": b"%d.JPEG" % n} for n in (3, 17)}
    assert jpeg(read[17]["image/encoded"])[1:] == (18, 5)


def test_images_are_counted_by_who_is_right(tmp_path: Path, data: Data) -> None:
    wrong = [0, 1, 2], [2, 3, 4, 5, 6, 7]
    run = run_in(
        tmp_path / "run",
        *(answered(tmp_path / "run", data, p, w) for p, w in zip(("fp32", "int8"), wrong, strict=True)),
    )
    section = found(run)
    assert [cell.text for cell in section.table.rows[0].cells] == [
        "int8-accuracy-digits", "fp32", "40", "32", "1", "5", "2", "0.4531",
    ]  # fmt: skip
    said = "int8 is wrong on 5 of 40 images that fp32 has right, and right on 2 that fp32 has wrong."
    assert section.parts[0].sentences == (said,)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (0, 1), (1, 7), (24, 4), (700, 500)])
def test_the_p_is_that_of_the_judges(lost: int, gained: int) -> None:
    judged = mcnemar([1] * lost + [0] * gained + [1], [0] * lost + [1] * gained + [1])
    assert mcnemar_p(lost, gained) == pytest.approx(judged.p, rel=1e-9)


def test_a_p_that_would_be_shown_as_nothing_is_shown_as_small(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    listed = answered(run, data, "fp32", []), answered(run, data, "int8", range(30))
    assert found(run_in(run, *listed)).table.rows[0].cells[-1].text == "below 0.0001"


def test_flipped_images_have_their_file_their_class_and_both_answers(tmp_path: Path, data: Data) -> None:
    part = pair(tmp_path / "run", data, ([1], [12, 3]))
    assert texts(part, "images") == [
        ("image_001.JPEG", "2", "0", "2", "gained"),
        ("image_003.JPEG", "4", "4", "0", "lost"),
        ("image_012.JPEG", "3", "3", "0", "lost"),
    ]
    assert part.images
    assert part.images.rows[2].cells[0].small == "record 6 of validation-00000-of-00002"
    assert part.summary == "All 3 flipped images"


def test_the_classes_with_the_most_flips_stand_first(tmp_path: Path, data: Data) -> None:
    part = pair(tmp_path / "run", data, ([5, 15], [2, 12, 22, 25, 0]))
    assert texts(part, "classes") == [("3", "4", "3", "0"), ("6", "4", "1", "2"), ("1", "4", "1", "0")]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"label_base": 1, "synsets": [f"n{i:08}" for i in range(1, 11)]}, "n00000003"),
        ({"label_base": 1, "synsets": None}, ""),
        ({"label_base": "one", "synsets": ["n1"]}, ""),
        ([], ""),
    ],
)
def test_classes_have_the_names_that_the_data_gives_them(tmp_path: Path, data: Data, said: Any, name: str) -> None:
    (data.directory / "dataset.json").write_text(json.dumps(said))
    part = pair(tmp_path / "run", data, ([], [2]))
    assert part.classes and part.images
    assert part.classes.rows[0].cells[0].small == name
    assert part.images.rows[0].cells[1].small == name
    assert part.pictures[0].label == (f"class 3 ({name})" if name else "class 3")


def test_what_is_too_long_is_cut_and_told(tmp_path: Path) -> None:
    data = Data(tmp_path / "tfrecords", 500)
    arrays = data.arrays(range(450)) | {
        "label": np.arange(500).astype(np.uint16),
        "prediction": np.zeros(500, np.uint16),
    }
    right = arrays | {"prediction": arrays["label"]}
    run = tmp_path / "run"
    listed = (
        answered(run, data, "fp32", [], arrays=right),
        answered(run, data, "int8", range(1, 500), arrays=arrays),
    )
    (part,) = found(run_in(run, *listed)).parts
    assert part.images and part.classes
    assert (len(part.images.rows), len(part.classes.rows), len(part.pictures)) == (IMAGES, CLASSES, PICTURES)
    assert part.summary == "The first 100 flipped images in the order of reading, and 399 more"
    assert part.classes.caption == "Classes with the most flips, 20 of 499"
    assert part.sentences[1:] == ("Pictures are of the first 24 in the order of reading.",)


def test_a_pair_without_flips_says_so_in_one_sentence(tmp_path: Path, data: Data) -> None:
    part = pair(tmp_path / "run", data, ([3, 9], [3, 9]))
    assert part.sentences == ("No image flipped: both are right on the same 38 of 40 images.",)
    assert not (part.pictures or part.images or part.classes)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {"data": Artefact(path="elsewhere", sha256="07e4")}},
        {"inputs": {"data": Artefact(path="elsewhere")}},
        {"inputs": {}},
        {"metrics": {"images": 39.0}},
        {"metrics": {}},
        {"model": "resnet101"},
        {"dataset": "imagenet"},
        {"stack": "tf215"},
        {"mode": "speedup"},
        {"artefacts": {}},
    ],
    ids=lambda changes: str(*changes),
)
def test_cases_that_are_not_of_the_same_images_are_no_pair(tmp_path: Path, data: Data, changes: dict[str, Any]) -> None:
    run = tmp_path / "run"
    listed = answered(run, data, "fp32", [1]), answered(run, data, "int8", [2], **changes)
    assert flips([run_in(run, *listed)], entries([run_in(run, *listed)])) is None


def test_a_case_is_held_against_fp32_beside_it_and_against_itself_elsewhere(tmp_path: Path, data: Data) -> None:
    runs = []
    for name, stack in (("a", "tf"), ("b", "tf215"), ("c", "tf")):
        listed = [answered(tmp_path / name, data, precision, [], stack=stack) for precision in ("int8", "fp32")]
        runs.append(run_in(tmp_path / name, *listed))
    assert [part.title for part in found(*runs).parts] == [
        "int8 against fp32",
        "fp32 · tf215 · run 2 against fp32 · tf · run 1",
        "int8 against fp32",
        "int8 · tf215 · run 2 against int8 · tf · run 1",
        "fp32 · run 3 against fp32 · run 1",
        "int8 against fp32",
        "int8 · run 3 against int8 · run 1",
    ]


def test_two_stacks_of_one_run_are_held_against_each_other(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    listed = [
        answered(run, data, "bf16", [n], stack=stack, case=f"bf16-accuracy-{stack}", started_at=f"2026-11-21T12:0{n}")
        for n, stack in enumerate(("tf28", "tf215"))
    ]
    (part,) = found(run_in(run, *listed)).parts
    assert part.title == "bf16 · tf215 against bf16 · tf28"


def test_pairs_beyond_those_in_full_are_counted(tmp_path: Path, data: Data) -> None:
    runs = [run_in(tmp_path / str(n), answered(tmp_path / str(n), data, "fp32", [n])) for n in range(23)]
    section = found(*runs)
    assert (len(section.table.rows), len(section.parts)) == (22, 10)
    assert section.note == "These are the first 10 of 22 pairs in full."


def test_bits_alone_are_counted_and_what_they_do_not_tell_is_said(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    fp32, int8 = answered(run, data, "fp32", [1]), answered(run, data, "int8", [2, 3])
    bits = msgspec.structs.replace(int8, artefacts={"correct_bits": int8.artefacts["correct_bits"]})
    section = found(run_in(run, fp32, bits))
    assert [cell.text for cell in section.table.rows[0].cells[3:7]] == ["37", "0", "2", "1"]
    assert section.parts[0].sentences[1] == (
        "Which classes and images is not known. int8: the run kept which answers were right, not the answers."
    )


def damaged(run: Path, record: Record, name: str, content: bytes, sha256: str | None = None) -> Record:
    """Return the record with other content in one of its artefacts, which has the given digest."""
    artefact = record.artefacts[name]
    (run / artefact.path).write_bytes(content)
    artefacts = {**record.artefacts, name: msgspec.structs.replace(artefact, sha256=sha256)}
    return msgspec.structs.replace(record, artefacts=artefacts)


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip", b"PK\x03\x04" + bytes(200), b"\x93NUMPY\x01\x00"])
def test_damaged_answers_leave_the_bits_to_count(tmp_path: Path, data: Data, content: bytes) -> None:
    run = tmp_path / "run"
    answers = read_answers(run, damaged(run, answered(run, data, "int8", [4]), "answers", content))
    assert answers.images is None
    assert answers.missing.startswith("its answers are ")
    assert np.flatnonzero(~answers.hits).tolist() == [4]


def test_every_byte_of_the_answers_may_be_wrong(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    record = answered(run, data, "int8", [4])
    whole = (run / record.artefacts["answers"].path).read_bytes()
    for place in range(0, len(whole), 7):
        garbled = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        answers = read_answers(run, damaged(run, record, "answers", garbled))
        assert np.flatnonzero(~answers.hits).tolist() == [4]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"label": np.ones(39, np.uint16)}, r"its answers have label as uint16 \[39\], for 40 images"),
        ({"label": np.ones(40)}, r"its answers have label as float64 \[40\], for 40 images"),
        ({"filename": np.array(["a"] * 40)}, r"its answers have filename as <U1 \[40\], for 40 images"),
        ({"shard": np.full(40, 2, np.uint16)}, "its answers name shards that they do not list"),
        ({"shards": np.array([None, None])}, "its answers are damaged: Object arrays cannot be loaded"),
    ],
)
def test_answers_that_do_not_fit_are_refused(tmp_path: Path, data: Data, changes: Any, missing: str) -> None:
    run = tmp_path / "run"
    record = answered(run, data, "int8", [4], arrays=data.arrays([4]) | changes)
    answers = read_answers(run, record)
    assert answers.images is None
    with pytest.raises(AssertionError, match=missing):
        raise AssertionError(answers.missing)


def test_files_that_are_gone_or_others_are_told_and_nothing_is_compared(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    fp32, int8 = answered(run, data, "fp32", [1]), answered(run, data, "int8", [2])
    (run / int8.artefacts["answers"].path).unlink()
    other = damaged(run, int8, "correct_bits", bytes(5), sha256="0" * 64)
    section = found(run_in(run, fp32, other))
    assert [cell.text for cell in section.table.rows[0].cells[3:]] == ["\N{EN DASH}"] * 5
    assert section.parts[0].sentences == (
        "Not compared: int8: 'int8-accuracy-digits.bits' is not the file that the run wrote: its SHA-256 is another.",
    )
    short = damaged(run, int8, "correct_bits", bytes(4))
    assert found(run_in(run, fp32, short)).parts[0].sentences == (
        "Not compared: int8: 'int8-accuracy-digits.bits' holds 4 bytes, and 40 images need 5.",
    )


def test_answers_in_another_order_are_not_compared(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    turned = {name: array if name == "shards" else array[::-1] for name, array in data.arrays([2]).items()}
    listed = answered(run, data, "fp32", [1]), answered(run, data, "int8", [37], arrays=turned)
    assert found(run_in(run, *listed)).parts[0].sentences == (
        "Not compared: the answers are not of the same images in the same order.",
    )


def test_shards_that_lie_elsewhere_are_still_the_same_images(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    moved = data.arrays([2]) | {"shards": np.array(["/gone/validation-00000", "/gone/validation-00001"])}
    listed = answered(run, data, "fp32", [1], arrays=moved | {"prediction": data.arrays([1])["prediction"]})
    (part,) = found(run_in(run, listed, answered(run, data, "int8", [2]))).parts
    assert [picture.file for picture in part.pictures] == ["image_001.JPEG", "image_002.JPEG"]


def test_a_picture_is_that_of_its_image_and_says_in_words_what_it_shows(tmp_path: Path, data: Data) -> None:
    marked = [image(number, encoded=JPEG + bytes([number])) for number in range(40)]
    data.write(marked)
    part = pair(tmp_path / "run", data, ([1], [12]))
    assert [picture.jpeg.data[-1] for picture in part.pictures] == [1, 12]
    assert [picture.alt for picture in part.pictures] == [
        "image_001.JPEG: class 2; fp32: 0; int8: 2",
        "image_012.JPEG: class 3; fp32: 3; int8: 0",
    ]
    assert [picture.flip for picture in part.pictures] == ["gained", "lost"]
    assert all(picture.pixelated for picture in part.pictures)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoded": JPEG + bytes(300_000)}, "its file is larger than 300 kB"),
        ({"encoded": b"\x89PNG"}, "it is no JPEG"),
        ({"encoded": JPEG[:50]}, "it is no whole JPEG"),
        ({"filename": b"other.JPEG"}, "another image stands in its place now"),
    ],
)
def test_a_picture_that_cannot_be_shown_is_left_out_and_told(
    tmp_path: Path, data: Data, changes: dict[str, bytes], reason: str
) -> None:
    data.write([image(number, **(changes if number == 2 else {})) for number in range(40)])
    part = pair(tmp_path / "run", data, ([], [1, 2, 3]))
    assert [picture.file for picture in part.pictures] == ["image_001.JPEG", "image_003.JPEG"]
    assert part.sentences[1:] == (f"No picture of 1 of the first 3: {reason}.",)
    assert len(texts(part, "images")) == 3


def test_without_the_data_there_is_the_table_and_the_reason(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    data.shards[0].unlink()
    data.shards[1].write_bytes(data.shards[1].read_bytes()[:20])
    part = pair(run, data, ([], [0, 1, 2]))
    assert not part.pictures
    assert len(texts(part, "images")) == 3
    assert part.sentences[1:] == (
        "No picture of 2 of the first 3: its shard is not there any more.",
        "No picture of 1 of the first 3: its shard is damaged: a record is longer than the file.",
    )


def test_the_pictures_of_a_page_stay_within_its_limit(tmp_path: Path, data: Data) -> None:
    data.write([image(number, encoded=JPEG + bytes(290_000)) for number in range(40)])
    run = tmp_path / "run"
    wrong = {"fp32": [], "bf16": [1], "int8": list(range(20))}
    first, second = found(run_in(run, *(answered(run, data, p, w) for p, w in wrong.items()))).parts
    assert (len(first.pictures), len(second.pictures)) == (1, 1)
    assert sum(len(picture.jpeg.uri) for part in (first, second) for picture in part.pictures) <= PAGE_BYTES
    assert second.sentences[1:] == ("No picture of 19 of the first 20: the pictures of a page may take 0.78 MB.",)


def test_hostile_names_stay_text_on_the_page(tmp_path: Path, data: Data) -> None:
    hostile = HOSTILE.encode()
    data.filename = np.array([hostile, b"\xe2\x80\xaegpj.exe", b"\xff\x00\x1b[31m" + b"x" * 500] + [b"same"] * 37)
    data.write([image(number, filename=name) for number, name in enumerate(data.filename.tolist())])
    said = {"label_base": 1, "synsets": [HOSTILE] * 10}
    (data.directory / "dataset.json").write_text(json.dumps(said))
    run = tmp_path / "run"
    changes: dict[str, Any] = {"model": HOSTILE, "stack": HOSTILE}
    listed = [answered(run, data, p, w, **changes) for p, w in (("fp32", [0]), ("int8", [1, 2, 3]))]
    shards = np.array([f"{data.shards[0]}", f"/{HOSTILE}"])
    listed.append(answered(run, data, "bf16", [5], arrays=data.arrays([5]) | {"shards": shards}, **changes))
    html = page([run_in(run, *listed)])
    assert html.count("<script") == 2  # the page's own: what it does, and the rows of the first table
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "x" * 101 not in html
    assert html.count("&lt;script&gt;") > 20
    assert html.count("<img ") == 5


def test_pictures_on_the_page_are_data_and_allowed_by_its_policy(tmp_path: Path, data: Data) -> None:
    run = tmp_path / "run"
    listed = [answered(run, data, p, w) for p, w in (("fp32", [0]), ("int8", [1]))]
    html = page([run_in(run, *listed)])
    assert html.count('<img src="data:image/jpeg;base64,/9j/') == html.count("<img ") == 2
    assert "img-src data:;" in html
    assert '<a href="#flips">' in html
    assert '<section id="flips">' in html


def test_without_a_pair_there_is_no_section(tmp_path: Path, data: Data) -> None:
    html = page([run_in(tmp_path / "run", answered(tmp_path / "run", data, "fp32", [0]))])
    assert 'id="accuracy"' in html
    assert "#flips" not in html.replace("#flips p", "").replace("#flips details", "")
    assert 'id="flips"' not in html
