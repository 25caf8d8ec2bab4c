"""From a loss to new weights: gradients under a loss scale, their accumulation, momentum and LARS.

Everything is float32 and plain variables; a rate is a scalar tensor, so that one traced step serves all rates.
"""

from typing import Callable, Iterable, List, Sequence, Tuple

import tensorflow as tf


def head(variables: Iterable[tf.Variable]) -> List[tf.Variable]:
    """Return the variables that fine-tuning trains: those of the dense layer, as Habana's --fine_tune."""
    return [variable for variable in variables if "dense" in variable.name]


def gradients(
    loss: Callable[[], tf.Tensor], variables: Sequence[tf.Variable], loss_scale: float = 1.0
) -> Tuple[tf.Tensor, List[tf.Tensor]]:
    """Return the loss and its gradients; the scale keeps small ones above zero on the way back and is taken out."""
    with tf.GradientTape() as tape:
        value = loss()
        scaled = value * loss_scale
    return value, [gradient / loss_scale for gradient in tape.gradient(scaled, variables)]


class Accumulator:
    """Sums the gradients of micro-batches of the same size, for one step as of all of them at once."""

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        self.sums = _zeros(variables)

    def add(self, gradients: Sequence[tf.Tensor]) -> None:
        for total, gradient in zip(self.sums, gradients):
            total.assign_add(gradient)

    def take_mean(self, count: float) -> List[tf.Tensor]:
        """Return the mean of what ``count`` micro-batches gave, and start again at zero."""
        means = [total / count for total in self.sums]
        for total in self.sums:
            total.assign(tf.zeros_like(total))
        return means


class Momentum:
    """v <- momentum v + g, w <- w - rate v, not Nesterov's. ``velocities`` are the state, for a checkpoint."""

    def __init__(self, variables: Sequence[tf.Variable], momentum: float) -> None:
        self.variables, self.momentum = list(variables), momentum
        self.velocities = _zeros(variables)

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        """Move the variables; ``gradients`` are theirs, in their order."""
        for variable, velocity, gradient in zip(self.variables, self.velocities, gradients):
            # One operation for both: several would pass over memory twice as often, for the same bits.
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle, accum=velocity.handle, lr=rate, grad=gradient, momentum=self.momentum
            )


class Lars(Momentum):
    """Layer-wise rates for large batches: You et al. 2017, arXiv:1708.03888, as MLPerf's LARSOptimizer computes them.

    v <- momentum v + rate trust (g + decay w), w <- w - v, where trust = 0.001 |w| / (|g| + decay |w|), or 1 where a
    norm is 0. Batch normalisations and biases get neither trust nor decay. The decay is here and not in the loss.
    """

    TRUST = 0.001
    SKIPPED = ("batch_normalization", "bias")

    def __init__(self, variables: Sequence[tf.Variable], momentum: float, decay: float) -> None:
        super().__init__(variables, momentum)
        self.decay = decay

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        for variable, velocity, gradient in zip(self.variables, self.velocities, gradients):
            change = gradient
            if not any(part in variable.name for part in self.SKIPPED):
                weights, slope = tf.norm(variable), tf.norm(gradient)
                trust = self.TRUST * weights / (slope + self.decay * weights)
                trust = tf.where((weights > 0) & (slope > 0), trust, 1.0)
                change = trust * (gradient + self.decay * variable)
            velocity.assign(self.momentum * velocity + rate * change)
            variable.assign_sub(velocity)


def _zeros(variables: Sequence[tf.Variable]) -> List[tf.Variable]:
    return [tf.Variable(tf.zeros(variable.shape), trainable=False) for variable in variables]
