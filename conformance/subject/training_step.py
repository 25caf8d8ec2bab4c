"""One traced step of training: from a batch to new weights."""

import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import tensorflow as tf

from conformance.data.training import Batch
from conformance.models import losses
from conformance.models.optimizers import Accumulator, Lars, Momentum, gradients, head
from conformance.models.resnet import ResNet
from conformance.subject.ranks import Alone, Ranks

COMPUTE = {"fp32": tf.float32, "bf16": tf.bfloat16}


class Scalars(NamedTuple):
    """What one step tells, before its update; accuracies are of its own batch."""

    loss: float
    cross_entropy: float
    l2_loss: float
    accuracy: float
    accuracy_top_5: float


class Step:
    """A network, its optimiser and the step that changes them, as the arguments of a training job say.

    Where ranks are joined, ``compute_s`` has the seconds of each step until the gradients of this rank were there, and
    ``reduce_s`` those until the means of all were, which holds the wait for slower ranks.
    """

    def __init__(self, network: ResNet, a: Dict[str, Any], ranks: Optional[Ranks] = None) -> None:
        self.network, self._a, self._ranks = network, a, ranks or Alone()
        self.compute_s: List[float] = []
        self.reduce_s: List[float] = []
        self._all = network.trainable_variables
        self._trained = head(self._all) if a["fine_tune"] else list(self._all)
        self._lars = a["optimizer"] == "lars"
        self.optimizer = (
            Lars(self._trained, a["momentum"], a["weight_decay"])
            if self._lars
            else Momentum(self._trained, a["momentum"])
        )
        self._whole, self._found, self._apply = (
            tf.function(f, autograph=False) for f in (self._update, self._gradients, self.optimizer.apply)
        )
        # Of all ranks the mean is taken, whose parts of a step need not be the same.
        self._mean_over = a.get("dealt", a["accumulate"]) / self._ranks.size
        if self._mean_over != 1:
            self._sums = Accumulator(self._trained)
            self._add, self._mean = (tf.function(f, autograph=False) for f in (self._accumulate, self._take_mean))

    def __call__(self, batches: List[Batch], rate: float, share: float) -> Scalars:
        """Train on the micro-batches of one step; ``share`` is MixUp's."""
        fed_rate, fed_share = tf.constant(rate, tf.float32), tf.constant(share, tf.float32)
        if len(batches) == 1 and not self._ranks.joined:
            return Scalars(*self._whole(*batches[0], fed_rate, fed_share).numpy().tolist())
        begun = time.perf_counter()
        told, found = self._found_in(batches, fed_share)
        computed = time.perf_counter()
        told, found = self._ranks.reduce(told, found)
        reduced = time.perf_counter()
        self._apply(found, fed_rate)
        self.compute_s.append(computed - begun)
        self.reduce_s.append(reduced - computed)
        return Scalars(*told.numpy().tolist())

    @property
    def frozen(self) -> List[tf.Variable]:
        """The weights that are not trained."""
        trained = {id(variable) for variable in self._trained}
        return [variable for variable in self._all if id(variable) not in trained]

    def reduction_s(self) -> Optional[float]:
        """Return the median of some reductions of what a step reduces, in seconds, with nothing else to do."""
        return self._ranks.reduction_s(self._trained)

    def _found_in(self, batches: List[Batch], share: tf.Tensor) -> Tuple[tf.Tensor, List[tf.Tensor]]:
        if self._mean_over == 1:
            return self._found(*batches[0], share)
        told = tf.add_n([self._add(*batch, share) for batch in batches]) / self._mean_over
        return told, self._mean()

    def _update(self, images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        told, found = self._gradients(images, labels, share)
        self.optimizer.apply(found, rate)
        return told

    def _accumulate(self, images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        told, found = self._gradients(images, labels, share)
        self._sums.add(found)
        return told

    def _take_mean(self) -> List[tf.Tensor]:
        return self._sums.take_mean(self._mean_over)

    def _gradients(self, images: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> Tuple[tf.Tensor, List[tf.Tensor]]:
        a = self._a
        shares = losses.targets(labels, a["classes"], a["label_smoothing"])
        if a["mixup_alpha"]:
            images, shares = losses.mixup(tf.cast(images, tf.float32), shares, share)
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
