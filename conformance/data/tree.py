"""A data set as JPEGs in a folder for each class, which need no conversion: ``train/n01440764/*.JPEG`` and ``val/``.

The label of an image is the place of its folder among the sorted ones, from 1, which is what the records of the same
images hold; a PNG or a CMYK file of that name becomes the JPEG that a conversion would have stored.
"""

import os
import re
from typing import Any, Callable, Iterable, List, Set, Tuple, Union

import numpy as np
import tensorflow as tf

from conformance.data import jpegs
from conformance.data.imagenet import LABELS, Source, first_line
from conformance.data.preprocessing import EVALUATIONS
from conformance.data.shards import find_shards, has_shards
from conformance.wire import Refused

RECORDS, TREE = "records", "tree"  # the layouts of a data set
FOLDERS = {"train": ("train",), "validation": ("val", "validation")}  # where the classes of a split lie
SUFFIXES = (".jpeg", ".jpg")  # in any case
_SYNSETS = {"imagenet": re.compile(r"n\d{8}"), "digits": re.compile(r"digit-\d")}
_WANTED = "Give the directory of train-*-of-* files, or that of class folders as train/n01440764 and val/n01440764."
_MEND = "Unpack it again from the archives, or delete what does not belong there."


def find_images(directory: str, subset: str, dataset: str) -> Union[List[str], "Tree"]:
    """Return the paths of a split's shards, or its tree; raises Refused for what is neither whole."""
    return find_tree(directory, subset, dataset) if layout(directory) == TREE else find_shards(directory, subset)


def layout(directory: str) -> str:
    """Return RECORDS or TREE, by the names in a directory; raises Refused for both and for neither."""
    if not os.path.isdir(directory):
        raise Refused(f"The dataset directory {directory!r} does not exist.", _WANTED)
    shards = [f"{subset}-*-of-*" for subset in FOLDERS if has_shards(directory, subset)]
    places = [folder for folders in FOLDERS.values() for folder in folders]
    classes = [f"{place}/{name}" for place in places for name in _folders(os.path.join(directory, place))]
    synsets = [path for path in classes if _SYNSETS["imagenet"].fullmatch(os.path.basename(path))]
    if shards and synsets:
        message = f"{directory!r} holds both records, {shards[0]}, and class folders, such as {synsets[0]!r}."
        raise Refused(message, "Name a directory that holds one of them.")
    if not shards and not classes:
        found = sorted(os.listdir(directory))
        holds = f"holds {len(found)} other entries, such as {found[0]!r}" if found else "is empty"
        looked = "neither a file train-*-of-* or validation-*-of-* nor a class folder in train, val or validation"
        raise Refused(f"There is {looked} in {directory!r}, which {holds}.", _WANTED)
    return RECORDS if shards else TREE


def find_tree(directory: str, subset: str, dataset: str) -> "Tree":
    """Return the images of a split in class folders, sorted by their names.

    Raises Refused, with the path, for a folder that is no class of the data set, one that is empty or not in the other
    split, for more classes than the data set has, and for a file that is not named as a JPEG. Hidden files are passed
    over.
    """
    roots = {split: _root(directory, split) for split in FOLDERS}
    root = roots[subset]
    if not root:
        looked = " or ".join(repr(os.path.join(directory, folder)) for folder in FOLDERS[subset])
        raise Refused(f"There is no class folder in {looked}.", _WANTED)
    synsets = _folders(root)
    for synset in synsets:
        if not _SYNSETS[dataset].fullmatch(synset):
            known = "a WordNet id such as n01440764" if dataset == "imagenet" else "digit-0 to digit-9"
            raise Refused(f"{os.path.join(root, synset)!r} is no class folder: its name is not {known}.", _MEND)
    if len(synsets) > LABELS[dataset]:
        message = f"{root!r} holds {len(synsets):,} class folders; allowed are 1 to {LABELS[dataset]:,}."
        raise Refused(message, f"Give the class folders of {dataset!r} only.")
    if all(roots.values()):
        _check_same(roots["train"], roots["validation"])
    loose = [entry.name for entry in _visible(root) if entry.name not in synsets]
    if loose:
        raise Refused(f"{os.path.join(root, loose[0])!r} lies beside the class folders, not in one.", _MEND)
    names: List[bytes] = []
    labels: List[int] = []
    for label, synset in enumerate(synsets, 1):
        files = _files(os.path.join(root, synset))
        names.extend(os.fsencode(f"{synset}/{name}") for name in files)
        labels.extend([label] * len(files))
    return Tree(root, np.array(names), np.array(labels, np.int64))


class Tree(Source):
    """The images of a split; one is known by its number, its place among their sorted names."""

    def __init__(self, root: str, names: np.ndarray, labels: np.ndarray) -> None:
        self.root, self.images = root, len(names)
        self._names, self._labels = tf.constant(names), tf.constant(labels)

    def elements(self, threads: int) -> tf.data.Dataset:
        """Return (path, number, number) of each image, in the order of their names."""
        return tf.data.Dataset.range(self.images).map(lambda number: (self._path(number), number, number))

    def shuffled(self, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        """Return the numbers of all images in the order of an epoch, int [images]; it follows from the arguments."""
        drawn = tf.random.stateless_uniform(
            [self.images], tf.stack([tf.constant(seed, tf.int64), epoch]), None, None, tf.int64
        )
        return tf.argsort(drawn)

    def load(self, element: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        encoded = as_stored(tf.io.read_file(self._path(element)))
        filename = tf.strings.regex_replace(tf.gather(self._names, element), "^[^/]*/", "")
        return encoded, tf.gather(self._labels, element), filename

    def blame(self, dataset: str, done: int) -> None:
        self.check(range(done, self.images), EVALUATIONS[dataset])

    def check(self, numbers: Iterable[Any], use: Callable[[tf.Tensor], Any]) -> None:
        """Raise Refused with the path of the first of these images that cannot be read, or that ``use`` cannot take."""
        for number in numbers:
            path = self._path(number).numpy().decode("utf-8", "surrogateescape")
            try:
                with open(path, "rb") as file:
                    use(jpegs.stored(file.read()).encoded)
            except (OSError, ValueError, tf.errors.OpError) as error:
                reason = first_line(error) if isinstance(error, tf.errors.OpError) else str(error)
                reason = error.strerror or reason if isinstance(error, OSError) else reason
                raise Refused(f"{path!r} cannot be used as a JPEG: {reason}.", _MEND) from None

    def _path(self, number: tf.Tensor) -> tf.Tensor:
        return tf.strings.join([self.root, tf.gather(self._names, number)], "/")


def as_stored(encoded: tf.Tensor) -> tf.Tensor:
    """Return the bytes of an image as a conversion stores it, in a graph: see ``jpegs.stored``."""

    def of_jpeg() -> tf.Tensor:
        # CMYK or YCCK; what is no JPEG at all ends here.
        inks = tf.equal(tf.io.extract_jpeg_shape(encoded)[2], 4)
        return tf.cond(inks, lambda: again(tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")), as_it_is)

    def of_png() -> tf.Tensor:
        return again(tf.io.decode_png(encoded, 3))

    def again(pixels: tf.Tensor) -> tf.Tensor:
        return tf.io.encode_jpeg(pixels, format="rgb", quality=jpegs.QUALITY)

    def as_it_is() -> tf.Tensor:
        return tf.identity(encoded)

    return tf.cond(tf.equal(tf.strings.substr(encoded, 0, len(jpegs.PNG)), jpegs.PNG), of_png, of_jpeg)


def _root(directory: str, subset: str) -> str:
    """Return the directory of a split's class folders; empty where there is none."""
    places = [os.path.join(directory, folder) for folder in FOLDERS[subset]]
    found = [place for place in places if _folders(place)]
    if len(found) > 1:
        raise Refused(f"There are class folders in {found[0]!r} and in {found[1]!r}.", "Leave one of them.")
    return found[0] if found else ""


def _check_same(train: str, validation: str) -> None:
    synsets = {root: set(_folders(root)) for root in (train, validation)}
    for root, other in ((train, validation), (validation, train)):
        alone: Set[str] = synsets[root] - synsets[other]
        if alone:
            message = f"Class folder {min(alone)!r} is in {root!r} and not in {other!r}."
            raise Refused(message, "Give both splits the same classes; the label of each is its place among them.")


def _folders(place: str) -> List[str]:
    return sorted(entry.name for entry in _visible(place) if entry.is_dir()) if os.path.isdir(place) else []


def _files(place: str) -> List[str]:
    """Return the names of a class folder's images, sorted by their bytes."""
    found = _visible(place)
    for entry in found:
        if entry.is_dir() or not entry.name.lower().endswith(SUFFIXES):
            what = "is a directory" if entry.is_dir() else "is not named as a JPEG"
            raise Refused(f"{entry.path!r} {what}; a class folder holds files such as 'n01440764_10026.JPEG'.", _MEND)
    if not found:
        raise Refused(f"Class folder {place!r} is empty.", _MEND)
    return [entry.name for entry in found]


def _visible(place: str) -> "List[os.DirEntry[str]]":
    try:
        with os.scandir(place) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise Refused(f"{place!r} cannot be read: {error.strerror}.", "Get leave to read it.") from None
    return sorted(found, key=lambda entry: os.fsencode(entry.name))
