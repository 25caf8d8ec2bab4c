"""Freeze what others trained: a SavedModel, a checkpoint with its .meta, or a graph that is to be cut.

Arguments of the job: source, input_name, output_name, output. The source is a directory of a SavedModel, a .pb, or the
prefix of a checkpoint: what stands before ``.meta`` and ``.index``.
"""

import hashlib
import os
from typing import Any, Dict, Tuple

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from conformance.data.shards import file_sha256
from conformance.models import graphs
from conformance.models.architecture import recognised
from conformance.models.folding import NORMALISATIONS
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.subject.freeze import strip_defaults
from conformance.subject.provenance import write_made
from conformance.wire import Job, Refused

_VARIABLES = ("VariableV2", "Variable", "VarHandleOp")


def run(job: Job, events: Events) -> Dict[str, Any]:
    runtime.eager_threads(job)
    runtime.announce(job, events)
    return freeze(job.arguments, events)


def freeze(a: Dict[str, Any], events: Events) -> Dict[str, Any]:
    events.phase("read the graph")
    graph_def, digest = read_source(a["source"], a["output_name"])
    graphs.check_graph(graph_def, a["input_name"], a["output_name"])
    frozen = tf.compat.v1.graph_util.extract_sub_graph(graph_def, [graphs.node_name(a["output_name"])])
    _check_inference(frozen)
    facts = graphs.describe(frozen, a["input_name"], a["output_name"])
    strip_defaults(frozen)
    events.phase("write the graph")
    made = write_made(frozen, a["output"], "freeze", a["source"], digest)
    told = {"classes": facts.classes, "precision": facts.precision, "network": str(recognised(frozen))}
    return {**told, "sha256": made["sha256"], "nodes": len(frozen.node)}


def read_source(source: str, output_name: str) -> Tuple[Any, str]:
    """Return (graph with constants, SHA-256 of what was read); every operation that is kept is on the list."""
    prefix = source[: -len(".meta")] if source.endswith(".meta") else source
    if os.path.isfile(prefix + ".meta"):
        names = sorted(name for name in os.listdir(os.path.dirname(prefix) or ".") if _belongs(name, prefix))
        lines = ["%s %s\n" % (name, file_sha256(os.path.join(os.path.dirname(prefix), name))) for name in names]
        return from_checkpoint(prefix, output_name), hashlib.sha256("".join(lines).encode()).hexdigest()
    return graphs.read_graph(source), graphs.file_digest(source)


def from_checkpoint(prefix: str, output_name: str) -> Any:
    """Return what the output needs of a checkpoint's graph, with the checkpoint's values for its variables.

    The values are put in their places without a session: nothing of the graph runs, neither its saver nor its
    initialisers. Raises Refused for an operation that is not on the list, and for a variable without a value.
    """
    meta = graphs.parsed(meta_graph_pb2.MetaGraphDef(), prefix + ".meta")
    node_name = graphs.node_name(output_name)
    if node_name not in {node.name for node in meta.graph_def.node}:
        last = ", ".join(node.name for node in graphs.last_nodes(meta.graph_def) if node.op == "Softmax")
        message = "The graph of %r has no tensor %r; its softmax: %s." % (prefix, output_name, last or "none")
        raise Refused(message, "Name it with --output-tensor.")
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(meta.graph_def, [node_name])
    values = _values(prefix)
    for node in graph_def.node:
        if node.op in _VARIABLES:
            _make_constant(node, values, prefix)
        elif node.op == "ReadVariableOp":
            dtype = node.attr["dtype"].type
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = dtype
    called = {node.op for node in graph_def.node} | {
        value.func.name for node in graph_def.node for value in node.attr.values() if value.HasField("func")
    }
    if not called & {function.signature.name for function in graph_def.library.function}:
        graph_def.ClearField("library")  # of the input pipeline, which the output does not need
    graphs.check_operations(graph_def, prefix + ".meta")
    return graph_def


def _values(prefix: str) -> Any:
    try:
        return tf.train.load_checkpoint(prefix)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        message = "The values of checkpoint %r cannot be read: %s." % (prefix, first)
        raise Refused(message, "Copy its .index and .data files beside its .meta.") from error


def _make_constant(node: Any, values: Any, prefix: str) -> None:
    if not values.has_tensor(node.name):
        held = sorted(values.get_variable_to_shape_map())
        listed = ", ".join(held[:8]) + (" and %d more" % (len(held) - 8) if len(held) > 8 else "")
        message = "Checkpoint %r has no value for variable %r; it has: %s." % (prefix, node.name, listed or "none")
        raise Refused(message, "Give the .meta and the values of one training run.")
    proto = tf.make_tensor_proto(values.get_tensor(node.name))
    node.op = "Const"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = proto.dtype
    node.attr["value"].tensor.CopyFrom(proto)


def _check_inference(graph_def: Any) -> None:
    for node in graph_def.node:
        # Training is the default of the attribute, so it is meant where the attribute is absent.
        if node.op in NORMALISATIONS and ("is_training" not in node.attr or node.attr["is_training"].b):
            message = "Node %r normalises by the batch that it sees: the graph is one of training." % node.name
            raise Refused(message, "Export the graph for inference (is_training=False), and freeze that.")


def _belongs(name: str, prefix: str) -> bool:
    stem = os.path.basename(prefix)
    return name in (stem + ".meta", stem + ".index") or name.startswith(stem + ".data-")
