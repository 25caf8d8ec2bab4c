"""A seeded, class-balanced sample of a split, its records copied byte for byte.

Of ``train`` it becomes a split of its own name, ``calibration``: int8 is never calibrated on validation images.
"""

import os
import shutil
import tempfile
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from conformance.data import manifest, storage
from conformance.data.imagenet import fields, read_shard
from conformance.data.parallel import Count, spread
from conformance.data.shards import shard_name
from conformance.wire import Refused

FRAME_BYTES = 16  # of a record in a TFRecord file: length, its checksum, and the record's own after it
_IMAGES_A_SHARD = 500


class Request(NamedTuple):
    """``source`` is the split to draw from, ``split`` the one that is written."""

    directory: str
    output: str
    images: int
    seed: int
    source: str = "validation"
    split: str = "validation"


class Contents(NamedTuple):
    """The records of one shard."""

    labels: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N], bytes without the frame


def draw(request: Request, threads: int, told: Any) -> manifest.Manifest:
    """Write the sample and its dataset.json, complete or not at all; return what it says.

    Raises Refused for a data set that has no dataset.json or is not what that says, for more images than there are,
    and for an output that is not empty.
    """
    said = manifest.read(request.directory)
    manifest.check(request.directory, said)
    if request.source not in said.splits:
        raise Refused(f"{request.directory!r} has no split {request.source!r}.", "Name the whole data set.")
    source = said.splits[request.source]
    if not 1 <= request.images <= source.images:
        message = f"{request.images:,} images were asked for; allowed are 1 to {source.images:,}"
        raise Refused(f"{message}, as many as {request.source} has.", "Ask for fewer images.")
    storage.require_empty(request.output)
    told.phase(f"read the labels of {request.source}")
    paths = [os.path.join(request.directory, shard["name"]) for shard in source.shards]
    found = dict(spread(_contents, paths, threads, told, source.images))
    contents = [found[path] for path in paths]
    labels = np.concatenate([shard.labels for shard in contents])
    chosen = balanced(labels, request.images, request.seed)
    parent = os.path.dirname(os.path.abspath(request.output))
    storage.make_folder(parent)
    with storage.writing(request.output):
        partial = tempfile.mkdtemp(prefix=".subset-", dir=parent)
    try:
        told.phase("copy records")
        split = _write(partial, request.split, paths, contents, chosen)
        origin = {"sha256": source.sha256, "images": source.images, "split": request.source}
        made = {"by": "conformance data subset", "seed": request.seed, "subset_of": {**origin, "made": said.made}}
        whole = manifest.Manifest(said.dataset, said.classes, said.synsets, made, {request.split: split})
        with storage.writing(request.output):
            manifest.write(partial, whole)
            os.chmod(partial, 0o755)
            os.replace(partial, request.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return whole


def balanced(labels: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Return the places of ``images`` labels in a seeded order: as many of each class, give or take one.

    Raises Refused when a class has too few.
    """
    # RandomState, because its stream is the same in every NumPy.
    rng = np.random.RandomState(seed)
    classes = np.unique(labels)
    each, rest = divmod(images, len(classes))
    wanted = dict.fromkeys(classes.tolist(), each)
    for label in rng.permutation(classes)[:rest].tolist():
        wanted[label] += 1
    chosen: List[np.ndarray] = []
    for label, count in wanted.items():
        members = np.flatnonzero(labels == label)
        if len(members) < count:
            message = f"Label {label} has {len(members)} images, and {count} of each are needed for {images:,} in all."
            raise Refused(message, f"Ask for {int(np.unique(labels, return_counts=True)[1].min()) * len(classes):,}.")
        chosen.append(rng.permutation(members)[:count])
    return rng.permutation(np.concatenate(chosen))


def _contents(path: str, count: Count) -> Contents:
    labels, sizes = [], []
    for number, record in enumerate(read_shard(path)):
        count.one_more()
        try:
            labels.append(fields(record).label)
        except ValueError as error:
            raise Refused(f"Record {number} of {path!r} {error}.", "Run `conformance data verify` on it.") from None
        sizes.append(len(record))
    return Contents(np.array(labels, np.int64), np.array(sizes, np.int64))


def _write(
    directory: str, split: str, paths: List[str], contents: List[Contents], chosen: np.ndarray
) -> manifest.Split:
    firsts = np.cumsum([0] + [len(shard.labels) for shard in contents])
    parts = np.array_split(chosen, -(-len(chosen) // _IMAGES_A_SHARD))
    facts: List[Dict[str, Any]] = []
    for number, part in enumerate(parts):
        shards = np.searchsorted(firsts, part, side="right") - 1
        places = [(int(shard), int(place - firsts[shard])) for shard, place in zip(shards, part)]
        name = shard_name(split, number, len(parts))
        sha256 = storage.write_shard(os.path.join(directory, name), _records(paths, contents, places))
        facts.append(manifest.shard_facts(directory, name, len(part), sha256))
    return manifest.split_of(facts)


def _records(paths: List[str], contents: List[Contents], places: List[Tuple[int, int]]) -> Iterator[bytes]:
    """Yield records by (shard, place in it), each read at its offset."""
    for shard, place in places:
        sizes = contents[shard].sizes
        offset = int(sizes[:place].sum()) + place * FRAME_BYTES + 12
        try:
            with open(paths[shard], "rb", buffering=0) as file:
                yield os.pread(file.fileno(), int(sizes[place]), offset)
        except OSError as error:
            message = f"{paths[shard]!r} cannot be read: {error.strerror}."
            raise Refused(message, "Run the same command again.") from None
