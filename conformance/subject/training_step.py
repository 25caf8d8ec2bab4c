"""One traced step of training: from a batch to new weights."""

from typing import Any, Dict, Iterable, List, NamedTuple, Tuple

import tensorflow as tf

from conformance.data.training import Batch
from conformance.models import losses
from conformance.models.optimizers import Accumulator, Lars, Momentum, gradients, head
from conformance.models.resnet import ResNet

COMPUTE = {"fp32": tf.float32, "bf16": tf.bfloat16}


class Scalars(NamedTuple):
    """What one step tells, before its update; accuracies are of its own batch."""

    loss: float
    cross_entropy: float
    l2_loss: float
    accuracy: float
    accuracy_top_5: float


class Step:
    """A network, its optimiser and the step that changes them, as the arguments of a training job say."""

    def __init__(self, network: ResNet, a: Dict[str, Any]) -> None:
        self.network, self._a = network, a
        self._all = network.trainable_variables
        self._trained = head(self._all) if a["fine_tune"] else list(self._all)
        self._lars = a["optimizer"] == "lars"
        self.optimizer = (
            Lars(self._trained, a["momentum"], a["weight_decay"])
            if self._lars
            else Momentum(self._trained, a["momentum"])
        )
        self._whole = tf.function(self._update, autograph=False)
        if a["accumulate"] > 1:
            self._sums = Accumulator(self._trained)
            self._add, self._apply = (tf.function(f, autograph=False) for f in (self._accumulate, self._apply_mean))

    def __call__(self, batches: List[Batch], rate: float, share: float) -> Scalars:
        """Train on the micro-batches of one step; ``share`` is MixUp's."""
        fed_rate, fed_share = tf.constant(rate, tf.float32), tf.constant(share, tf.float32)
        if len(batches) == 1:
            return Scalars(*self._whole(*batches[0], fed_rate, fed_share).numpy().tolist())
        told = tf.add_n([self._add(*batch, fed_share) for batch in batches]) / len(batches)
        self._apply(fed_rate)
        return Scalars(*told.numpy().tolist())

    def _update(self, images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        told, found = self._gradients(images, labels, share)
        self.optimizer.apply(found, rate)
        return told

    def _accumulate(self, images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        told, found = self._gradients(images, labels, share)
        self._sums.add(found)
        return told

    def _apply_mean(self, rate: tf.Tensor) -> None:
        self.optimizer.apply(self._sums.take_mean(self._a["accumulate"]), rate)

    def _gradients(
        self, images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor
    ) -> Tuple[tf.Tensor, Iterable[tf.Tensor]]:
        a = self._a
        shares = losses.targets(labels, a["classes"], a["label_smoothing"])
        if a["mixup_alpha"]:
            images, shares = losses.mixup(images, shares, share)
        told: List[tf.Tensor] = []

        def loss() -> tf.Tensor:
            logits = self.network(images, training=True)
            entropy = losses.cross_entropy(logits, shares)
            # LARS decays by itself.
            decay = tf.constant(0.0) if self._lars else losses.weight_decay(self._all, a["weight_decay"])
            hits = [tf.reduce_mean(tf.cast(tf.math.in_top_k(labels, logits, k), tf.float32)) for k in (1, 5)]
            told.extend([entropy, decay, *hits])
            return entropy + decay

        value, found = gradients(loss, self._trained, a["loss_scale"])
        return tf.stack([value, *told]), found
