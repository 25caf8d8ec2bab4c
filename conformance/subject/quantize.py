"""Quantise an fp32 graph to int8 with Intel Neural Compressor, calibrated on training images only.

Arguments of the job: graph, input_name, output_name, data (a directory of TFRecords) or None for seeded dummy
images, dataset (its name), image_size, images, batch_size, seed, output. What the graph was made from is written
beside it.
"""

import importlib.util
import math
import os
import tempfile
from collections import Counter
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from conformance.data import imagenet
from conformance.data.shards import find_shards, has_shards, shards_digest
from conformance.models import graphs
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.subject.freeze import strip_defaults, write_graph
from conformance.subject.provenance import write_made
from conformance.wire import Job, Refused


def first_images(shards: List[str], count: int, dataset: str) -> imagenet.Batch:
    """Return the first ``count`` images of a split in one batch, preprocessed as for evaluation."""
    return next(imagenet.batches(shards, count, dataset, threads=1))


def calibration_shards(directory: str) -> List[str]:
    """Return the shards of a calibration set: ``calibration-*-of-*`` where there are any, else ``train-*-of-*``.

    Raises Refused for a directory that holds validation images only: accuracy is judged on those.
    """
    if not has_shards(directory, "calibration"):
        if has_shards(directory, "validation") and not has_shards(directory, "train"):
            raise Refused(
                "%r holds validation images only; a graph calibrated on them has seen what it is judged on."
                % directory,
                "Give training images: files named calibration-*-of-* or train-*-of-*.",
            )
        return find_shards(directory, "train")
    return find_shards(directory, "calibration")


class Calibration:
    """Batches of (images, labels) in the form that Neural Compressor iterates over."""

    def __init__(self, images: np.ndarray, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self.images), self.batch_size):
            batch = self.images[start : start + self.batch_size]
            yield batch, np.zeros(len(batch), np.int64)


def run(job: Job, events: Events) -> Dict[str, Any]:
    runtime.eager_threads(job)
    runtime.announce(job, events)
    return quantize(job.arguments, events)


def quantize(a: Dict[str, Any], events: Events) -> Dict[str, Any]:
    graph_def = graphs.read_graph(a["graph"])
    graphs.check_graph(graph_def, a["input_name"], a["output_name"])
    graphs.check_feed(graph_def, a["input_name"], (a["batch_size"], a["image_size"], a["image_size"], 3))
    precision = graphs.describe(graph_def, a["input_name"], a["output_name"]).precision
    if precision != "fp32":
        raise Refused("%r is %s already." % (a["graph"], precision), "Give the fp32 graph that it was made from.")
    events.phase("read the calibration images")
    digest = None
    if a["data"]:
        batch = first_images(calibration_shards(a["data"]), a["images"], a["dataset"])
        images = batch.images
        digest = shards_digest(sorted({path.decode() for path in batch.shards}))  # of those that were read
    else:
        images = runtime.dummy_images(a["images"], a["image_size"], a["image_size"], a["seed"])
    events.phase("quantise with Neural Compressor")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it writes its work space where it stands
        checked = os.path.join(scratch, "checked.pb")  # what was checked is what it reads
        write_graph(graph_def, checked)
        quantized = _quantize(checked, a["input_name"], a["output_name"], Calibration(images, a["batch_size"]))
        os.chdir("/")
    strip_defaults(quantized)
    found = Counter("int8" if "Quantized" in node.op else "float" for node in quantized.node if "Conv2D" in node.op)
    result = {
        "convolutions": dict(found),
        "calibration": {"sha256": digest, "images": len(images)},
    }
    source = a["graph"], graphs.file_digest(a["graph"])
    write_made(quantized, a["output"], "quantize", *source, calibration=result["calibration"])
    return result


def _quantize(graph: str, input_name: str, output_name: str, calibration: Calibration) -> Any:
    """Return the quantised GraphDef, by the interface of whichever Neural Compressor is installed (3.x or 2.x)."""
    try:
        if importlib.util.find_spec("neural_compressor.tensorflow") is None:
            return _quantize_2x(graph, input_name, output_name, calibration)
        from neural_compressor.tensorflow import StaticQuantConfig, quantize_model
        from neural_compressor.tensorflow.utils.model import Model
    except ImportError as error:
        raise Refused(
            "Neural Compressor, which makes int8 graphs, cannot be imported in this stack: %s." % error,
            "Install neural-compressor-tf and setuptools<81 (it needs pkg_resources) into the stack, "
            "or give an int8 graph with --in-graph.",
        ) from None
    model = Model(graph)
    model.input_tensor_names, model.output_tensor_names = [input_name], [output_name]
    return quantize_model(model, StaticQuantConfig(), calibration, len(calibration)).graph_def


def _quantize_2x(graph: str, input_name: str, output_name: str, calibration: Calibration) -> Any:
    from neural_compressor import PostTrainingQuantConfig, quantization

    config = PostTrainingQuantConfig(
        inputs=[input_name], outputs=[output_name], calibration_sampling_size=[len(calibration.images)]
    )
    return quantization.fit(graph, config, calib_dataloader=calibration).graph_def
