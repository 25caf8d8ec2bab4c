"""Judge a network that is being trained on every image of a validation split, the last partial batch too."""

import itertools
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from conformance.data import imagenet
from conformance.data.training import IMAGE_TYPES
from conformance.models.resnet import ResNet
from conformance.subject import accuracy
from conformance.subject.events import Events
from conformance.subject.ranks import Ranks
from conformance.wire import WrongAnswer


class Evaluation:
    """One traced prediction of a network as it computes in training, and the images that it is judged on.

    The ranks take turns at the batches.
    """

    def __init__(
        self,
        network: ResNet,
        shards: Union[Sequence[str], imagenet.Source],
        dataset: str,
        image_size: int,
        batch_size: int,
        ranks: Ranks,
        image_type: str = "fp32",
    ) -> None:
        self._shards, self._dataset, self._batch_size, self._ranks = shards, dataset, batch_size, ranks

        def predict(images: tf.Tensor) -> tf.Tensor:
            return network(tf.cast(images, IMAGE_TYPES[image_type]))

        images = tf.TensorSpec([None, image_size, image_size, 3], tf.float32)
        self._predict = tf.function(predict, input_signature=[images], autograph=False)

    @property
    def judges(self) -> bool:
        """Whether there are images to judge the network on."""
        return bool(self._shards)

    def classes(self, threads: int, predict: Optional[Callable[[tf.Tensor], tf.Tensor]] = None) -> np.ndarray:
        """Return the class of each image of the split, as this process alone sees it.

        ``predict`` stands in place of the network. The first prediction of the network decides in which type it
        computes in all of them.
        """
        answer = predict or self._predict
        batches = imagenet.batches(self._shards, self._batch_size, self._dataset, threads)
        return np.concatenate([answer(tf.constant(batch.images)).numpy().argmax(1) for batch in batches])

    def hits(self, threads: int, events: Events, check: Callable[[], None]) -> Dict[str, Any]:
        """Return top1_hits, top5_hits, images, and ``correct``: a bit for each image in the order of the split, as hex.

        They are those of all ranks. ``check`` is called for each batch and may end it by raising.
        """
        images = top1_hits = top5_hits = 0
        correct: List[np.ndarray] = []
        part = self._ranks.rank, self._ranks.size
        for batch in imagenet.batches(self._shards, self._batch_size, self._dataset, threads, part=part):
            check()
            outputs = self._predict(batch.images).numpy()
            if not np.isfinite(outputs).all():
                first = (len(correct) * self._ranks.size + self._ranks.rank) * self._batch_size
                raise WrongAnswer(
                    "The network's output for images %d to %d of the validation split holds NaN or Inf."
                    % (first, first + len(batch.labels) - 1),
                    "Lower the learning rate or lengthen its warm-up.",
                )
            rank = accuracy.ranks(outputs, batch.labels)
            images += len(batch.labels)
            correct.append(rank < 1)
            top1_hits += int(correct[-1].sum())
            top5_hits += int((rank < 5).sum())
            events.progress(images, 0, "images", "top-1 %.4f" % (top1_hits / images))
        top1_hits, top5_hits, images = self._ranks.sum([top1_hits, top5_hits, images])
        turns = itertools.zip_longest(*self._ranks.gather(correct), fillvalue=np.zeros(0, bool))
        correct = [own for turn in turns for own in turn]
        bits = np.packbits(np.concatenate(correct)).tobytes().hex() if correct else ""
        return {"top1_hits": top1_hits, "top5_hits": top5_hits, "images": images, "correct": bits}
