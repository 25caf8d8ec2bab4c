"""Writing shards and image files: as a whole or not at all, and a full disk told in one sentence."""

import os
import shutil
from contextlib import contextmanager
from typing import Iterable, Iterator

import tensorflow as tf

from conformance.data.imagenet import first_line
from conformance.data.shards import file_sha256
from conformance.wire import Refused

_RECORD_BYTES = 512  # of a record beside its image, generously
_FILE_BYTES = 4096  # what a file wastes, and its name
_GO_ON = "Free space there or get leave to write, and run the same command again; what is finished is kept."


def write_shard(path: str, records: Iterable[bytes]) -> str:
    """Write records to a TFRecord file and return its SHA-256; nothing is left of one that fails."""
    part = path + ".part"
    try:
        with writing(path):
            with tf.io.TFRecordWriter(part) as writer:
                for record in records:
                    writer.write(record)
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            sha256 = file_sha256(part)
            os.replace(part, path)
            return sha256
    finally:
        if os.path.exists(part):
            os.unlink(part)


def write_image(path: str, encoded: bytes) -> None:
    with writing(path), open(path, "wb") as file:
        file.write(encoded)


def make_folder(path: str) -> None:
    with writing(path):
        os.makedirs(path, exist_ok=True)


def require_empty(path: str) -> None:
    """Raise Refused for a directory that holds anything, or a path that is none."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise Refused(f"{path!r} is no directory.", "Name another directory.")
    found = sorted(os.listdir(path)) if os.path.isdir(path) else []
    if found:
        message = f"{path!r} is not empty and is no data set of ours: it holds {len(found)} entries, such as"
        raise Refused(f"{message} {found[0]!r}.", "Name a new or an empty directory.")


def needed_bytes(image_bytes: int, images: int, as_files: bool) -> int:
    """Return the space that shards of so many images take, with the files of the JPEG tree if they are asked for."""
    shards = image_bytes + images * _RECORD_BYTES
    return shards + (image_bytes + images * _FILE_BYTES if as_files else 0)


def check_space(directory: str, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise Refused(f"{needed:,} bytes are still to be written to {directory!r}, and {free:,} are free.", _GO_ON)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn what the system says of a write into one sentence; reading inside must raise Refused by itself."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow puts the path before the reason.
        reason = error.strerror or str(error) if isinstance(error, OSError) else first_line(error).rpartition("; ")[2]
        raise Refused(f"{path!r} cannot be written: {reason}{_free(path)}.", _GO_ON) from None


def _free(path: str) -> str:
    try:
        return f"; {shutil.disk_usage(os.path.dirname(path)).free:,} bytes are free there"
    except OSError:
        return ""
