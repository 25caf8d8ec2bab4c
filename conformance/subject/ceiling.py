"""The machine's own ceiling: a square matrix product in one data type, through TensorFlow.

fp32 and bf16 are ``tf.matmul``. int8 is the same product written as a 1x1 convolution, because that is the one
quantised operation which stock TensorFlow 2.8 to 2.21 and the Intel extension all run on the same kernels.
"""

import time
from typing import Any, Callable, List

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from conformance.subject.runtime import session_config
from conformance.wire import Job

SIZE = 2048
MIN_SAMPLE_S = 0.2
MIN_PRODUCTS = 3  # of a sample: the median forgives one that was disturbed


class Ceiling:
    """Measures the FLOP/s of a SIZE x SIZE product with the job's threads; build once, sample around a case."""

    def __init__(self, precision: str, job: Job) -> None:
        graph = tf.Graph()
        with graph.as_default():
            operation = _int8_product() if precision == "int8" else _float_product(precision)
        config = session_config(job, "fp32")
        # The operands are constants: without this the product would be computed once, at optimisation.
        config.graph_options.rewrite_options.constant_folding = rewriter_config_pb2.RewriterConfig.OFF
        session = tf.compat.v1.Session(graph=graph, config=config)
        run: Callable[[], Any] = session.make_callable(operation)
        self._run = run
        self._run()

    def sample(self) -> float:
        """Return the median FLOP/s of at least MIN_PRODUCTS products run for at least MIN_SAMPLE_S."""
        durations: List[float] = []
        while sum(durations) < MIN_SAMPLE_S or len(durations) < MIN_PRODUCTS:
            begun = time.perf_counter()
            self._run()
            durations.append(time.perf_counter() - begun)
        return float(2 * SIZE**3 / np.median(durations))


def _float_product(precision: str) -> Any:
    kind = tf.bfloat16 if precision == "bf16" else tf.float32
    rng = np.random.default_rng(0)
    left, right = (tf.constant(rng.random((SIZE, SIZE), np.float32), kind) for _ in range(2))
    return tf.matmul(left, right).op


def _int8_product() -> Any:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 255, (1, SIZE // 64, 64, SIZE), np.uint8)
    kernel = rng.integers(-127, 127, (1, 1, SIZE, SIZE), np.int8)
    return tf.raw_ops.QuantizedConv2DWithBiasAndReluAndRequantize(
        input=tf.bitcast(tf.constant(rows), tf.quint8),
        filter=tf.constant(kernel.astype(tf.qint8.as_numpy_dtype), tf.qint8),
        bias=tf.zeros([SIZE]),
        min_input=0.0,
        max_input=255.0,
        min_filter=-127.0,
        max_filter=127.0,
        min_freezed_output=0.0,
        max_freezed_output=1e6,
        out_type=tf.quint8,
        strides=[1, 1, 1, 1],
        padding="VALID",
    ).output.op
