"""What a training leaves of its network: a frozen graph and a SavedModel, which is read again and asked."""

import os
import shutil
from typing import Any, Dict, Optional

import numpy as np
import tensorflow as tf

from conformance.data import storage
from conformance.models.resnet import ResNet
from conformance.subject.evaluation import Evaluation
from conformance.subject.freeze import frozen, write_graph


def export(network: ResNet, a: Dict[str, Any], evaluation: Evaluation, threads: int) -> Optional[Dict[str, int]]:
    """Write what the arguments ask for, of the network as it computes in float32, which it does from then on.

    Return how many validation images were asked about, and of how many the SavedModel, read from the disk, says the
    class that the network said as it computed in training: ``images`` and ``same``. None without a SavedModel or
    without images.
    """
    saved = a["export_saved_model"]
    said = evaluation.classes(threads) if saved and evaluation.judges else None
    network.compute = tf.float32
    if a["export_graph"]:
        graph_def = frozen(network, a["image_size"])
        with storage.writing(a["export_graph"]):
            write_graph(graph_def, a["export_graph"])
    if saved:
        _export_saved_model(network, a["image_size"], saved)
    if said is None:
        return None
    loaded = tf.saved_model.load(saved)  # its variables live as long as it does
    serving = loaded.signatures["serving_default"]
    answered = evaluation.classes(threads, lambda images: serving(input_tensor=images)["softmax_tensor"])
    return {"images": len(said), "same": int(np.sum(said == answered))}


def _export_saved_model(network: ResNet, image_size: int, path: str) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="input_tensor")])
    def predict(input_tensor: tf.Tensor) -> Dict[str, tf.Tensor]:
        return {"softmax_tensor": tf.nn.softmax(network(input_tensor))}

    part = path.rstrip("/") + ".part"
    try:
        with storage.writing(path):
            tf.saved_model.save(network, part, signatures={"serving_default": predict})
            os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
