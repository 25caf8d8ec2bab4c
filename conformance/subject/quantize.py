"""Quantise an fp32 graph to int8 with Intel Neural Compressor, calibrated on training images only.

Arguments of the job: graph, input_name, output_name, data (a directory of TFRecords) or None for seeded dummy
images, dataset (its name), image_size, images, batch_size, seed, output.
"""

import importlib.util
import math
import os
import tempfile
from collections import Counter
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from conformance.data import imagenet
from conformance.data.shards import find_shards
from conformance.models import graphs
from conformance.subject import runtime
from conformance.subject.events import Events
from conformance.subject.freeze import strip_defaults, write_graph
from conformance.wire import Job, Refused


def first_images(shards: List[str], count: int, dataset: str) -> np.ndarray:
    """Return the first ``count`` images of a split, preprocessed as for evaluation: float32 [count, H, W, 3]."""
    return next(imagenet.batches(shards, count, dataset, threads=1)).images


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
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    graph_def = graphs.read_graph(a["graph"])
    graphs.check_graph(graph_def, a["input_name"], a["output_name"])
    if a["data"]:
        shards = find_shards(a["data"], "train")
        images = first_images(shards, a["images"], a["dataset"])
    else:
        images = runtime.dummy_images(a["images"], a["image_size"], a["image_size"], a["seed"])
    events.phase("quantise with Neural Compressor")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it writes its work space where it stands
        quantized = _quantize(a["graph"], a["input_name"], a["output_name"], Calibration(images, a["batch_size"]))
        os.chdir("/")
    strip_defaults(quantized)
    write_graph(quantized, a["output"])
    found = Counter("int8" if "Quantized" in node.op else "float" for node in quantized.node if "Conv2D" in node.op)
    return {"convolutions": dict(found), "images": len(images)}


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
