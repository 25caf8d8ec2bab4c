"""TensorFlow's runtime: what it is, and sessions over frozen graphs with the job's threads."""

import os
import platform
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from conformance.models.graphs import tensor_name
from conformance.subject.events import Events
from conformance.wire import STARTED, Job

Step = Callable[..., np.ndarray]

# The name in newer releases, and the one that TensorFlow 2.8 has.
ONEDNN_BFLOAT16 = ("auto_mixed_precision_onednn_bfloat16", "auto_mixed_precision_mkl")


def announce(job: Job, events: Events) -> None:
    """Send what this stack says of itself, once TensorFlow is imported."""
    events.send(
        STARTED,
        python=platform.python_version(),
        tensorflow=tf.__version__,
        numpy=np.__version__,
        inter_op_threads=job.inter_op_threads,
        intra_op_threads=job.intra_op_threads,
        affinity=sorted(os.sched_getaffinity(0)),
        plugins=loaded_plugins(),
    )


def loaded_plugins() -> List[str]:
    """Return the files of pluggable devices that this process has loaded, by its own memory map."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(None, 5)[-1].rstrip("\n") for line in maps if ".so" in line}
    return sorted(os.path.basename(path) for path in paths if os.path.dirname(path).endswith("/tensorflow-plugins"))


def session_config(job: Job, precision: str) -> tf.compat.v1.ConfigProto:
    """Return threads and rewrites: bf16 asks oneDNN's mixed precision of an fp32 graph."""
    config = tf.compat.v1.ConfigProto(
        inter_op_parallelism_threads=job.inter_op_threads, intra_op_parallelism_threads=job.intra_op_threads
    )
    if precision == "bf16":
        rewrites = config.graph_options.rewrite_options
        name = next(name for name in ONEDNN_BFLOAT16 if name in rewrites.DESCRIPTOR.fields_by_name)
        setattr(rewrites, name, rewriter_config_pb2.RewriterConfig.ON)
    return config


def eager_threads(job: Job) -> None:
    """Give the eager runtime the job's threads; only possible before it has started."""
    tf.config.threading.set_inter_op_parallelism_threads(job.inter_op_threads)
    tf.config.threading.set_intra_op_parallelism_threads(job.intra_op_threads)


def graph_step(job: Job, graph_def: Any, precision: str, input_name: str, output_name: str) -> Step:
    """Return a callable from images [B, H, W, C] float32 to outputs [B, classes] of a frozen graph."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    session = tf.compat.v1.Session(graph=graph, config=session_config(job, precision))
    feeds: List[Any] = [graph.get_tensor_by_name(tensor_name(input_name))]
    return session.make_callable(graph.get_tensor_by_name(tensor_name(output_name)), feeds)


def dummy_images(batch_size: int, height: int, width: int, seed: int) -> np.ndarray:
    """Draw images [B, H, W, 3] float32, uniform in 0 to 255 as the recipe's, aligned so that feeding copies nothing."""
    shape: Tuple[int, ...] = (batch_size, height, width, 3)
    size = int(np.prod(shape))
    buffer = np.empty(size + 16, dtype=np.float32)
    start = (-buffer.ctypes.data % 64) // 4
    images = buffer[start : start + size].reshape(shape)
    images[...] = np.random.default_rng(seed).uniform(0.0, 255.0, shape)
    return images


def package_versions(*names: str) -> Dict[str, str]:
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
