"""Batch normalisations folded into the convolutions before them: what inference runs, and int8 is calibrated on.

TensorFlow's own ``fold_batch_norms`` (optimize_for_inference_lib) does the same, weight by weight in Python: 33 s for a
ResNet50, where this takes a fraction of one.
"""

from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Set

import numpy as np
import tensorflow as tf

NORMALISATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


class Fold(NamedTuple):
    """One normalisation to fold: y = scale * (conv(x) - mean) / sqrt(variance + epsilon) + offset."""

    normalisation: Any
    convolution: Any
    kernel: np.ndarray  # [height, width, inputs, outputs]
    factor: np.ndarray  # [outputs]
    bias: np.ndarray  # [outputs]


def folded(graph_def: Any) -> Any:
    """Return a copy in which each normalisation of a Conv2D with constant operands is the convolution's bias.

    A normalisation that is used in training, or whose convolution feeds something else too, stays.
    """
    nodes = {node.name: node for node in graph_def.node}
    uses = Counter(_name(source) for node in graph_def.node for source in node.input)
    tensors = {source for node in graph_def.node for source in node.input}
    found = [fold for node in graph_def.node for fold in [_fold(node, nodes, uses, tensors)] if fold is not None]
    by_node: Dict[str, List[Any]] = {}
    for fold in found:
        kernel_name = fold.convolution.name + "/folded_kernel"
        bias_name = fold.convolution.name + "/folded_bias"
        convolution = tf.compat.v1.NodeDef()
        convolution.CopyFrom(fold.convolution)
        convolution.input[1] = kernel_name
        bias_add = tf.compat.v1.NodeDef(name=fold.normalisation.name, op="BiasAdd", device=fold.normalisation.device)
        bias_add.input.extend([convolution.name, bias_name])
        bias_add.attr["T"].CopyFrom(convolution.attr["T"])
        if "data_format" in convolution.attr:
            bias_add.attr["data_format"].CopyFrom(convolution.attr["data_format"])
        by_node[convolution.name] = [_constant(kernel_name, fold.kernel * fold.factor), convolution]
        by_node[fold.normalisation.name] = [_constant(bias_name, fold.bias), bias_add]
    result = tf.compat.v1.GraphDef()
    for node in graph_def.node:
        result.node.extend(by_node.get(node.name, [node]))
    result.library.CopyFrom(graph_def.library)
    result.versions.CopyFrom(graph_def.versions)
    return result


def _fold(node: Any, nodes: Dict[str, Any], uses: Dict[str, int], tensors: Set[str]) -> Optional[Fold]:
    # Training is the default of the attribute, and reading it where it is absent would put it there.
    if node.op not in NORMALISATIONS or "is_training" not in node.attr or node.attr["is_training"].b:
        return None
    convolution = nodes.get(node.input[0])
    if convolution is None or convolution.op != "Conv2D" or uses[convolution.name] != 1:
        return None
    if any("%s:%d" % (node.name, output) in tensors for output in range(1, 6)):  # its mean or variance is used
        return None
    constants = [_value(nodes, name) for name in [convolution.input[1], *node.input[1:5]]]
    if any(constant is None for constant in constants):
        return None
    kernel, scale, offset, mean, variance = constants
    epsilon = node.attr["epsilon"].f if "epsilon" in node.attr else 1e-4
    factor = scale / np.sqrt(variance + epsilon)
    return Fold(node, convolution, kernel, factor, offset - mean * factor)


def _value(nodes: Dict[str, Any], name: str) -> Optional[np.ndarray]:
    """Return the constant behind a name, through identities; None where there is none."""
    node = nodes.get(_name(name))
    while node is not None and node.op == "Identity":
        node = nodes.get(_name(node.input[0]))
    if node is None or node.op != "Const":
        return None
    value = tf.make_ndarray(node.attr["value"].tensor)
    return value if value.dtype == np.float32 else None


def _constant(name: str, value: np.ndarray) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float32)))
    return node


def _name(source: str) -> str:
    return source.lstrip("^").split(":")[0]
