"""Proof of precision: an untimed pass under oneDNN's verbose log, before anything is measured.

oneDNN reads ONEDNN_VERBOSE once and for the whole process, and printing would slow what is timed. So the
pass runs in a fork of this process, made after TensorFlow's import (which is not paid again) and before
its runtime starts any thread; the graph is loaded here while the fork loads it there.
"""

import os
import tempfile
from typing import Any, Dict, NamedTuple

import numpy as np
import tensorflow as tf

from conformance.models.graphs import tensor_name
from conformance.subject import onednn
from conformance.subject.forks import Fork, ForkFailed
from conformance.subject.runtime import graph_step, imported
from conformance.wire import Job


class Subject(NamedTuple):
    """A graph as it is to be run: parsed, with its tensors' names and its claimed precision."""

    graph_def: Any
    precision: str
    input_name: str
    output_name: str


class Proof:
    """One step of ``images`` under the verbose log, begun beside this process; ``shown`` waits for what it shows.

    ``graph`` is the subject's, imported once for both processes.
    """

    def __init__(self, subject: Subject, images: np.ndarray, job: Job) -> None:
        self.graph = imported(subject.graph_def)
        self._subject, self._images = subject, images
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by shown)
        self._fork = Fork(lambda: _run(self.graph, subject, images, job, self._log.fileno()))

    def shown(self) -> Dict[str, Any]:
        """Return what the log shows; to be asked once.

        Keys: native_share, kernels, flop_per_image (convolutions), onednn (version, runtime, isa), and error, which
        is None or the words of what went wrong, in which case nothing is proven and native_share is 0.
        """
        error = None
        expected = convolution_flop(self._subject, self._images)
        with self._log as log:
            try:
                self._fork.answer()
            except ForkFailed as failed:
                error = "the pass under the verbose log ended with wait status %d" % failed.status
            log.seek(0)
            read = onednn.parse(line.decode("utf-8", "replace") for line in log)
        total = max(expected, sum(item.flop for item in read.work))
        if not (error or read.work):
            error = "oneDNN's verbose log shows no convolution"
        return {
            "native_share": 0.0 if error else onednn.native_share(read.work, self._subject.precision, expected),
            "kernels": onednn.kernels(read.work),
            "flop_per_image": total / len(self._images),
            "onednn": {"version": read.version, "runtime": read.runtime, "isa": read.isa},
            "error": error,
        }


def prove(subject: Subject, images: np.ndarray, job: Job) -> Dict[str, Any]:
    """Run one step of ``images`` under the verbose log, and return what ``Proof.shown`` does."""
    return Proof(subject, images, job).shown()


def _run(graph: tf.Graph, subject: Subject, images: np.ndarray, job: Job, log_fd: int) -> bytes:
    step = graph_step(graph, job, subject.precision, subject.input_name, subject.output_name)
    os.environ["ONEDNN_VERBOSE"] = "1"
    os.dup2(log_fd, 1)
    step(images)
    return b""


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
