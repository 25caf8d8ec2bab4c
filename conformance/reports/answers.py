"""What a graph answered for each image, as the files of a run have it."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from conformance.records import Artefact, Record
from conformance.reports.pictures import Unreadable

_DAMAGED = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_KINDS = {"label": "u", "prediction": "u", "filename": "S", "shard": "u", "record": "u"}


class Images(NamedTuple):
    """The judged images in the order of reading, [N] each but ``shards``, the paths that ``shard`` counts.

    ``record`` is the image's number in its shard, from 0.
    """

    label: npt.NDArray[np.unsignedinteger]
    prediction: npt.NDArray[np.unsignedinteger]
    filename: npt.NDArray[np.bytes_]
    shard: npt.NDArray[np.unsignedinteger]
    record: npt.NDArray[np.unsignedinteger]
    shards: npt.NDArray[np.str_]

    def are_those_of(self, other: Images) -> bool:
        """Say whether these are the same images in the same order, wherever their shards lie."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _KINDS if name != "prediction")


class Answers(NamedTuple):
    """Which images got a right answer, bool [N]; ``images`` is None for the reason that ``missing`` tells."""

    hits: npt.NDArray[np.bool_]
    images: Images | None
    missing: str = ""


def read_answers(directory: Path, record: Record) -> Answers:
    """Read the answers of an accuracy case, or at least its bits; raises Unreadable when there are neither."""
    count = int(record.metrics["images"])
    if "answers" not in record.artefacts:
        return Answers(_bits(directory, record, count), None, "the run kept which answers were right, not the answers")
    try:
        images = _images(content(directory, record.artefacts["answers"]), count)
    except Unreadable as error:
        return Answers(_bits(directory, record, count), None, str(error))
    return Answers(images.label == images.prediction, images)


def _bits(directory: Path, record: Record, count: int) -> npt.NDArray[np.bool_]:
    if "correct_bits" not in record.artefacts:
        raise Unreadable("its answers cannot be read, and it has no bits")
    artefact = record.artefacts["correct_bits"]
    data = content(directory, artefact)
    if len(data) != (count + 7) // 8:
        raise Unreadable(f"{artefact.path!r} holds {len(data):,} bytes, and {count:,} images need {(count + 7) // 8:,}")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool)


def content(directory: Path, artefact: Artefact) -> bytes:
    """Return a file of a run; raises Unreadable where it is missing, elsewhere, or another than the run wrote."""
    path = directory / artefact.path
    if not path.resolve().is_relative_to(directory.resolve()):
        raise Unreadable(f"{artefact.path!r} is not in the run's directory")
    if not path.is_file():
        raise Unreadable(f"there is no file {artefact.path!r} in the run")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{artefact.path!r} cannot be read: {error.strerror}") from None
    if artefact.sha256 and hashlib.sha256(data).hexdigest() != artefact.sha256:
        raise Unreadable(f"{artefact.path!r} is not the file that the run wrote: its SHA-256 is another")
    return data


def _images(data: bytes, count: int) -> Images:
    """Return the arrays of an .npz whose kinds and lengths are right."""
    if not data.startswith(b"PK"):  # np.load takes other files as well
        raise Unreadable("its answers are no .npz")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            images = Images(*(arrays[name] for name in Images._fields))
    except _DAMAGED as error:
        raise Unreadable(f"its answers are damaged: {error}") from None
    for name, kind in _KINDS.items():
        array = getattr(images, name)
        if array.dtype.kind != kind or array.shape != (count,):
            raise Unreadable(f"its answers have {name} as {array.dtype} {list(array.shape)}, for {count:,} images")
    if images.shards.dtype.kind != "U" or images.shards.ndim != 1 or images.shard.max(initial=0) >= images.shards.size:
        raise Unreadable("its answers name shards that they do not list")
    return images
