"""Training images from the media engine of a Gaudi2, which decodes, crops and flips JPEGs itself.

Habana's dataset (habana_frameworks.tensorflow.media of habana-tensorflow 1.6.1) gives batches without end: images as
the pipelines of tf.data, labels as float32. Its reader counts the sorted class folders from 0, and the networks here
count them from 1, as the records do. Nothing else of it can be chosen: its seed is the time, and the order of its
images is its own. It is for training only: a validation split is judged by tf.data on every device, so that its answers
are those of the same pixels.

This has not run on a Gaudi2.
"""

from typing import Any, Iterable, Iterator

import tensorflow as tf

from conformance.data.imagenet import LABELS, first_line
from conformance.data.training import IMAGE_TYPES, Batch
from conformance.wire import Refused

PATH = "hpu_media_loader"  # the name of the decision for it


def batches(directory: str, batch_size: int, image_size: int, image_type: str, dataset: str) -> Iterator[Batch]:
    """Yield batches of ``directory``/train, of this rank's share; raises Refused where they cannot be had."""
    try:
        from habana_frameworks.tensorflow.media import habana_imagenet_dataset
    except Exception as error:  # a missing package, or a library of SynapseAI that does not load
        first = (str(error).splitlines() or ["?"])[0].rstrip(".")
        told = "The media loader of the HPU cannot be imported: %s." % first
        raise Refused(told, "Install hpu-media-loader of the same release as habana-tensorflow.") from None
    made = habana_imagenet_dataset(
        fallback=_no_fallback,
        is_training=True,
        tf_data_dir=directory,  # else it would raise an error of its own where it falls back
        jpeg_data_dir=directory,
        batch_size=batch_size,
        num_channels=3,
        img_size=image_size,
        dtype=IMAGE_TYPES[image_type],
        use_distributed_eval=False,
    )
    return labelled(made, directory, dataset)


def labelled(made: Iterable[Any], directory: str, dataset: str) -> Iterator[Batch]:
    """Yield the loader's batches with the labels of the records: int64, from 1.

    Raises Refused for a label that a loader which counts from 0 cannot give: then all would be those of other classes.
    """
    highest = LABELS[dataset]
    iterator = iter(made)
    while True:
        try:
            images, told = next(iterator)
        except tf.errors.OpError as error:
            found = "The media loader cannot use an image of %r: %s." % (directory, first_line(error))
            raise Refused(found, "Read what it says in the log.") from None
        labels = 1 + tf.cast(tf.reshape(told, [-1]), tf.int64)
        low, high = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
        if low < 1 or high > highest:
            wrong = low - 1 if low < 1 else high - 1
            found = "The media loader gave the label %d for an image of %r; %d classes are counted from 0, to %d."
            hint = "Train from records, or give the class folders of this data set only."
            raise Refused(found % (wrong, directory, highest, highest - 1), hint)
        yield images, labels


def _no_fallback(**given: Any) -> Any:
    told = "The media loader of the HPU was to be used, and Habana's library chose to fall back."
    raise Refused(told, "Read in the log why, or leave out --jpeg-data-dir.")
