"""Graphs that several tests are about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from conformance.subject.freeze import write_graph


def two_convolutions(path: Path) -> Path:
    """Write a frozen graph with two convolutions, of images of 32 x 32 and 11 classes."""
    rng = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 32, 32, 3], name="input_tensor")
        for inputs, outputs in ((3, 16), (16, 32)):
            kernel = rng.normal(0, 0.1, (3, 3, inputs, outputs)).astype(np.float32)
            x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 2, "SAME"), np.zeros(outputs, np.float32)))
        dense = rng.normal(0, 0.01, (32, 11)).astype(np.float32)
        tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), dense), name="softmax_tensor")
    write_graph(graph.as_graph_def(), str(path))
    return path
