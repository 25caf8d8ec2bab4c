"""Train ResNet on the embedded digits at 32x32 and freeze it: the default that accuracy is judged on.

SGD with momentum 0.9, a linear warm-up and a cosine to zero, cross-entropy plus weight decay on all that is not
batch normalisation. Arguments of the job: model, data, classes, train_images, epochs, batch_size, learning_rate,
weight_decay, seed, output.
"""

import math
from typing import Any, Callable, Dict, List

import tensorflow as tf

from conformance.data import digits, imagenet
from conformance.data.preprocessing import DIGIT_SIDE
from conformance.data.shards import find_shards
from conformance.models.resnet import ResNet
from conformance.subject import runtime
from conformance.subject.accuracy import ranks
from conformance.subject.events import Events
from conformance.subject.freeze import frozen, write_graph
from conformance.wire import Job, WrongAnswer

MOMENTUM = 0.9


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate at a step: linear over the first tenth, then half a cosine down to zero.

    >>> [round(learning_rate(step, 100, 0.1), 3) for step in (0, 10, 55, 100)]
    [0.01, 0.1, 0.05, 0.0]
    """
    warmup = steps // 10
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def training_step(network: ResNet, weight_decay: float) -> Callable[..., tf.Tensor]:
    """Return a compiled step (images, labels, learning rate) -> loss that updates the network."""
    variables = network.trainable_variables
    decayed = [v for v in variables if "batch_normalization" not in v.name]
    velocities = [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(entropy) + weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in decayed])
        for variable, velocity, gradient in zip(variables, velocities, tape.gradient(loss, variables)):
            velocity.assign(MOMENTUM * velocity + gradient)
            variable.assign_sub(rate * velocity)
        return loss

    return step


def run(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    shards = find_shards(a["data"], "train")
    network = ResNet(a["model"], a["classes"], a["seed"])
    events.phase("train")
    losses = _train(network, shards, a, events)
    events.phase("freeze")
    write_graph(frozen(network, DIGIT_SIDE), a["output"])
    return {"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1], "top1": _top1(network, a, job)}


def _train(network: ResNet, shards: List[str], a: Dict[str, Any], events: Events) -> List[float]:
    dataset = digits.training_batches(shards, a["batch_size"], a["seed"])
    steps = a["epochs"] * (a["train_images"] // a["batch_size"])
    step = training_step(network, a["weight_decay"])
    losses: List[float] = []
    for images, labels in dataset.take(steps):
        rate = learning_rate(len(losses), steps, a["learning_rate"])
        losses.append(float(step(images, labels, tf.constant(rate, tf.float32))))
        if not math.isfinite(losses[-1]):
            raise WrongAnswer("The loss is %s at step %d." % (losses[-1], len(losses)), "Lower the learning rate.")
        events.progress(len(losses), steps, "steps", "loss %.4f" % losses[-1])
    return losses


def _top1(network: ResNet, a: Dict[str, Any], job: Job) -> float:
    shards = find_shards(a["data"], "validation")
    predict = tf.function(network)
    hits = total = 0
    for batch in imagenet.batches(shards, a["batch_size"], "digits", job.intra_op_threads):
        hits += int((ranks(predict(batch.images).numpy(), batch.labels) < 1).sum())
        total += len(batch.labels)
    return hits / total
