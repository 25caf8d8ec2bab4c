"""Convert an fp32 graph to bf16 as oneDNN's mixed precision does it when a graph runs, and keep the result.

Arguments of the job: graph, input_name, output_name, images, seed, output.
"""

from typing import Any, Dict, Tuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.grappler import tf_optimizer

from conformance.models import graphs
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.subject.freeze import strip_defaults
from conformance.subject.provenance import write_made
from conformance.wire import Job, Refused

_SIDE = 224  # of images, where the graph takes any


def run(job: Job, events: Events) -> Dict[str, Any]:
    runtime.eager_threads(job)
    runtime.announce(job, events)
    return convert(job, events)


def convert(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    names = a["input_name"], a["output_name"]
    events.phase("read the graph")
    graph_def = graphs.read_graph(a["graph"])
    graphs.check_graph(graph_def, *names)
    facts = graphs.describe(graph_def, *names)
    if facts.precision != "fp32":
        raise Refused("%r is %s already." % (a["graph"], facts.precision), "Give the fp32 graph that it was made from.")
    batch, height, width = ((facts.input_shape or []) + [None] * 3)[:3]
    images = runtime.dummy_images(batch or a["images"], height or _SIDE, width or _SIDE, a["seed"])
    graphs.check_feed(graph_def, a["input_name"], images.shape)
    events.phase("convert to bf16")
    graph_def = graphs.optimized(graph_def, *names)
    converted = to_bf16(job, graph_def, a["output_name"])
    counts = convolutions(converted)
    if not counts["bf16"]:
        raise Refused(
            "TensorFlow %s made bf16 of none of %d convolutions." % (tf.__version__, sum(counts.values())),
            "It converts where oneDNN is on (TF_ENABLE_ONEDNN_OPTS=1) and the CPU has AVX512; use such a machine.",
        )
    events.phase("compare with fp32")
    compared = _compared(job, graph_def, converted, names, images)
    strip_defaults(converted)
    result = {"convolutions": counts, **compared}
    made = write_made(converted, a["output"], "convert --to bf16", a["graph"], graphs.file_digest(a["graph"]), **result)
    return {**result, "sha256": made["sha256"]}


def to_bf16(job: Job, graph_def: Any, output_name: str) -> Any:
    """Return the graph as oneDNN's mixed precision rewrites it, and nothing else: casts, and bf16 between them."""
    config = runtime.session_config(job, "bf16")
    rewrites = config.graph_options.rewrite_options
    kept = {name for name in runtime.ONEDNN_BFLOAT16 if name in rewrites.DESCRIPTOR.fields_by_name}
    for field in rewrites.DESCRIPTOR.fields:
        if field.enum_type is not None and field.enum_type.name == "Toggle" and field.name not in kept:
            setattr(rewrites, field.name, rewriter_config_pb2.RewriterConfig.OFF)
    rewrites.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    rewrites.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewrites.min_graph_nodes = -1  # small graphs too
    with graphs.imported(graph_def).as_default() as graph:
        graph.add_to_collection("train_op", graph.get_tensor_by_name(graphs.tensor_name(output_name)))
        meta = tf.compat.v1.train.export_meta_graph(graph=graph)
    return tf_optimizer.OptimizeGraph(config, meta)


def convolutions(graph_def: Any) -> Dict[str, int]:
    """Return how many convolutions multiply in bf16, and how many do not."""
    types = [node.attr["T"].type for node in graph_def.node if graphs.is_convolution(node.op)]
    bf16 = types.count(tf.bfloat16.as_datatype_enum)
    return {"bf16": bf16, "fp32": len(types) - bf16}


def _compared(job: Job, fp32: Any, bf16: Any, names: Tuple[str, str], images: np.ndarray) -> Dict[str, Any]:
    """Return how far the answers on seeded dummy images differ; raises Refused when bf16 does not run here."""
    try:
        expected, found = (runtime.graph_step(job, graph, "fp32", *names)(images) for graph in (fp32, bf16))
    except tf.errors.OpError as error:
        message = "The bf16 graph does not run here: %s." % error.message.splitlines()[0].rstrip(".")
        raise Refused(message, "Convert it on a machine whose CPU and TensorFlow run bf16.") from error
    return {
        "images": len(images),
        "max_difference": float(np.abs(expected - found.astype(np.float32)).max()),
        "top1_agreement": float((expected.argmax(axis=1) == found.argmax(axis=1)).mean()),
    }
