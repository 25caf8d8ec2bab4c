"""From the archives of ILSVRC2012 to TFRecords, and to class folders of JPEGs for a media loader.

Each image is decoded once, which is how a bad one is found. A shard is complete or absent, so that a conversion that
was killed goes on with the shards that are left.
"""

import os
from collections import Counter
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple

import numpy as np

from conformance.data import archives, journal, jpegs, manifest, storage
from conformance.data.archives import Index
from conformance.data.imagenet import LABELS, example
from conformance.data.parallel import Count, spread
from conformance.data.shards import file_sha256, shard_name
from conformance.wire import Refused

LAYOUTS = ("flat", "subdirs", "both")
MD5 = {"train": "1d675b47d978889d74fa0da5fadfb00e", "validation": "29b22e2961454d5413ddabcf34fc5622"}
FOLDERS = {"train": "train", "validation": "val"}  # of the JPEG tree, as Gaudi2's media loader wants them


class Request(NamedTuple):
    """What is converted: paths, and how it is laid out; ``layout`` is one of LAYOUTS."""

    train_archive: str
    validation_archive: str
    labels: str
    output: str
    layout: str = "flat"
    jpeg_tree: bool = False
    checksum: bool = True
    seed: int = 0
    train_shards: int = 1024
    validation_shards: int = 128

    @property
    def archives(self) -> Dict[str, str]:
        return {"train": self.train_archive, "validation": self.validation_archive}


class Shard(NamedTuple):
    """A shard to write: the images of its split, by their places in the index, in this order."""

    split: str
    name: str
    images: np.ndarray


def convert(request: Request, threads: int, told: Any) -> manifest.Manifest:
    """Write all that is not yet written and return what dataset.json says; ``told`` has phase() and progress().

    Raises Refused in one sentence for whatever is wrong with archives, labels, directory or disk.
    """
    if request.train_shards < 1 or request.validation_shards < 1:
        least = min(request.train_shards, request.validation_shards)
        raise Refused(f"{least} shards were asked for; allowed are 1 and more.", "Ask for more shards.")
    wanted = _plan(request)
    if manifest.exists(request.output):
        return _finished(request, wanted)
    if not os.path.exists(os.path.join(request.output, journal.NAME)):
        storage.require_empty(request.output)
    told.phase("read the headers of the archives")
    train = archives.index_train(request.train_archive, told)
    if len(train.synsets) > LABELS["imagenet"]:
        message = f"{train.archive!r} has {len(train.synsets):,} synsets; allowed are 1 to {LABELS['imagenet']:,}."
        raise Refused(message, "Give ILSVRC2012_img_train.tar with --train-archive.")
    validation = archives.index_validation(request.validation_archive, request.labels, train.synsets)
    indices = {"train": train, "validation": validation}
    with journal.Journal(request.output, wanted) as done:
        if request.checksum and not done.checksums:
            _check_md5(request, done, told)
        shards = [
            *shuffled(train, "train", request.train_shards, request),
            *shuffled(validation, "validation", request.validation_shards, request),
        ]
        _write(request, indices, shards, done, threads, told)
        made = {"by": "conformance data imagenet", **wanted, "converted": _converted(done)}
        made["archives"] = {
            name: {"bytes": size, "md5": done.checksums.get(name)} for name, (size, _) in wanted["archives"].items()
        }
        splits = {
            split: manifest.split_of([done.shards[shard.name]["shard"] for shard in shards if shard.split == split])
            for split in indices
        }
        whole = manifest.Manifest("imagenet", len(train.synsets), list(train.synsets), made, splits)
        with storage.writing(os.path.join(request.output, manifest.NAME)):
            manifest.write(request.output, whole)
        done.remove()
    return whole


def shuffled(index: Index, split: str, shards: int, request: Request) -> List[Shard]:
    """Return the shards of a split: a permutation of all its images by the seed, in equal parts, none of them empty."""
    count = len(index.sizes)
    # RandomState, because its stream is the same in every NumPy.
    order = np.random.RandomState(request.seed).permutation(count)
    parts = np.array_split(order, min(shards, count))
    folder = f"{split}/" if request.layout == "subdirs" else ""
    return [Shard(split, folder + shard_name(split, n, len(parts)), part) for n, part in enumerate(parts)]


def make_places(output: str, layout: str, jpeg_tree: bool, synsets: Iterable[str]) -> None:
    """Make the directories of a layout and of the JPEG tree."""
    for split, folder in FOLDERS.items():
        if layout != "flat":
            storage.make_folder(os.path.join(output, split))
        for synset in synsets if jpeg_tree else ():
            storage.make_folder(os.path.join(output, "jpeg", folder, synset))


def link_shard(output: str, split: str, name: str) -> None:
    """Make a flat shard appear in the directory of its split too; the bytes are on disk once."""
    link = os.path.join(output, split, name)
    with storage.writing(link):
        if os.path.lexists(link):
            os.unlink(link)
        os.link(os.path.join(output, name), link)


def _plan(request: Request) -> Dict[str, Any]:
    """Return all that decides which bytes are written; archives are told by name, size and time."""
    found: Dict[str, Any] = {}
    for path in request.archives.values():
        try:
            status = os.stat(path)
        except OSError as error:
            message = f"The archive {path!r} cannot be read: {error.strerror}."
            raise Refused(message, "Give the path of a .tar.") from None
        found[os.path.basename(path)] = [status.st_size, status.st_mtime_ns]
    try:
        labels = file_sha256(request.labels)
    except OSError as error:
        message = f"The labels file {request.labels!r} cannot be read: {error.strerror}."
        raise Refused(message, "Give imagenet_2012_validation_synset_labels.txt.") from None
    return {
        "seed": request.seed,
        "layout": request.layout,
        "jpeg_tree": request.jpeg_tree,
        "archives": found,
        "labels_sha256": labels,
        "shards": {"train": request.train_shards, "validation": request.validation_shards},
    }


def _finished(request: Request, wanted: Dict[str, Any]) -> manifest.Manifest:
    """Return what is there already, if it is what is wanted and its shards are whole."""
    found = manifest.read(request.output)
    sizes = {name: {"bytes": size} for name, (size, _) in wanted["archives"].items()}
    there = {name: {"bytes": said["bytes"]} for name, said in found.made.get("archives", {}).items()}
    journal.refuse_other(request.output, {**found.made, "archives": there}, {**wanted, "archives": sizes})
    manifest.check(request.output, found)
    left = os.path.join(request.output, journal.NAME)
    if os.path.exists(left):  # killed between the last two steps
        os.unlink(left)
    return found


def _check_md5(request: Request, done: journal.Journal, told: Any) -> None:
    found = {}
    for split, path in request.archives.items():
        told.phase(f"check the MD5 of {os.path.basename(path)}")
        digest = archives.archive_md5(path, told)
        if digest != MD5[split]:
            message = f"The {split} archive {path!r} has MD5 {digest}; ILSVRC2012's is {MD5[split]}."
            raise Refused(message, "Get it again from image-net.org, or give --no-checksum for another archive.")
        found[os.path.basename(path)] = digest
    done.add({"md5": found})
    done.checksums = found


def _write(
    request: Request, indices: Dict[str, Index], shards: List[Shard], done: journal.Journal, threads: int, told: Any
) -> None:
    left = [shard for shard in shards if shard.name not in done.shards]
    images = sum(len(shard.images) for shard in left)
    image_bytes = sum(int(indices[shard.split].sizes[shard.images].sum()) for shard in left)
    storage.check_space(request.output, storage.needed_bytes(image_bytes, images, request.jpeg_tree))
    make_places(request.output, request.layout, request.jpeg_tree, indices["train"].synsets)
    told.phase("write TFRecords")
    files = {split: os.open(path, os.O_RDONLY) for split, path in request.archives.items()}
    total = sum(len(shard.images) for shard in shards)

    def work(shard: Shard, count: Count) -> Dict[str, Any]:
        was: Dict[str, int] = Counter()
        records = _records(request, shard, indices[shard.split], files[shard.split], was, count.one_more)
        sha256 = storage.write_shard(os.path.join(request.output, shard.name), records)
        if request.layout == "both":
            link_shard(request.output, shard.split, shard.name)
        facts = manifest.shard_facts(request.output, shard.name, len(shard.images), sha256)
        return {"shard": facts, "converted": was}

    try:
        for shard, line in spread(work, left, threads, told, total, total - images):
            done.add(line)
            done.shards[shard.name] = line
    finally:
        for fd in files.values():
            os.close(fd)


def _records(
    request: Request, shard: Shard, index: Index, fd: int, was: Dict[str, int], tick: Callable[[], None]
) -> Iterator[bytes]:
    """Yield the records of a shard; on the way write its images to the JPEG tree and count what had to be converted."""
    folder = os.path.join(request.output, "jpeg", FOLDERS[shard.split])
    for place in shard.images:
        tick()
        try:
            image = jpegs.stored(os.pread(fd, int(index.sizes[place]), int(index.offsets[place])))
        except OSError as error:
            raise Refused(f"{index.where(place)} cannot be read: {error.strerror}.", "See dmesg; try again.") from None
        except ValueError as error:
            hint = "Get the archive again and compare its MD5; shards that are finished are kept."
            raise Refused(f"{index.where(place)} cannot be decoded: {error}.", hint) from None
        if image.was:
            was[image.was] += 1
        synset, name = index.synsets[index.classes[place]], bytes(index.names[place])
        label = int(index.classes[place]) + 1
        if request.jpeg_tree:
            storage.write_image(os.path.join(folder, synset, name.decode()), image.encoded)
        yield example(image.encoded, image.height, image.width, label, synset.encode(), name)


def _converted(done: journal.Journal) -> Dict[str, int]:
    counts: Dict[str, int] = Counter()
    for line in done.shards.values():
        counts.update(line["converted"])
    return dict(counts)
