"""The two archives of ILSVRC2012, read where they lie: nothing is unpacked.

The train archive is a tar of one tar for each synset (``n01440764.tar``), each a flat tar of JPEGs; the validation
archive is a flat tar of JPEGs. Member names come from outside: they are checked before anything is made of them.
"""

import hashlib
import os
import re
import tarfile
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from conformance.wire import Refused

_SYNSET = re.compile(r"n\d{8}")
_METADATA_BYTES = 1 << 20  # no header, not even one of long names, is larger
_BLOCK = 1 << 22
_AGAIN = "Get the archive again from image-net.org, and compare its MD5."


class Index(NamedTuple):
    """Where each image of an archive lies, in the order of synset and name: some 50 bytes an image."""

    archive: str
    synsets: Tuple[str, ...]  # sorted
    classes: np.ndarray  # int32 [N], places in synsets
    offsets: np.ndarray  # int64 [N], bytes from the archive's start
    sizes: np.ndarray  # int64 [N], bytes
    names: np.ndarray  # bytes [N], UTF-8

    def where(self, image: int) -> str:
        """Return how an image is called in a sentence."""
        name, synset = self.names[image].decode(), self.synsets[self.classes[image]]
        return f"{name!r} of {synset} in {self.archive!r}"


def index_train(path: str, told: Any) -> Index:
    """Return the images of the train archive by its headers alone; raises Refused, naming the member that is wrong."""
    parts: Dict[str, np.ndarray] = {}
    count = 0
    with _opened(path) as window:
        for member in _members(window, repr(path)):
            synset, ending = os.path.splitext(member.name)
            if ending != ".tar" or not _SYNSET.fullmatch(synset):
                message = f"{path!r} holds {member.name!r}; a train archive holds one n########.tar for each synset."
                raise Refused(message, "Give ILSVRC2012_img_train.tar with --train-archive.")
            where = f"{member.name!r} in {path!r}"
            if synset in parts:
                raise Refused(f"{path!r} holds {member.name!r} twice.", _AGAIN)
            inner = _Window(window.fd, window.start + member.offset_data, member.size)
            parts[synset] = _rows(inner, where)
            count += len(parts[synset])
            told.progress(count, 0, "images", synset)
    if not parts:
        raise Refused(f"{path!r} holds no image.", _AGAIN)
    synsets = tuple(sorted(parts))
    classes = np.repeat(np.arange(len(synsets), dtype=np.int32), [len(parts[synset]) for synset in synsets])
    rows = np.concatenate([parts[synset] for synset in synsets])
    return Index(path, synsets, classes, rows["offset"], rows["size"], rows["name"])


def index_validation(path: str, labels: str, synsets: Sequence[str]) -> Index:
    """Return the images of the validation archive; line n of the file ``labels`` is the synset of the n-th name."""
    with _opened(path) as window:
        rows = _rows(window, repr(path))
    return Index(path, tuple(synsets), _classes(labels, synsets, len(rows)), rows["offset"], rows["size"], rows["name"])


def archive_md5(path: str, told: Any) -> str:
    """Return the MD5 of a file in hexadecimal."""
    digest, total = hashlib.md5(), os.path.getsize(path)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
            told.progress(file.tell() >> 20, total >> 20, "MiB")
    return digest.hexdigest()


class _Window:
    """A part of an open file, as much of a file as tarfile needs to read headers."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self.fd, self.start, self.size, self.at = fd, start, size, 0

    def tell(self) -> int:
        return self.at

    def seek(self, at: int) -> None:
        self.at = at

    def read(self, count: int) -> bytes:
        most = max(0, min(count, _METADATA_BYTES, self.size - self.at))
        data = os.pread(self.fd, most, self.start + self.at)
        self.at += len(data)
        return data


@contextmanager
def _opened(path: str) -> Iterator[_Window]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Refused(f"The archive {path!r} cannot be read: {error.strerror}.", "Give the path of a .tar.") from None
    try:
        yield _Window(fd, 0, os.fstat(fd).st_size)
    except OSError as error:
        raise Refused(f"The archive {path!r} cannot be read: {error.strerror}.", _AGAIN) from None
    finally:
        os.close(fd)


def _members(window: _Window, where: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a flat tar, and refuse what tarfile passes over in silence: an end before the end."""
    try:
        tar = tarfile.TarFile(fileobj=window, mode="r", encoding="utf-8")  # type: ignore[arg-type]
    except tarfile.TarError as error:
        raise Refused(f"{where} is no tar archive, or its beginning is damaged: {error}.", _AGAIN) from None
    tar.offset = 0
    while True:
        begin = tar.offset
        window.seek(begin)
        try:
            member = tarfile.TarInfo.fromtarfile(tar)
        except tarfile.EOFHeaderError:
            return
        except (tarfile.TarError, ValueError) as error:
            cut = begin >= window.size
            fault = "is cut off: it has no end mark" if cut else f"is damaged at byte {begin:,}: {error}"
            raise Refused(f"{where} {fault}.", _AGAIN) from None
        _check_member(member, where)
        if member.size < 0 or member.offset_data + member.size > window.size:
            message = f"{where} is cut off: {member.name!r} ends at byte {member.offset_data + member.size:,}"
            raise Refused(f"{message} of {window.size:,}.", _AGAIN)
        yield member


def _check_member(member: tarfile.TarInfo, where: str) -> None:
    name = member.name
    if not name or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
        message = f"{where} holds a member named {name!r}; a name is one of a visible file, without a directory."
        raise Refused(message, "Give the archives as image-net.org has them; nothing was written.")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise Refused(f"{where} holds {name!r}, which is no plain file.", _AGAIN)


def _rows(window: _Window, where: str) -> np.ndarray:
    """Return offset from the file's start, size and name of each member, in the order of the names."""
    found: List[Tuple[int, int, bytes]] = [
        (window.start + member.offset_data, member.size, member.name.encode()) for member in _members(window, where)
    ]
    if not found:
        raise Refused(f"{where} holds no image.", _AGAIN)
    widest = max(len(name) for _, _, name in found)
    rows = np.array(found, [("offset", "i8"), ("size", "i8"), ("name", f"S{widest}")])
    rows = rows[np.argsort(rows["name"])]
    names = rows["name"]
    twice = np.flatnonzero(names[1:] == names[:-1])
    if len(twice):
        raise Refused(f"{where} holds {names[twice[0]].decode()!r} twice.", _AGAIN)
    return rows


def _classes(labels: str, synsets: Sequence[str], images: int) -> np.ndarray:
    """Return the place in ``synsets`` of each line of the labels file."""
    hint = "Give imagenet_2012_validation_synset_labels.txt: the synset of each validation image, one a line."
    try:
        with open(labels, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Refused(f"The labels file {labels!r} cannot be read: {reason}.", hint) from None
    while lines and not lines[-1]:
        lines.pop()
    places = {synset: place for place, synset in enumerate(synsets)}
    for number, line in enumerate(lines, 1):
        if line not in places:
            said = f"Line {number} of the labels file {labels!r} is {line!r}"
            if _SYNSET.fullmatch(line):
                message = f"{said}, and the train archive lacks {line}.tar."
                raise Refused(message, "Give the train archive that has all classes, and compare its MD5.")
            raise Refused(f"{said}, which is no synset such as {synsets[0]!r}.", hint)
    if len(lines) != images:
        message = f"The labels file {labels!r} has {len(lines):,} lines for {images:,} validation images."
        raise Refused(message, hint)
    return np.array([places[line] for line in lines], np.int32)
