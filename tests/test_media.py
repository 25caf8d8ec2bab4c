"""By which way training images come: each of the recipe's four rules, what is said of it, and the labels."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from conformance.cases import Case
from conformance.errors import CannotRun
from conformance.fixtures.device import Hpu
from conformance.fixtures.media import FALLBACK, NOT_ALIKE, Media, decide, media_of
from conformance.fixtures.options import Options

GAUDI2 = Hpu(device_type="GAUDI2", devices=8)
NO_LOADER = "OSError: libmedia.so: cannot open shared object file"


def test_a_gaudi2_with_its_loader_and_jpegs_reads_them_by_itself() -> None:
    found = decide("hpu", GAUDI2, None, jpeg=True)
    assert found.path == "hpu_media_loader"
    assert found.note == (
        "Images by hpu_media_loader: GAUDI2 has a media engine, and none of the four rules is against it."
    )


@pytest.mark.parametrize(
    ("hpu", "forced", "jpeg", "path", "reason"),
    [
        (Hpu(device_type="GAUDI", devices=8), None, True, "tf.data from JPEG",
         "GAUDI, of the first generation, has no media engine"),
        (Hpu(device_type="GAUDI2", devices=8, media_missing=NO_LOADER), None, True, "tf.data from JPEG",
         f"hpu_media_loader cannot be imported ({NO_LOADER})"),
        (GAUDI2, "1", True, "tf.data from JPEG", "FORCE_HABANA_IMAGENET_LOADER_FALLBACK=1 is set"),
        (GAUDI2, "0", True, "tf.data from JPEG", "FORCE_HABANA_IMAGENET_LOADER_FALLBACK=0 is set"),
        (GAUDI2, "", True, "tf.data from JPEG", "FORCE_HABANA_IMAGENET_LOADER_FALLBACK= is set"),
        (GAUDI2, None, False, "tf.data from TFRecord", "there is no directory of JPEGs (--jpeg-data-dir)"),
        (Hpu(device_type="GAUDI HL-2000", devices=1), "1", False, "tf.data from TFRecord",
         "GAUDI HL-2000, of the first generation, has no media engine; "
         "FORCE_HABANA_IMAGENET_LOADER_FALLBACK=1 is set; there is no directory of JPEGs (--jpeg-data-dir)"),
    ],
)  # fmt: skip
def test_each_of_the_four_rules_leaves_the_images_to_the_cpu_and_says_so(
    hpu: Hpu, forced: str | None, jpeg: bool, path: str, reason: str
) -> None:
    assert decide("hpu", hpu, forced, jpeg) == Media(path=path, reason=reason)


def test_a_cpu_reads_what_is_there() -> None:
    assert decide("cpu", None, None, jpeg=True) == Media(path="tf.data from JPEG", reason="the device is a CPU")
    assert decide("cpu", None, "1", jpeg=False).path == "tf.data from TFRecord"


def test_only_the_loader_of_the_hpu_is_said_not_to_compare() -> None:
    assert decide("hpu", GAUDI2, None, jpeg=True).notes[1:] == (NOT_ALIKE,)
    assert len(decide("hpu", GAUDI2, "1", jpeg=True).notes) == 1


def row(device: Literal["hpu"] | None = "hpu") -> Case:
    return Case(
        id="row", model="resnext101_32x4d", mode="training", precision="bf16", dataset="imagenet", batch_size=4,
        source="here", device=device,
    )  # fmt: skip


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path | None]:
    monkeypatch.delenv(FALLBACK, raising=False)
    for name in ("jpeg/train/n01440764/n01440764_1.JPEG", "jpeg/val/n01440764/1.JPEG", "records/train-00000-of-00001"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return {"jpeg": tmp_path / "jpeg", "records": tmp_path / "records", "none": None}


def session(hpu: Hpu | CannotRun = GAUDI2, **options: Any) -> Any:
    return SimpleNamespace(options=Options(**options), hpu=hpu)


def test_what_lies_in_the_directory_decides(places: dict[str, Path | None]) -> None:
    found = {
        (place, device): getattr(media_of(session(device=device), row(), places[place]), "path", None)
        for place in places
        for device in ("cpu", "hpu")
    }
    assert found == {
        ("jpeg", "cpu"): "tf.data from JPEG", ("jpeg", "hpu"): "hpu_media_loader",
        ("records", "cpu"): "tf.data from TFRecord", ("records", "hpu"): "tf.data from TFRecord",
        ("none", "cpu"): "synthetic", ("none", "hpu"): "synthetic",
    }  # fmt: skip


def test_the_environment_decides_as_the_readme_says(
    places: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FALLBACK, "0")
    found = media_of(session(), row(), places["jpeg"])
    assert found is not None and found.path == "tf.data from JPEG"


def test_records_beside_class_folders_are_taken(places: dict[str, Path | None]) -> None:
    jpeg = places["jpeg"]
    assert jpeg is not None
    (jpeg / "train-00000-of-00001").touch()
    found = media_of(session(), row(), jpeg)
    assert found is not None and found.path == "tf.data from TFRecord"


def test_a_row_that_is_of_no_hpu_has_no_such_decision(places: dict[str, Path | None]) -> None:
    no_hpu = CannotRun("There is none.", "Buy one.")
    assert media_of(session(no_hpu), row(device=None), places["jpeg"]) is None
    with pytest.raises(CannotRun, match=r"There is none\."):
        media_of(session(no_hpu), row(), places["jpeg"])


# What follows is the subject's side: the loader is a stand-in, which no HPU is behind.


def given_by_loader(*labels: list[float]) -> Iterator[Any]:
    tf = pytest.importorskip("tensorflow")
    for own in labels:
        yield tf.zeros([len(own), 8, 8, 3]), tf.constant(own, tf.float32)


@pytest.mark.tensorflow
def test_labels_of_the_media_loader_become_those_of_the_records() -> None:
    pytest.importorskip("tensorflow")
    from conformance.data.media import labelled

    found = labelled(given_by_loader([0.0, 999.0], [[3.0], [4.0]]), "/data", "imagenet")
    assert [labels.numpy().tolist() for _, labels in itertools.islice(found, 2)] == [[1, 1000], [4, 5]]
    (_, labels), *_ = labelled_all(given_by_loader([0.0]))
    assert labels.dtype == np.int64


def labelled_all(made: Any) -> list[Any]:
    from conformance.data.media import labelled

    return list(itertools.islice(labelled(made, "/data", "imagenet"), 1))


@pytest.mark.tensorflow
@pytest.mark.parametrize("label", [-1.0, 1000.0])
def test_a_loader_that_counts_otherwise_is_found(label: float) -> None:
    pytest.importorskip("tensorflow")
    from conformance.wire import Refused

    with pytest.raises(Refused) as caught:
        labelled_all(given_by_loader([5.0, label]))
    assert caught.value.message == (
        f"The media loader gave the label {label:.0f} for an image of '/data'; 1000 classes are counted from 0, to 999."
    )


@pytest.mark.tensorflow
def test_habanas_dataset_is_asked_as_its_release_defines_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = pytest.importorskip("tensorflow")
    from conformance.data import media
    from conformance.wire import Refused

    asked: dict[str, Any] = {}
    fake = ModuleType("habana_frameworks.tensorflow.media")

    def habana_imagenet_dataset(**given: Any) -> Any:
        asked.update(given)
        return given_by_loader([7.0])

    fake.habana_imagenet_dataset = habana_imagenet_dataset  # type: ignore[attr-defined]
    for name in ("habana_frameworks", "habana_frameworks.tensorflow"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    images, labels = next(media.batches("/jpegs", 4, 224, "bf16", "imagenet"))
    assert labels.numpy().tolist() == [8] and images.shape == (1, 8, 8, 3)
    assert asked["dtype"] == tf.bfloat16 and asked["jpeg_data_dir"] == "/jpegs" and asked["is_training"] is True
    with pytest.raises(Refused, match="chose to fall back"):
        asked["fallback"](is_training=True)


@pytest.mark.tensorflow
def test_a_media_loader_that_cannot_be_imported_is_refused() -> None:
    pytest.importorskip("tensorflow")
    from conformance.data import media
    from conformance.wire import Refused

    with pytest.raises(Refused, match=r"The media loader of the HPU cannot be imported: No module named 'habana_frame"):
        media.batches("/jpegs", 4, 224, "bf16", "imagenet")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "The device 'tpu' is not known; known are cpu and hpu."),
        ({"image_type": "uint8"}, "The image_type 'uint8' is not known; known are fp32 and bf16."),
        ({"media": {"path": "hpu_media_loader", "reason": ""}, "data": "/data"},
         "The media loader of an HPU was asked for on the device 'cpu'."),
        ({"media": {"path": "hpu_media_loader", "reason": ""}, "device": "hpu"},
         "The media loader of an HPU needs class folders of JPEGs, and there are no data."),
    ],
)  # fmt: skip
def test_arguments_of_the_device_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    pytest.importorskip("tensorflow")
    from test_training_program import ARGUMENTS

    from conformance.subject.training_arguments import check
    from conformance.wire import Refused

    with pytest.raises(Refused) as caught:
        check({**ARGUMENTS, "data": None, **changes})
    assert caught.value.message == message


@pytest.mark.tensorflow
def test_the_way_of_the_images_is_in_the_log_and_in_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow")
    from test_training_program import ARGUMENTS, SMALL, Heard
    from test_training_tree import SYNSETS

    tf = pytest.importorskip("tensorflow")
    from conformance.models import resnet
    from conformance.subject.train import train

    for split, number in itertools.product(("train", "val"), range(2)):
        place = tmp_path / split / SYNSETS[number]
        place.mkdir(parents=True)
        (place / f"{SYNSETS[number]}_1.JPEG").write_bytes(
            tf.io.encode_jpeg(np.full((32, 32, 3), 90 * number, np.uint8)).numpy()
        )
    told = decide("cpu", None, None, jpeg=True).argument
    changes = {
        "data": str(tmp_path), "dataset": "imagenet", "crop": "habana", "classes": 1001, "image_size": 224,
        "train_images": 2, "batch_size": 1, "max_train_steps": 1, "epochs": 1, "epochs_between_evals": None,
        "media": told,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "small", SMALL)
        result = train({**ARGUMENTS, **changes}, Heard(), 2)  # type: ignore[arg-type]
    assert "Images by tf.data from JPEG: the device is a CPU" in capsys.readouterr().out
    assert result["media"] == told and result["device"] == "cpu" and result["placement"] is None
