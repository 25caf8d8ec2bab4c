"""Proof of precision: an untimed pass under oneDNN's verbose log, before anything is measured.

oneDNN reads ONEDNN_VERBOSE once and for the whole process, and printing would slow what is timed. So the
pass runs in a fork of this process, made after TensorFlow's import (which is not paid again) and before
its runtime starts any thread.
"""

import os
import sys
import tempfile
import traceback
from typing import Any, Dict, NamedTuple

import numpy as np
import tensorflow as tf

from conformance.subject import onednn
from conformance.subject.runtime import graph_step
from conformance.wire import Job


class Subject(NamedTuple):
    """A graph as it is to be run: parsed, with its tensors' names and its claimed precision."""

    graph_def: Any
    precision: str
    input_name: str
    output_name: str


def prove(subject: Subject, images: np.ndarray, job: Job) -> Dict[str, Any]:
    """Run one step of ``images`` under the verbose log and return what it shows.

    Keys: native_share, kernels, flop_per_image (convolutions), onednn (version, runtime, isa), and error, which
    is None or the words of what went wrong, in which case nothing is proven and native_share is 0.
    """
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _run_and_exit(subject, images, job, log.fileno())
        _, status = os.waitpid(child, 0)
        log.seek(0)
        read = onednn.parse(line.decode("utf-8", "replace") for line in log)
    expected = convolution_flop(subject, images)
    total = max(expected, sum(item.flop for item in read.work))
    error = None
    if status != 0:
        error = "the pass under the verbose log ended with wait status %d" % status
    elif not read.work:
        error = "oneDNN's verbose log shows no convolution"
    return {
        "native_share": 0.0 if error else onednn.native_share(read.work, subject.precision, expected),
        "kernels": onednn.kernels(read.work),
        "flop_per_image": total / len(images),
        "onednn": {"version": read.version, "runtime": read.runtime, "isa": read.isa},
        "error": error,
    }


def _run_and_exit(subject: Subject, images: np.ndarray, job: Job, log_fd: int) -> None:
    status = 1
    try:
        step = graph_step(subject.graph_def, job, subject.precision, subject.input_name, subject.output_name)
        os.environ["ONEDNN_VERBOSE"] = "1"
        os.dup2(log_fd, 1)
        step(images)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def convolution_flop(subject: Subject, images: np.ndarray) -> int:
    """Return the FLOPs of all convolutions of a graph for these images, by its static shapes; 0 where unknown."""
    graph = tf.Graph()
    with graph.as_default():
        fed = tf.compat.v1.placeholder(tf.float32, images.shape)
        tf.import_graph_def(subject.graph_def, {subject.input_name + ":0": fed}, name="")
    flop = 0
    for operation in graph.get_operations():
        if "Conv2D" in operation.type and len(operation.inputs) > 1:
            kernel, output = operation.inputs[1].shape, operation.outputs[0].shape
            if not (kernel.is_fully_defined() and output.is_fully_defined()):
                return 0
            flop += 2 * int(np.prod(output.as_list())) * int(np.prod(kernel.as_list()[:3]))
    return flop
