"""What a case is compared with, in a subject's own environment: ``python -m benchmarks.beside SPEC.json``.

SPEC holds kind and, by kind: ``jpegs`` (directory, images) writes records like ImageNet's; ``load`` (graph, batch_size)
loads a graph with nothing beside it; ``feed`` (graph, data, batch_size, rounds, folder) takes turns between dummy
data, decoding alone and the loop of an accuracy run. The answer is one JSON line, the last on stdout.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

from conformance.data import imagenet
from conformance.data.shards import find_shards
from conformance.models import graphs
from conformance.subject import accuracy, runtime
from conformance.subject.events import Events
from conformance.wire import Job

TENSORS = ("input_tensor", "softmax_tensor")
SHARDS = 4
DIFFERENT = 64  # images that are drawn; the rest repeats them
SIZES = ((375, 500), (375, 500), (500, 375), (333, 500))  # heights and widths as most of ImageNet's


def jpegs(spec: dict[str, Any]) -> dict[str, Any]:
    """Write smooth random pictures with a little noise: about as many bytes and as long to decode as photographs."""
    rng = np.random.default_rng(0)
    encoded = []
    for i in range(min(DIFFERENT, spec["images"])):
        height, width = SIZES[i % len(SIZES)]
        coarse = rng.uniform(0, 255, (1, height // 12, width // 12, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, (height, width), "bicubic")[0].numpy()
        noisy = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
        encoded.append(tf.io.encode_jpeg(noisy, quality=92).numpy())
    for shard in range(SHARDS):
        path = os.path.join(spec["directory"], f"validation-{shard:05d}-of-{SHARDS:05d}")
        with tf.io.TFRecordWriter(path) as writer:
            for i in range(shard, spec["images"], SHARDS):
                writer.write(_example(encoded[i % len(encoded)], 1 + i % 1000, f"image-{i:05d}.jpg"))
    return {"mean_bytes": float(np.mean([len(image) for image in encoded]))}


def _example(image: bytes, label: int, name: str) -> bytes:
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def load(spec: dict[str, Any]) -> dict[str, Any]:
    return {"load_s": _loaded(spec)[1]}


def _loaded(spec: dict[str, Any]) -> Any:
    """Return the step, the seconds that the graph's load took up to the end of the first step, images, and the job."""
    job = Job("overhead", os.devnull, spec["inter_op_threads"], spec["intra_op_threads"], {})
    if spec["kind"] == "feed":
        runtime.eager_threads(job)
    images = runtime.dummy_images(spec["batch_size"], 224, 224, 0)
    begun = time.monotonic()
    graph_def = graphs.read_graph(spec["graph"])
    graphs.check_graph(graph_def, *TENSORS)
    if spec["kind"] == "feed":
        graphs.describe(graph_def, *TENSORS)
    step = runtime.graph_step(graphs.optimized(graph_def, *TENSORS), job, spec["precision"], *TENSORS)
    step(images)
    return step, time.monotonic() - begun, images, job


def feed(spec: dict[str, Any]) -> dict[str, Any]:
    """Return images a second of each kind, a list with an element for each round."""
    step, load_s, images, job = _loaded(spec)
    shards = find_shards(spec["data"], "validation")
    arguments = {"batch_size": spec["batch_size"], "dataset": "imagenet", "results_path": None,
                 "bits_path": os.path.join(spec["folder"], "bits")}  # fmt: skip
    events = Events(os.path.join(spec["folder"], "events"))
    answer: dict[str, Any] = {"load_s": load_s, "dummy": [], "decoding": [], "judging": [], "compute_share": []}
    for _ in range(3):
        step(images)
    for _ in range(spec["rounds"]):
        begun, seen = time.perf_counter(), 0
        for batch in imagenet.batches(shards, spec["batch_size"], "imagenet", job.intra_op_threads):
            seen += len(batch.labels)
        answer["decoding"].append(seen / (time.perf_counter() - begun))
        begun, steps = time.perf_counter(), -(-seen // spec["batch_size"])
        for _ in range(steps):
            step(images)
        answer["dummy"].append(steps * spec["batch_size"] / (time.perf_counter() - begun))
        judged = accuracy._judge(step, shards, arguments, job, events)  # the loop itself, without the case around it
        answer["judging"].append(judged["images"] / judged["elapsed_s"])
        answer["compute_share"].append(judged["compute_s"] / judged["elapsed_s"])
    return answer


KINDS = {"jpegs": jpegs, "load": load, "feed": feed}

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        asked = json.load(file)
    print(json.dumps(KINDS[asked["kind"]](asked)), flush=True)
    os._exit(0)
