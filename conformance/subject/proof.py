"""Proof of precision: what an untimed pass under oneDNN's verbose log shows, before anything is measured."""

from typing import Any, Dict

import numpy as np
import tensorflow as tf

from conformance.models.graphs import tensor_name
from conformance.subject import onednn
from conformance.subject.verbose_pass import Log, Subject


def shown(subject: Subject, images: np.ndarray, log: Log) -> Dict[str, Any]:
    """Return what the log of one step of ``images`` shows.

    Keys: native_share, kernels, flop_per_image (convolutions), layers (`onednn.layers`), step_s (seconds of that step,
    beside the subject's own work), onednn (version, runtime, isa), and error, which is None or the words of what went
    wrong, in which case nothing is proven and native_share is 0.
    """
    expected = convolution_flop(subject, images)
    read = onednn.parse(log.lines)
    total = max(expected, sum(item.flop for item in read.work))
    error = log.error
    if not (error or read.work):
        error = "oneDNN's verbose log shows no convolution"
    return {
        "native_share": 0.0 if error else onednn.native_share(read.work, subject.precision, expected),
        "kernels": onednn.kernels(read.work),
        "flop_per_image": total / len(images),
        "layers": onednn.layers(read.timed),
        "step_s": log.step_s,
        "onednn": {"version": read.version, "runtime": read.runtime, "isa": read.isa},
        "error": error,
    }


def convolution_flop(subject: Subject, images: np.ndarray) -> int:
    """Return the FLOPs of all convolutions of a graph for these images, by its static shapes; 0 where unknown."""
    graph = tf.Graph()
    with graph.as_default():
        fed = tf.compat.v1.placeholder(tf.float32, images.shape)
        tf.import_graph_def(_without_values(subject.graph_def), {tensor_name(subject.input_name): fed}, name="")
    flop = 0
    for operation in graph.get_operations():
        if "Conv2D" in operation.type:
            # The operand after the images that has four dimensions: paddings come before it in fused operations.
            kernel = next((x.shape for x in operation.inputs[1:] if x.shape.rank in (4, None)), tf.TensorShape(None))
            output = operation.outputs[0].shape
            if not (kernel.is_fully_defined() and output.is_fully_defined()):
                return 0
            flop += 2 * int(np.prod(output.as_list())) * int(np.prod(kernel.as_list()[:3]))
    return flop


def _without_values(graph_def: Any) -> Any:
    """Return the graph with placeholders for its large constants: shapes do not follow from weights."""
    result = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.op == "Const" and node.ByteSize() > 4096:
            empty = result.node.add(name=node.name, op="Placeholder")
            empty.attr["dtype"].CopyFrom(node.attr["dtype"])
            empty.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
        else:
            result.node.add().CopyFrom(node)
    return result
