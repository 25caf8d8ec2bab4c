"""Runs with answers for each image, and the TFRecords that they are of, written by hand."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from report_examples import accuracy, header

from conformance.records import Artefact, Record, Run

# A scanned 3, 8 x 8 pixels, of scikit-learn's digits.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEBLAEsAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQ"
    "YEpRUk//wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAABv/EAB8QAAICAQQDAAAAAAAAAAAAAAEDAhEEAAYSEyFhcf/aAAgBAQAAPwAu"
    "o5OZslqGr6k48w9biIiE6uPD1OyTfkn4Br//2Q=="
)
LABEL_OF_LAST_IMAGE = 10


def varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def field(number: int, content: bytes) -> bytes:
    """Return a field of bytes, or of a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, bytes | int]) -> bytes:
    """Return a tf.train.Example; numbers become int64 features."""
    entries = []
    for name, value in features.items():
        if isinstance(value, int):
            kind = field(3, field(1, varint(value)))
        else:
            kind = field(1, field(1, value))
        entries.append(field(1, field(1, name.encode()) + field(2, kind)))
    return field(1, b"".join(entries))


def tfrecord(records: Sequence[bytes]) -> bytes:
    """Return a TFRecord file whose checksums are wrong."""
    return b"".join(struct.pack("<QI", len(r), 0xBAD) + r + struct.pack("<I", 0xBAD) for r in records)


def image(number: int, **changes: Any) -> bytes:
    name = f"image_{number:03}.JPEG".encode()
    features = {"image/height": 8, "image/class/label": 1, "image/encoded": JPEG, "image/filename": name}
    return example({**features, **{f"image/{key}": value for key, value in changes.items()}})


class Data:
    """``count`` images in two shards, read in turns; labels go from 1 to 10 and again."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self.directory, self.count = directory, count
        self.label = (np.arange(count) % LABEL_OF_LAST_IMAGE + 1).astype(np.uint16)
        self.filename = np.array([f"image_{number:03}.JPEG".encode() for number in range(count)])
        self.shard, self.record = (np.arange(count) % 2).astype(np.uint16), (np.arange(count) // 2).astype(np.uint32)
        self.shards = [directory / f"validation-0000{number}-of-00002" for number in range(2)]
        self.write([image(number) for number in range(count)])

    def write(self, images: Sequence[bytes]) -> None:
        for number, shard in enumerate(self.shards):
            shard.write_bytes(tfrecord(images[number::2]))

    def arrays(self, wrong: Sequence[int]) -> dict[str, np.ndarray]:
        """Return what a graph answers that takes each wrong image for one of the background."""
        prediction = self.label.copy()
        prediction[list(wrong)] = 0
        located = {"shard": self.shard, "record": self.record, "shards": np.array(list(map(str, self.shards)))}
        return {"label": self.label, "prediction": prediction, "filename": self.filename, **located}


def answered(run: Path, data: Data, precision: str, wrong: Sequence[int], **changes: Any) -> Record:
    """Return an accuracy case that is wrong on the given images, and write its files into the run's directory."""
    case = changes.pop("case", f"{precision}-accuracy-digits")
    arrays = changes.pop("arrays", data.arrays(wrong))
    run.mkdir(exist_ok=True)
    bits, answers = run / f"{case}.bits", run / f"{case}.npz"
    hits = np.ones(data.count, bool)
    hits[list(wrong)] = False
    bits.write_bytes(np.packbits(hits).tobytes())
    np.savez_compressed(answers, **arrays)
    kept = {"correct_bits": bits, "answers": answers}
    record = accuracy(precision, 0.97, 0.99)
    fields: dict[str, Any] = {
        "case": case,
        "dataset": "digits",
        "metrics": {**record.metrics, "images": float(data.count)},
        "inputs": {"data": Artefact(path=str(data.directory), sha256="da7a")},
        "artefacts": {
            name: Artefact(path=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
            for name, path in kept.items()
        },
    }
    return msgspec.structs.replace(record, **{**fields, **changes})


def run_in(directory: Path, *records: Record) -> Run:
    return Run(directory=str(directory), header=header(run=directory.name), records=records, footer=None)
