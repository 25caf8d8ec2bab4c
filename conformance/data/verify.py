"""Read every record of a data set, say what is in it, and name what is wrong.

Every checksum, record, label and synset is looked at; of the images one in 16 is decoded, or all of them.
"""

import hashlib
import os
from itertools import islice
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow as tf

from conformance.data import jpegs, manifest
from conformance.data.imagenet import LABELS, Fields, fields, first_line, read_shard
from conformance.data.parallel import Count, spread
from conformance.data.shards import file_sha256, find_shards, has_shards
from conformance.wire import Refused

SPLITS = ("train", "validation", "calibration")
SAMPLED = 16  # one image in so many is decoded
_MOST_FAULTS = 20  # of a shard, and pairs of one image, that are told by name; all are counted
_HINT = "Copy the shard again from where it came, or convert the data set again from its original images."


class Seen(NamedTuple):
    """What one shard holds."""

    facts: Dict[str, Any]
    labels: np.ndarray  # int32 [N]
    digests: np.ndarray  # uint64 [N], the first 8 bytes of each image's SHA-256
    synsets: Dict[int, bytes]  # by label
    decoded: int
    faults: List[str]
    fault_count: int


class Task(NamedTuple):
    split: str
    name: str  # POSIX path in the data set
    said: Optional[Dict[str, Any]]  # by dataset.json


def verify(directory: str, dataset: str, full: bool, threads: int, told: Any) -> Dict[str, Any]:
    """Return what a data set holds, and write dataset.json when it has none or its files have other times.

    ``dataset`` is the name of one that has no dataset.json. Raises Refused with the first fault and their number.
    """
    said = manifest.read(directory) if manifest.exists(directory) else None
    tasks = _tasks(directory, said)
    name = said.dataset if said else dataset
    classes = said.classes if said else LABELS[name]
    total = sum(task.said["images"] for task in tasks if task.said)
    told.phase("read every record")

    def work(number: int, count: Count) -> Seen:
        return _look(directory, tasks[number], classes, full, count)

    found = dict(spread(work, range(len(tasks)), threads, told, total))
    seen = [found[number] for number in range(len(tasks))]  # in the order of the shards, whoever was faster
    faults = [fault for shard in seen for fault in shard.faults]
    count = sum(shard.fault_count for shard in seen)
    synsets, mixed = _synsets(seen, said)
    faults += mixed
    count += len(mixed)
    twice, leaked = _duplicates(directory, tasks, seen)
    faults += leaked
    count += len(leaked)
    if faults:
        more = f" There are {count - 1:,} more faults." if count > 1 else ""
        raise Refused(faults[0] + more, _HINT)
    whole = _manifest(name, classes, synsets, said, tasks, seen)
    return {**_report(tasks, seen, whole), "duplicates": twice, "note": _write(directory, said, whole)}


def _tasks(directory: str, said: Optional[manifest.Manifest]) -> List[Task]:
    if said:
        for name, split in said.splits.items():
            for shard in split.shards:
                manifest.check_size(directory, shard)
            find_shards(directory, name)
        return [Task(split, shard["name"], shard) for split in said.splits for shard in said.splits[split].shards]
    splits = [split for split in SPLITS if has_shards(directory, split)]
    if not splits:
        find_shards(directory, "validation")  # which says what is there instead
    return [
        Task(split, os.path.relpath(path, directory).replace(os.sep, "/"), None)
        for split in splits
        for path in find_shards(directory, split)
    ]


def _look(directory: str, task: Task, classes: int, full: bool, count: Count) -> Seen:
    """Read one shard; a fault is a sentence that names shard and record."""
    path = os.path.join(directory, task.name)
    faults: List[str] = []
    fault_count = decoded = number = 0
    labels: List[int] = []
    digests: List[int] = []
    synsets: Dict[int, bytes] = {}

    def fault(sentence: str) -> None:
        nonlocal fault_count
        fault_count += 1
        if len(faults) < _MOST_FAULTS:
            faults.append(sentence)

    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise Refused(f"Shard {path!r} cannot be read: {error.strerror}.", _HINT) from None
    if task.said and sha256 != task.said["sha256"]:
        fault(f"Shard {path!r} has SHA-256 {sha256}, {manifest.NAME} says {task.said['sha256']}.")
    try:
        for number, record in enumerate(read_shard(path), 1):
            count.one_more()
            decode = full or (number - 1) % SAMPLED == 0
            read, wrong = _read(record, classes, decode)
            if wrong:
                fault(f"Record {number - 1} of {path!r} {wrong}.")
            decoded += decode
            labels.append(read.label)
            digests.append(int.from_bytes(hashlib.sha256(read.encoded).digest()[:8], "little"))
            if read.synset and synsets.setdefault(read.label, read.synset) != read.synset:
                other = f"{synsets[read.label].decode()} and {read.synset.decode()}"
                fault(f"Record {number - 1} of {path!r} gives label {read.label} a second synset: {other}.")
    except Refused as damaged:
        fault(damaged.message)
    if task.said and number != task.said["images"]:
        fault(f"Shard {path!r} has {number:,} records, {manifest.NAME} says {task.said['images']:,}.")
    facts = manifest.shard_facts(directory, task.name, number, sha256)
    return Seen(
        facts, np.array(labels, np.int32), np.array(digests, np.uint64), synsets, decoded, faults, fault_count
    )  # fmt: skip


def _read(record: bytes, classes: int, decode: bool) -> Tuple[Fields, str]:
    """Return a record and what is wrong with it, empty for nothing."""
    try:
        read = fields(record)
    except ValueError as error:
        return Fields(b"", -1, b"", b"", -1, -1), str(error)
    named = f" ({read.filename.decode('utf-8', 'replace')})" if read.filename else ""
    if not read.encoded:
        return read, "has no image/encoded" + named
    if read.label == -1:
        return read, "has no image/class/label" + named
    if read.label == 0:
        return read, f"has label 0{named}: labels begin with 1, and 0 is the background"
    if not 1 <= read.label <= classes:
        return read, f"has label {read.label}{named}; allowed are 1 to {classes}"
    return read, _pixels(read, named) if decode else ""


def _pixels(read: Fields, named: str) -> str:
    """Return what is wrong with the image of a record, empty for nothing."""
    try:
        size = jpegs.size(read.encoded)
    except tf.errors.OpError as error:
        return f"holds an image that cannot be decoded{named}: {first_line(error)}"
    told = (read.height, read.width)
    if -1 not in told and told != size:
        return f"says {told[0]} x {told[1]} pixels of an image of {size[0]} x {size[1]}{named}"
    return ""


def _synsets(seen: List[Seen], said: Optional[manifest.Manifest]) -> Tuple[Optional[List[str]], List[str]]:
    """Return the synsets in the order of their labels, None where records do not tell all, and what contradicts."""
    by_label: Dict[int, str] = {}
    faults = []
    if said and said.synsets:
        by_label = dict(enumerate(said.synsets, 1))
    for shard in seen:
        for label, synset in shard.synsets.items():
            known = by_label.setdefault(label, synset.decode("utf-8", "replace"))
            if known.encode() != synset:
                here = f"{synset.decode('utf-8', 'replace')} in {shard.facts['name']}"
                faults.append(f"Label {label} is {here}, and {known} elsewhere.")
    labels = sorted(by_label)
    for label, following in zip(labels, labels[1:]):
        if by_label[label] >= by_label[following]:
            pair = f"{label} is {by_label[label]} and {following} is {by_label[following]}"
            faults.append(f"Labels do not follow the sorted synsets: {pair}.")
            break
    whole = labels == list(range(1, len(labels) + 1))
    return ([by_label[label] for label in labels] if labels and whole else None), faults


def _duplicates(directory: str, tasks: List[Task], seen: List[Seen]) -> Tuple[Dict[str, Any], List[str]]:
    """Return how many validation images are in another split byte for byte, and as faults those of the same name.

    Of the same bytes under two names the archives themselves may hold a pair; one name in both splits is a leak.
    """
    twice: Dict[str, Any] = {"images": 0, "first": None}
    held = [shard for task, shard in zip(tasks, seen) if task.split == "validation"]
    others = [(task, shard) for task, shard in zip(tasks, seen) if task.split != "validation"]
    if not held or not others:
        return twice, []
    known = np.unique(np.concatenate([shard.digests for shard in held]))
    faults = []
    for task, shard in others:
        for place in np.flatnonzero(np.isin(shard.digests, known)).tolist():
            validation = next(other for other in held if shard.digests[place] in other.digests)
            there = int(np.flatnonzero(validation.digests == shard.digests[place])[0])
            twice["images"] += 1
            if twice["images"] > _MOST_FAULTS:
                continue
            names = [_filename(directory, shard, place), _filename(directory, validation, there)]
            pair = f"record {place} of {shard.facts['name']} ({names[0]}) and record {there} of "
            pair += f"{validation.facts['name']} ({names[1]})"
            twice["first"] = twice["first"] or pair
            if names[0] == names[1]:
                faults.append(f"An image is in {task.split} and in validation: {pair}.")
    return twice, faults


def _filename(directory: str, shard: Seen, place: int) -> str:
    records = read_shard(os.path.join(directory, shard.facts["name"]))
    return fields(next(islice(records, place, None))).filename.decode("utf-8", "replace")


def _manifest(
    name: str,
    classes: int,
    synsets: Optional[List[str]],
    said: Optional[manifest.Manifest],
    tasks: List[Task],
    seen: List[Seen],
) -> manifest.Manifest:
    splits = {
        split: manifest.split_of([shard.facts for task, shard in zip(tasks, seen) if task.split == split])
        for split in dict.fromkeys(task.split for task in tasks)
    }
    made = said.made if said else {"by": "conformance data verify"}
    return manifest.Manifest(name, classes, said.synsets if said else synsets, made, splits)


def _write(directory: str, said: Optional[manifest.Manifest], whole: manifest.Manifest) -> str:
    """Write dataset.json if it says something else; return a note about it."""
    if said == whole:
        return f"as {manifest.NAME} says"
    try:
        manifest.write(directory, whole)
    except OSError as error:
        return f"{manifest.NAME} cannot be written: {error.strerror}"
    return f"{manifest.NAME} was written"


def _report(tasks: List[Task], seen: List[Seen], whole: manifest.Manifest) -> Dict[str, Any]:
    splits = manifest.summary(whole)["splits"]
    for split, told in splits.items():
        mine = [shard for task, shard in zip(tasks, seen) if task.split == split]
        labels = np.concatenate([shard.labels for shard in mine])
        told["decoded"] = sum(shard.decoded for shard in mine)
        told["histogram"] = np.bincount(labels, minlength=whole.classes + 1)[1:].tolist()
    return {**manifest.summary(whole), "splits": splits}
