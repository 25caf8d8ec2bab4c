"""Graphs that others made: read without running anything of theirs, checked, described, optimised."""

import collections
import hashlib
import os
import re
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from conformance.models.allowed_ops import VARIABLES, is_allowed, why_refused
from conformance.models.folding import folded
from conformance.wire import Refused

GraphDef = tf.compat.v1.GraphDef

SIGNATURE = "serving_default"
_LFS = b"version https://git-lfs"
_PLACEHOLDERS = ("Placeholder", "PlaceholderWithDefault")
_FROZEN_HINT = "Give a frozen GraphDef (.pb), or a SavedModel directory."
_QUANTIZED = re.compile(r"(_Mkl|_Fused|_ITEX|_OneDnn|_)?Quantized\w+|QuantizeV2|Dequantize|_Mkl(QuantizeV2|Dequantize)")
_CONVOLUTION = re.compile(r"\w*Conv2[Dd](?!Backprop)\w*")
_LISTED = 8  # names in a message, at most


class Facts(NamedTuple):
    """What a graph says of itself; None where it does not say."""

    input_shape: Optional[List[Optional[int]]]
    input_dtype: str
    classes: Optional[int]  # outputs, the background included
    precision: str  # fp32, bf16, fp16 or int8, by its operations
    convolutions: int
    operations: Dict[str, int]  # how many of each, functions included


def read_graph(path: str) -> GraphDef:
    """Read a frozen graph, or freeze a SavedModel by its ``serving_default``; every operation is on the list.

    Raises Refused for a file that is missing or no graph, and for an operation that is not
    allowed, before TensorFlow sees the graph. The saver of a SavedModel is not vetted as
    strictly: it may name files, so load only a SavedModel whose origin you know.
    """
    if not os.path.exists(path):
        raise Refused(f"There is no graph {path!r}.", _FROZEN_HINT)
    graph_def = _frozen_saved_model(path) if os.path.isdir(path) else parsed(GraphDef(), path)
    if not graph_def.node:
        raise Refused(f"{path!r} is no graph: it holds no node.", _FROZEN_HINT)
    check_operations(graph_def, path)
    _check_complete(graph_def, path)
    return graph_def


def file_digest(path: str) -> str:
    """Return the SHA-256 of a graph's file, or of the names and digests of all files of a SavedModel."""
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    files = sorted(os.path.join(place, name) for place, _, names in os.walk(path) for name in names)
    lines = [f"{os.path.relpath(name, path)} {file_digest(name)}\n" for name in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_graph(graph_def: GraphDef, input_name: str, output_name: str) -> None:
    """Raise Refused unless the input is a placeholder and the output is computed from it."""
    nodes = {node.name: node for node in graph_def.node}
    listed = _listed(placeholders(graph_def))
    hint = "Name it with --input-tensor."
    if node_name(input_name) not in nodes:
        raise Refused(f"The graph has no tensor {input_name!r} to feed; its placeholders: {listed}.", hint)
    fed = nodes[node_name(input_name)]
    if fed.op not in _PLACEHOLDERS:
        raise Refused(f"Input {input_name!r} is a {fed.op}; the graph's placeholders: {listed}.", hint)
    hint = "Name it with --output-tensor."
    last = _listed([f"{node.name} ({node.op})" for node in last_nodes(graph_def)])
    if node_name(output_name) not in nodes:
        raise Refused(f"The graph has no tensor {output_name!r} to fetch; its last operations: {last}.", hint)
    if fed.name not in _ancestors(nodes, node_name(output_name)):
        raise Refused(f"Output {output_name!r} does not depend on input {input_name!r}; last operations: {last}.", hint)


def describe(graph_def: GraphDef, input_name: str, output_name: str) -> Facts:
    """Return the facts of a checked graph; raises Refused when this TensorFlow cannot import it."""
    graph = imported(graph_def)
    fed = graph.get_tensor_by_name(tensor_name(input_name))
    try:
        classes = classes_of(graph_def, graph, output_name)
    except (KeyError, ValueError):
        node = node_name(output_name)
        message = f"The graph has no tensor {output_name!r}: node {node!r} has fewer outputs."
        raise Refused(message, "Name it with --output-tensor.") from None
    operations = collections.Counter(node.op for _, node in all_nodes(graph_def))
    return Facts(
        input_shape=None if fed.shape.rank is None else fed.shape.as_list(),
        input_dtype=fed.dtype.name,
        classes=classes,
        precision=precision_of(graph_def),
        convolutions=sum(count for op, count in operations.items() if is_convolution(op)),
        operations=dict(sorted(operations.items())),
    )


def imported(graph_def: GraphDef) -> tf.Graph:
    """Return the graph in this TensorFlow; raises Refused when it cannot be imported."""
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
    except (ValueError, tf.errors.OpError) as error:
        message = f"TensorFlow {tf.__version__} cannot import the graph: {_first_line(error)}."
        raise Refused(message, "Use the TensorFlow, or the plugin, that the graph was made for.") from error
    return graph


def classes_of(graph_def: GraphDef, graph: tf.Graph, output_name: str) -> Optional[int]:
    """Return the last dimension of an output; without static shapes, the length of the last bias before it."""
    shape = graph.get_tensor_by_name(tensor_name(output_name)).shape
    return (shape.as_list()[-1] if shape.rank else None) or _bias_length(graph_def, output_name)


def is_convolution(op: str) -> bool:
    return _CONVOLUTION.fullmatch(op) is not None


def check_feed(graph_def: GraphDef, input_name: str, shape: Tuple[int, ...]) -> None:
    """Raise Refused unless the input of a checked graph takes float32 images of this shape [B, H, W, C]."""
    fed = next(node for node in graph_def.node if node.name == node_name(input_name))
    dtype = tf.as_dtype(fed.attr["dtype"].type)
    declared = tf.TensorShape(fed.attr["shape"].shape)
    if not declared.rank:  # what an older TensorFlow wrote for a shape that it did not know
        declared = tf.TensorShape(None)
    if dtype != tf.float32 or not declared.is_compatible_with(shape):
        takes = f"{dtype.name} {declared}"
        message = f"Input {input_name!r} takes {takes}, and would be fed float32 {tf.TensorShape(shape)}."
        raise Refused(message, "Give a graph of float32 images of this size, and the --batch-size that it takes.")


def check_classes(classes: Optional[int], labels: int) -> None:
    """Raise Refused unless the outputs are the background and each of the labels 1 to ``labels``."""
    needed = labels + 1
    if classes == needed:
        return
    found = "an unknown number of" if classes is None else str(classes)
    scale = f"labels 1 to {labels} need {needed} (output 0 is the background)"
    message = f"The graph has {found} outputs, but {scale}."
    raise Refused(message, "Give a graph that was trained with the background class.")


def optimized(graph_def: GraphDef, input_name: str, output_name: str) -> GraphDef:
    """Return the graph cut to what lies between the two tensors, with batch normalisations folded.

    What ``eval_image_classifier_inference.py`` of IntelAI/models v1.6.1 does before it measures
    (TensorFlow's ``optimize_for_inference``).
    """
    fed, fetched = node_name(input_name), node_name(output_name)
    between = tf.compat.v1.graph_util.extract_sub_graph(graph_def, [fetched])
    kept = tf.compat.v1.graph_util.remove_training_nodes(between, protected_nodes=[fed, fetched])
    # Once more: the constants that were folded are read by nothing now, and are half of the bytes.
    return tf.compat.v1.graph_util.extract_sub_graph(folded(kept), [fetched])


def parsed(message: Any, path: str) -> Any:
    """Return the protocol buffer, filled from a file; raises Refused for a file that holds no such thing."""
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise Refused(f"{path!r} is an empty file.", _FROZEN_HINT)
    if data.startswith(_LFS):
        raise Refused(f"{path!r} is a Git LFS pointer, not the graph itself.", "Run 'git lfs pull' where it lies.")
    if isinstance(message, GraphDef) and os.path.basename(path) == "saved_model.pb":
        raise Refused(f"{path!r} is one file of a SavedModel.", f"Give its directory, {os.path.dirname(path)!r}.")
    try:
        message.ParseFromString(data)
    except DecodeError:
        kind = {"GraphDef": "frozen graph"}.get(type(message).__name__, type(message).__name__)
        found = f"{path!r} ({len(data)} bytes)"
        raise Refused(f"{found} is no {kind}, or is cut short.", _FROZEN_HINT) from None
    return message


def _frozen_saved_model(path: str) -> GraphDef:
    if not os.path.isfile(os.path.join(path, "saved_model.pb")):
        holds = ", ".join(sorted(os.listdir(path))[:_LISTED]) or "nothing"
        raise Refused(f"Directory {path!r} is no SavedModel: it has no saved_model.pb, it holds {holds}.", _FROZEN_HINT)
    model = parsed(saved_model_pb2.SavedModel(), os.path.join(path, "saved_model.pb"))
    if not model.meta_graphs:
        raise Refused(f"SavedModel {path!r} holds no graph.", _FROZEN_HINT)
    for meta in model.meta_graphs:
        check_operations(meta.graph_def, path, VARIABLES)
    hint = f"Export it again, with variables and a signature {SIGNATURE!r}."
    try:
        loaded = tf.saved_model.load(path)  # keeps the variables alive until they are folded
    except (OSError, ValueError, KeyError, RuntimeError, tf.errors.OpError) as error:
        raise Refused(f"SavedModel {path!r} cannot be loaded: {_first_line(error)}.", hint) from error
    if SIGNATURE not in loaded.signatures:
        known = ", ".join(sorted(loaded.signatures)) or "none"
        raise Refused(f"SavedModel {path!r} has no signature {SIGNATURE!r}; it has: {known}.", hint)
    return convert_variables_to_constants_v2(loaded.signatures[SIGNATURE]).graph.as_graph_def()


def check_operations(graph_def: GraphDef, path: str, more: FrozenSet[str] = frozenset()) -> None:
    """Raise Refused for an operation, also of a function, that is neither on the list nor among ``more``."""
    functions = {function.signature.name for function in graph_def.library.function}
    for place, node in all_nodes(graph_def):
        # A node may call a function of the graph by its name, unless that hides a real operation.
        called = node.op in functions and not hasattr(tf.raw_ops, node.op)
        if not (called or node.op in more or is_allowed(node.op)):
            where = f"node {node.name!r}{place}"
            message = f"{path!r} holds operation {node.op} ({where}), which is refused: {why_refused(node.op)}."
            raise Refused(message, "Give a frozen graph of arithmetic operations only.")


def _check_complete(graph_def: GraphDef, path: str) -> None:
    names = {node.name for node in graph_def.node}
    for node in graph_def.node:
        for source in map(node_name, node.input):
            if source not in names:
                message = f"{path!r} is incomplete: node {node.name!r} reads {source!r}, which is not in it."
                raise Refused(message, "Copy or freeze the graph again.")


def all_nodes(graph_def: GraphDef) -> Iterator[Tuple[str, Any]]:
    """Yield (where, node) of the graph and of its functions."""
    for node in graph_def.node:
        yield "", node
    for function in graph_def.library.function:
        for node in function.node_def:
            yield f" of function {function.signature.name!r}", node


def node_name(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def tensor_name(name: str) -> str:
    return name if ":" in name else name + ":0"


def placeholders(graph_def: GraphDef) -> List[str]:
    return [node.name for node in graph_def.node if node.op in _PLACEHOLDERS]


def last_nodes(graph_def: GraphDef) -> List[Any]:
    """Return what nothing else reads, and every softmax; the last one first."""
    read = {node_name(source) for node in graph_def.node for source in node.input}
    dead = (*_PLACEHOLDERS, "Const", "HostConst", "NoOp", "Assert")
    found = [
        node
        for node in graph_def.node
        if node.op not in dead and (node.name not in read or node.op.endswith("Softmax"))
    ]
    return found[::-1]


def _listed(names: List[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more or "none"


def _ancestors(nodes: Dict[str, Any], name: str) -> Set[str]:
    found = {name}
    waiting = [name]
    while waiting:
        sources = {node_name(source) for source in nodes[waiting.pop()].input} - found
        found |= sources
        waiting.extend(sources)
    return found


def _bias_length(graph_def: GraphDef, output_name: str) -> Optional[int]:
    """Return the length of the bias nearest before the output, for a graph whose shapes are not static."""
    nodes = {node.name: node for node in graph_def.node}
    level = [node_name(output_name)]
    seen = set(level)
    while level:
        for name in level:
            node = nodes[name]
            shape = node.attr["value"].tensor.tensor_shape.dim
            if (
                node.op == "Const"
                and len(shape) == 1
                and node.attr["value"].tensor.dtype == tf.float32.as_datatype_enum
            ):
                return int(shape[0].size)
        level = sorted({node_name(source) for name in level for source in nodes[name].input} - seen)
        seen.update(level)
    return None


def precision_of(graph_def: GraphDef) -> str:
    """Return fp32, bf16, fp16 or int8, by the operations and their types."""
    nodes = [node for _, node in all_nodes(graph_def)]
    if any(_QUANTIZED.fullmatch(node.op) for node in nodes):
        return "int8"
    types = {value.type for node in nodes for value in node.attr.values()}
    for dtype, name in ((tf.bfloat16, "bf16"), (tf.float16, "fp16")):
        if dtype.as_datatype_enum in types:
            return name
    return "fp32"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
