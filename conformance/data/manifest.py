"""``dataset.json``: what a data set holds, from what it was made, and the digest of each of its shards."""

import json
import os
from typing import Any, Dict, List, NamedTuple, Optional

from conformance.data.shards import digest_of, file_sha256
from conformance.wire import Refused

NAME = "dataset.json"
SCHEMA = 2
_AGAIN = "Copy it again from where it came, or make the data set again."


class Split(NamedTuple):
    """The images of a split and its shards; a shard is name, sha256, bytes, mtime_ns, images."""

    images: int
    shards: List[Dict[str, Any]]

    @property
    def sha256(self) -> str:
        """One SHA-256 over the names and digests of the shards."""
        return digest_of((os.path.basename(shard["name"]), shard["sha256"]) for shard in self.shards)


class Manifest(NamedTuple):
    """A data set; ``made`` holds free facts, the name of a shard is its POSIX path in the data set."""

    dataset: str
    classes: int
    synsets: Optional[List[str]]  # in the order of the labels, which begin with 1
    made: Dict[str, Any]
    splits: Dict[str, Split]


def shard_facts(directory: str, name: str, images: int, sha256: Optional[str] = None) -> Dict[str, Any]:
    """Return what dataset.json says of a shard."""
    path = os.path.join(directory, name)
    status = os.stat(path)
    digest = sha256 or file_sha256(path)
    return {
        "name": name,
        "sha256": digest,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "images": images,
    }


def split_of(shards: List[Dict[str, Any]]) -> Split:
    ordered = sorted(shards, key=lambda shard: str(shard["name"]))
    return Split(sum(shard["images"] for shard in ordered), ordered)


def summary(manifest: Manifest) -> Dict[str, Any]:
    """Return what a command prints of a data set."""
    splits = {
        name: {"images": split.images, "shards": len(split.shards), "sha256": split.sha256}
        for name, split in manifest.splits.items()
    }
    return {"dataset": manifest.dataset, "classes": manifest.classes, "splits": splits, "made": manifest.made}


def write(directory: str, manifest: Manifest) -> None:
    """Write dataset.json as a whole or not at all."""
    splits = {name: split._asdict() for name, split in manifest.splits.items()}
    said = {"schema": SCHEMA, "label_base": 1, **manifest._asdict(), "splits": splits}
    path = os.path.join(directory, NAME)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(said, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


def exists(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, NAME))


def read(directory: str) -> Manifest:
    """Read dataset.json; raises Refused when there is none, or none of this schema."""
    path = os.path.join(directory, NAME)
    hint = f"Run `conformance data verify {directory}`, which writes it, or name another directory."
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
        if said["schema"] != SCHEMA or said["label_base"] != 1:
            message = f"{path!r} has schema {said['schema']} and label base {said['label_base']}; allowed are 2 and 1."
            raise Refused(message, "Delete it and run `conformance data verify` on the directory.")
        splits = {name: Split(split["images"], split["shards"]) for name, split in said["splits"].items()}
        return Manifest(said["dataset"], said["classes"], said["synsets"], said["made"], splits)
    except FileNotFoundError:
        raise Refused(f"{directory!r} has no {NAME}.", hint) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path!r} cannot be read: {type(error).__name__}: {error}.", hint) from None


def check(directory: str, manifest: Manifest, digests: bool = False) -> None:
    """Hold the shards against dataset.json: sizes and times, and the digest of one whose time differs, or of all."""
    for split in manifest.splits.values():
        for shard in split.shards:
            check_shard(directory, shard, digests)


def check_shard(directory: str, shard: Dict[str, Any], digest: bool = False) -> None:
    """Raise Refused for a shard that is not the one of dataset.json."""
    path, status = os.path.join(directory, shard["name"]), check_size(directory, shard)
    if digest or status.st_mtime_ns != shard["mtime_ns"]:
        found = file_sha256(path)
        if found != shard["sha256"]:
            raise Refused(f"Shard {path!r} has SHA-256 {found}, {NAME} says {shard['sha256']}.", _AGAIN)


def check_size(directory: str, shard: Dict[str, Any]) -> os.stat_result:
    """Raise Refused for a shard that is not there, or is of another size than dataset.json says."""
    path = os.path.join(directory, shard["name"])
    try:
        status = os.stat(path)
    except OSError as error:
        raise Refused(f"Shard {path!r} of {NAME} cannot be read: {error.strerror}.", _AGAIN) from None
    if status.st_size != shard["bytes"]:
        raise Refused(f"Shard {path!r} has {status.st_size:,} bytes, {NAME} says {shard['bytes']:,}.", _AGAIN)
    return status
