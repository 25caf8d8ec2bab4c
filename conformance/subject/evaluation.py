"""Judge a network that is being trained on every image of a validation split, the last partial batch too."""

from typing import Callable, Dict, List

import numpy as np
import tensorflow as tf

from conformance.data import imagenet
from conformance.models.resnet import ResNet
from conformance.subject.accuracy import ranks
from conformance.subject.events import Events
from conformance.wire import WrongAnswer


class Evaluation:
    """One traced prediction of a network as it computes in training, and the shards that it is judged on."""

    def __init__(self, network: ResNet, shards: List[str], dataset: str, image_size: int, batch_size: int) -> None:
        self._shards, self._dataset, self._batch_size = shards, dataset, batch_size
        images = tf.TensorSpec([None, image_size, image_size, 3], tf.float32)
        self._predict = tf.function(network.__call__, input_signature=[images], autograph=False)

    def hits(self, threads: int, events: Events, check: Callable[[], None]) -> Dict[str, int]:
        """Return top1_hits, top5_hits and images; ``check`` is called for each batch and may end it by raising."""
        images = top1_hits = top5_hits = 0
        for batch in imagenet.batches(self._shards, self._batch_size, self._dataset, threads):
            check()
            outputs = self._predict(batch.images).numpy()
            if not np.isfinite(outputs).all():
                raise WrongAnswer(
                    "The network's output for images %d to %d of the validation split holds NaN or Inf."
                    % (images, images + len(batch.labels) - 1),
                    "Lower the learning rate or lengthen its warm-up.",
                )
            rank = ranks(outputs, batch.labels)
            images += len(batch.labels)
            top1_hits += int((rank < 1).sum())
            top5_hits += int((rank < 5).sum())
            events.progress(images, 0, "images", "top-1 %.4f" % (top1_hits / images))
        return {"top1_hits": top1_hits, "top5_hits": top5_hits, "images": images}
