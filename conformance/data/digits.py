"""The digits set: 1797 real scans of handwritten digits as TFRecords in the ImageNet schema.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
UCI 1998), 8 x 8 pixels of 0 to 16, which scikit-learn carries. Labels are digit + 1.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import tensorflow as tf

from conformance.data.imagenet import parse
from conformance.data.preprocessing import DIGIT_SIDE, digits_train
from conformance.data.shards import file_sha256, find_shards, shards_digest
from conformance.wire import Refused

SUBSETS = ("train", "validation")
_FORMAT = 1  # raised when the same arrays and seed come to other files
_SIDE, _LEVELS = 8, 16
_VALIDATION_SHARE = 0.2


def write_digits(arrays_npz: str, output_dir: str, seed: int, shards: int) -> Dict[str, Any]:
    """Write the arrays as ``shards`` train and as many validation files; return what dataset.json says.

    ``arrays_npz`` holds ``images`` [N, 8, 8] of 0 to 16 and ``labels`` [N] of 0 to 9. A directory
    that already holds exactly this set is left alone; anything else in the way raises Refused.
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
        "arrays_sha256": _arrays_sha256(images, labels),
    }
    if os.path.isdir(output_dir) and os.listdir(output_dir):
        return _existing(output_dir, wanted)
    parent = os.path.dirname(os.path.abspath(output_dir))
    os.makedirs(parent, exist_ok=True)
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
    expected = _said(directory)["sha256"]
    paths = [path for subset in SUBSETS for path in find_shards(directory, subset)]
    for path in paths:
        name, digest = os.path.basename(path), file_sha256(path)
        if digest != expected.get(name):
            message = f"{name} in {directory!r} has SHA-256 {digest}, dataset.json says {expected.get(name)}."
            raise Refused(message, f"Delete {directory!r}; it is written again from the arrays.")
    return shards_digest(paths)


def training_batches(shards: Sequence[str], batch_size: int, seed: int) -> tf.data.Dataset:
    """Return endless (images, labels) batches; the seed decides the order and the moves of every epoch."""

    def augmented(step: tf.Tensor, example: Tuple[tf.Tensor, ...]) -> Tuple[tf.Tensor, tf.Tensor]:
        encoded, label, _ = example
        return digits_train(encoded, tf.stack([tf.constant(seed, tf.int64), step])), label

    examples = tf.data.TFRecordDataset(list(shards)).map(parse).cache()
    endless = examples.shuffle(2048, seed=seed).repeat().enumerate()
    return endless.map(augmented, num_parallel_calls=2, deterministic=True).batch(batch_size).prefetch(2)


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


def _existing(directory: str, wanted: Dict[str, Any]) -> Dict[str, Any]:
    said = _said(directory)
    for key, value in wanted.items():
        if said.get(key) != value:
            message = f"{directory!r} holds another set of digits: its {key} is {said.get(key)!r}, not {value!r}."
            raise Refused(message, "Delete it or name another directory.")
    dataset_digest(directory)
    return said


def _said(directory: str) -> Dict[str, Any]:
    path = os.path.join(directory, "dataset.json")
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        message = f"{directory!r} is no complete set of digits: it has no readable dataset.json."
        raise Refused(message, "Delete it or name another directory.") from None


def _write_set(directory: str, images: np.ndarray, labels: np.ndarray, wanted: Dict[str, Any]) -> Dict[str, Any]:
    rng = np.random.RandomState(wanted["seed"])
    counts, digests = {}, {}
    for subset, chosen in zip(SUBSETS, split(labels, wanted["seed"])):
        counts[subset] = len(chosen)
        shuffled = rng.permutation(chosen)
        for number in range(wanted["shards"]):
            name = f"{subset}-{number:05d}-of-{wanted['shards']:05d}"
            path = os.path.join(directory, name)
            with tf.io.TFRecordWriter(path) as writer:
                for index in shuffled[number :: wanted["shards"]]:
                    writer.write(_example(int(index), images[index], int(labels[index])))
            digests[name] = file_sha256(path)
    said = {**wanted, "counts": counts, "sha256": digests}
    with open(os.path.join(directory, "dataset.json"), "w", encoding="utf-8") as file:
        json.dump(said, file, indent=1, sort_keys=True)
    return said


def _example(index: int, image: np.ndarray, digit: int) -> bytes:
    pixels = np.repeat(enlarged(image)[:, :, np.newaxis], 3, axis=2)
    encoded = tf.io.encode_jpeg(pixels, format="rgb", quality=100).numpy()
    numbers = {"height": DIGIT_SIDE, "width": DIGIT_SIDE, "channels": 3, "class/label": digit + 1}
    texts = {
        "colorspace": b"RGB",
        "class/synset": b"digit-%d" % digit,
        "format": b"JPEG",
        "filename": b"digit_%05d.JPEG" % index,
        "encoded": encoded,
    }
    feature = {
        "image/" + name: tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
        for name, number in numbers.items()
    }
    for name, text in texts.items():
        feature["image/" + name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True))
