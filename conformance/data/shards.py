"""The files of a dataset: ``<subset>-00000-of-00128`` and so on, flat or in a directory of their subset."""

import hashlib
import os
import re
from typing import Iterable, List, Sequence, Tuple

from conformance.wire import Refused

_HINT = "Give the directory that holds the TFRecord files of the dataset."


def find_shards(directory: str, subset: str) -> List[str]:
    """Return the paths of all shards of a subset such as ``validation``, in the order of their numbers.

    They lie in ``directory`` itself or in ``directory/<subset>``. Raises Refused when there
    are none, when one is missing, empty or misnamed, and when two sets are mixed.
    """
    if not os.path.isdir(directory):
        raise Refused(f"The dataset directory {directory!r} does not exist.", _HINT)
    for place in (directory, os.path.join(directory, subset)):
        names = _names(place, subset)
        if names:
            _check_complete(place, subset, names)
            return [os.path.join(place, name) for name in names]
    found = sorted(os.listdir(directory))
    holds = f"holds {len(found)} other entries, such as {found[0]!r}" if found else "is empty"
    message = f"There is no file {subset}-*-of-* in {directory!r}, which {holds}."
    raise Refused(message, _HINT)


def has_shards(directory: str, subset: str) -> bool:
    """Tell whether a directory holds files of a subset, complete or not."""
    return any(_names(place, subset) for place in (directory, os.path.join(directory, subset)))


def shards_digest(shards: Sequence[str]) -> str:
    """Return one SHA-256 over the names and the bytes of the shards, in hexadecimal."""
    return digest_of((os.path.basename(path), file_sha256(path)) for path in shards)


def digest_of(shards: Iterable[Tuple[str, str]]) -> str:
    """Return one SHA-256 over the names and digests of shards, in hexadecimal."""
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in shards).encode()).hexdigest()


def record_count(path: str) -> int:
    """Return how many records a file has by their lengths alone; raises Refused for one that is cut off.

    A record is its length as 8 bytes, 4 bytes of checksum, the data, and 4 of another: tensorflow/core/lib/io/
    record_writer.h.
    """
    count = place = 0
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        while place < size:
            place += 16 + int.from_bytes(os.pread(file.fileno(), 8, place), "little")
            count += 1
    if place != size:
        raise Refused(f"Shard {path!r} is cut off after {count - 1} records.", "Copy it again from where it came.")
    return count


def shard_name(subset: str, number: int, total: int) -> str:
    """Return the name of a shard: ``validation-00000-of-00128``."""
    return f"{subset}-{number:05d}-of-{total:05d}"


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _names(place: str, subset: str) -> List[str]:
    if not os.path.isdir(place):
        return []
    alike = re.compile(re.escape(subset) + r"-.*-of-")
    return sorted(name for name in os.listdir(place) if alike.match(name))


def _check_complete(place: str, subset: str, names: Sequence[str]) -> None:
    hint = f"Convert or copy {place!r} again, so that it holds one complete set."
    pattern = re.compile(re.escape(subset) + r"-(\d{5})-of-(\d{5})")
    matches = [pattern.fullmatch(name) for name in names]
    if None in matches:
        odd = names[matches.index(None)]
        raise Refused(f"File {odd!r} in {place!r} is not named like {subset}-00000-of-00128.", hint)
    totals = sorted({int(match.group(2)) for match in matches if match})
    if len(totals) > 1:
        listed = ", ".join(map(str, totals))
        raise Refused(f"{place!r} mixes {subset} shards of several sets: of {listed}.", hint)
    numbers = {int(match.group(1)) for match in matches if match}
    missing = sorted(set(range(totals[0])) - numbers)
    if missing:
        first = f"the first is {subset}-{missing[0]:05d}-of-{totals[0]:05d}"
        count = f"{len(missing)} of {totals[0]} {subset} shards"
        raise Refused(f"{count} are missing in {place!r}: {first}.", hint)
    beyond = [name for name in names if int(name.split("-")[-3]) >= totals[0]]
    if beyond:
        raise Refused(f"Shard {beyond[0]!r} in {place!r} is numbered beyond its total.", hint)
    for name in names:
        if os.path.getsize(os.path.join(place, name)) == 0:
            raise Refused(f"Shard {name!r} in {place!r} is an empty file.", hint)
