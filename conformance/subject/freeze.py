"""Freeze a network into a GraphDef with the recipe's tensor names: ``input_tensor`` and ``softmax_tensor``.

As a job: ResNet with seeded weights, for speed on dummy data only; no accuracy is ever taken of it. Arguments:
model, classes, image_size, seed, output.
"""

import os
from typing import Any, Callable, Dict

import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from conformance.models.resnet import ResNet
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job


def frozen(network: Callable[[tf.Tensor], tf.Tensor], image_size: int) -> Any:
    """Return the GraphDef of softmax(network(images)), weights as constants, any batch size."""
    signature = [tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="input_tensor")]

    @tf.function(input_signature=signature)
    def predict(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(network(images), name="softmax_tensor")

    function = convert_variables_to_constants_v2(predict.get_concrete_function())
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(function.graph.as_graph_def(), ["softmax_tensor"])
    strip_defaults(graph_def)
    return graph_def


def strip_defaults(graph_def: Any) -> None:
    """Remove attributes that have their default: an older TensorFlow, which knows them not, then loads the graph."""
    for node in graph_def.node:
        known = op_def_registry.get(node.op)
        for attribute in known.attr if known else ():
            if attribute.HasField("default_value") and node.attr.get(attribute.name) == attribute.default_value:
                del node.attr[attribute.name]


def write_graph(graph_def: Any, path: str) -> None:
    """Write a graph as a whole or not at all."""
    with open(path + ".part", "wb") as file:
        file.write(graph_def.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


def run(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    events.phase("freeze seeded weights")
    write_graph(frozen(ResNet(a["model"], a["classes"], a["seed"]), a["image_size"]), a["output"])
    return {}
