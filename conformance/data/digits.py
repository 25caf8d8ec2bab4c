"""The digits set: 1797 real scans of handwritten digits as TFRecords in the ImageNet schema.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
UCI 1998), 8 x 8 pixels of 0 to 16, which scikit-learn carries. Labels are digit + 1.
"""

import hashlib
import os
import shutil
import tempfile
import zipfile
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import tensorflow as tf

from conformance.data import manifest, storage
from conformance.data.convert import FOLDERS, link_shard, make_places
from conformance.data.imagenet import LABELS, example
from conformance.data.preprocessing import DIGIT_SIDE
from conformance.data.shards import digest_of, shard_name
from conformance.wire import Refused

SUBSETS = ("train", "validation")
_FORMAT = 1  # raised when the same arrays and seed come to other files
_SIDE, _LEVELS = 8, 16
_VALIDATION_SHARE = 0.2


def write_digits(
    arrays_npz: str, output_dir: str, seed: int, shards: int, layout: str = "flat", jpeg_tree: bool = False
) -> manifest.Manifest:
    """Write the arrays as ``shards`` train and as many validation files; return what dataset.json says.

    ``arrays_npz`` holds ``images`` [N, 8, 8] of 0 to 16 and ``labels`` [N] of 0 to 9; ``layout`` is flat or both. A
    directory that already holds exactly this set is left alone; anything else in the way raises Refused.
    The set appears complete or not at all.
    """
    images, labels = _read_arrays(arrays_npz)
    most = len(split(labels, seed)[1])
    if not 1 <= shards <= most:
        raise Refused(f"{shards} shards were asked for; allowed are 1 to {most}.", "Ask for fewer shards.")
    wanted = {
        "format": _FORMAT,
        "seed": seed,
        "shards": shards,
        "layout": layout,
        "jpeg_tree": jpeg_tree,
        "arrays_sha256": _arrays_sha256(images, labels),
    }
    if os.path.isdir(output_dir) and os.listdir(output_dir):
        return _existing(output_dir, wanted)
    parent = os.path.dirname(os.path.abspath(output_dir))
    storage.make_folder(parent)
    with storage.writing(output_dir):
        partial = tempfile.mkdtemp(prefix=".digits-", dir=parent)
    try:
        said = _write_set(partial, images, labels, wanted)
        os.chmod(partial, 0o755)
        try:
            os.replace(partial, output_dir)
        except OSError:  # another process was faster
            return _existing(output_dir, wanted)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return said


def dataset_digest(directory: str) -> str:
    """Return one SHA-256 over all shards; raises Refused when one is not what dataset.json says."""
    said = manifest.read(directory)
    manifest.check(directory, said, digests=True)
    return digest_of((shard["name"], shard["sha256"]) for subset in SUBSETS for shard in said.splits[subset].shards)


def split(labels: np.ndarray, seed: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices of training and of validation, which takes a fifth of every class, rounded up."""
    # RandomState, because its stream is the same in every NumPy.
    rng = np.random.RandomState(seed)
    chosen: List[int] = []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        chosen.extend(rng.permutation(members)[: int(np.ceil(_VALIDATION_SHARE * len(members)))])
    validation = np.sort(np.array(chosen, dtype=np.int64))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return an [8, 8] image of 0 to 16 as uint8 [32, 32] of 0 to 255, bilinear with half-pixel centres.

    In integers (the weights are eighths), so that it is the same on every machine.
    """
    scale = DIGIT_SIDE // _SIDE
    eighths = np.zeros((DIGIT_SIDE, _SIDE), np.int64)
    for row in range(DIGIT_SIDE):
        centre = 2 * row + 1 - scale  # of the output pixel, in eighths of an input pixel
        low, weight = divmod(centre, 2 * scale)
        eighths[row, max(low, 0)] += 2 * scale - weight
        eighths[row, min(low + 1, _SIDE - 1)] += weight
    whole = _LEVELS * (2 * scale) ** 2
    return ((255 * (eighths @ image.astype(np.int64) @ eighths.T) + whole // 2) // whole).astype(np.uint8)


def _read_arrays(path: str) -> Tuple[np.ndarray, np.ndarray]:
    hint = "Give an .npz with images [N, 8, 8] of 0 to 16 and labels [N] of 0 to 9."
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).rstrip(".")
        raise Refused(f"The arrays of digits {path!r} cannot be read: {reason}.", hint) from None
    if images.shape[1:] != (_SIDE, _SIDE) or labels.shape != images.shape[:1]:
        shapes = f"images {list(images.shape)} and labels {list(labels.shape)}"
        raise Refused(f"The arrays of digits have the wrong shapes: {shapes}.", hint)
    if not len(labels):
        raise Refused("The arrays of digits hold no image.", hint)
    for name, values, highest in (("images", images, _LEVELS), ("labels", labels, 9)):
        if values.min() < 0 or values.max() > highest or (values != np.floor(values)).any():
            found = f"{values.min():g} to {values.max():g}"
            raise Refused(f"The {name} of the digits are not whole numbers of 0 to {highest}: {found}.", hint)
    return images.astype(np.uint8), labels.astype(np.int64)


def _arrays_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def _existing(directory: str, wanted: Dict[str, Any]) -> manifest.Manifest:
    if not manifest.exists(directory):
        message = f"{directory!r} is no complete set of digits: it has no dataset.json."
        raise Refused(message, "Delete it or name another directory.")
    said = manifest.read(directory)
    for key, value in wanted.items():
        if said.made.get(key) != value:
            message = f"{directory!r} holds another data set: its {key} is {said.made.get(key)!r}, not {value!r}."
            raise Refused(message, "Delete it or name another directory.")
    manifest.check(directory, said, digests=True)
    return said


def _write_set(directory: str, images: np.ndarray, labels: np.ndarray, made: Dict[str, Any]) -> manifest.Manifest:
    rng = np.random.RandomState(made["seed"])
    synsets = [f"digit-{digit}" for digit in range(LABELS["digits"])]
    make_places(directory, made["layout"], made["jpeg_tree"], synsets)
    splits = {}
    for subset, chosen in zip(SUBSETS, split(labels, made["seed"])):
        shuffled = rng.permutation(chosen)
        facts = []
        for number in range(made["shards"]):
            name, part = shard_name(subset, number, made["shards"]), shuffled[number :: made["shards"]]
            tree = os.path.join(directory, "jpeg", FOLDERS[subset]) if made["jpeg_tree"] else None
            records = [_record(int(index), images[index], int(labels[index]), tree) for index in part]
            sha256 = storage.write_shard(os.path.join(directory, name), records)
            # No time of writing, so that the same arrays come to the same dataset.json too.
            os.utime(os.path.join(directory, name), (0, 0))
            if made["layout"] == "both":
                link_shard(directory, subset, name)
            facts.append(manifest.shard_facts(directory, name, len(part), sha256))
        splits[subset] = manifest.split_of(facts)
    said = manifest.Manifest("digits", len(synsets), synsets, {"by": "conformance data digits", **made}, splits)
    with storage.writing(os.path.join(directory, manifest.NAME)):
        manifest.write(directory, said)
    return said


def _record(index: int, image: np.ndarray, digit: int, tree: Optional[str]) -> bytes:
    """Return the record of a digit, and write its JPEG into the class folder below ``tree``."""
    pixels = np.repeat(enlarged(image)[:, :, np.newaxis], 3, axis=2)
    encoded = tf.io.encode_jpeg(pixels, format="rgb", quality=100).numpy()
    synset, name = f"digit-{digit}", f"digit_{index:05d}.JPEG"
    if tree:
        storage.write_image(os.path.join(tree, synset, name), encoded)
    return example(encoded, DIGIT_SIDE, DIGIT_SIDE, digit + 1, synset.encode(), name.encode())
