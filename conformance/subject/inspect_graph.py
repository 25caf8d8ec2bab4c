"""Tell what a graph says of itself. Arguments of the job: graph."""

from collections import Counter
from typing import Any, Dict, List, Optional

import tensorflow as tf

from conformance.models import graphs
from conformance.models.architecture import recognised
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.wire import Job, Refused


def run(job: Job, events: Events) -> Dict[str, Any]:
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    events.phase("read the graph")
    return inspected(a["graph"])


def inspected(path: str) -> Dict[str, Any]:
    """Return all that is known of a graph without running it; what this TensorFlow cannot import has no shapes."""
    graph_def = graphs.read_graph(path)
    graph, error = None, None
    try:
        graph = graphs.imported(graph_def)
    except Refused as refused:
        error = refused.message
    inputs = graphs.placeholders(graph_def)
    outputs = [node.name for node in graphs.last_nodes(graph_def)]
    return {
        "path": path,
        "sha256": graphs.file_digest(path),
        "inputs": {name: _tensor(graph, name) for name in inputs},
        "outputs": {name: _tensor(graph, name) for name in outputs},
        "classes": graphs.classes_of(graph_def, graph, outputs[0]) if outputs and graph else None,
        "precision": graphs.precision_of(graph_def),
        **_parameters(graph_def),
        "network": recognised(graph_def)._asdict(),
        "operations": dict(Counter(node.op for _, node in graphs.all_nodes(graph_def)).most_common()),
        "import_error": error,
        "tensorflow": tf.__version__,
    }


def _tensor(graph: Optional[tf.Graph], name: str) -> Dict[str, Any]:
    outputs = graph.get_operation_by_name(name).outputs if graph else []
    if not outputs:
        return {"dtype": None, "shape": None}
    shape = outputs[0].shape
    return {"dtype": outputs[0].dtype.name, "shape": None if shape.rank is None else shape.as_list()}


def _parameters(graph_def: Any) -> Dict[str, Any]:
    """Return how many elements the constants of weights have, by type, and the types that convolutions multiply in.

    Weights are constants of at least one dimension in a floating or a quantised type; the statistics of a batch
    normalisation are among them.
    """
    elements: Dict[str, int] = Counter()
    convolutions: Dict[str, int] = Counter()
    for _, node in graphs.all_nodes(graph_def):
        tensor = node.attr["value"].tensor if node.op == "Const" else None
        if tensor is not None and tensor.tensor_shape.dim:
            dtype = tf.as_dtype(tensor.dtype)
            if dtype.is_floating or dtype.is_quantized:
                elements[dtype.name] += _product([dim.size for dim in tensor.tensor_shape.dim])
        if graphs.is_convolution(node.op):
            number = next((node.attr[key].type for key in ("Tfilter", "T") if key in node.attr), 0)
            convolutions[tf.as_dtype(number).name if number else "unknown"] += 1
    return {
        "parameters": sum(elements.values()),
        "parameters_by_type": dict(elements),
        "convolutions_by_type": dict(convolutions),
    }


def _product(sizes: List[int]) -> int:
    product = 1
    for size in sizes:
        product *= int(size)
    return product
