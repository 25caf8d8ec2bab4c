"""What a case is compared with, in a subject's own environment: ``python -m benchmarks.beside SPEC.json``.

SPEC holds kind and, by kind: ``jpegs`` (directory, images) writes records like ImageNet's; ``load`` (graph, batch_size)
loads a graph with nothing beside it; ``feed`` (graph, data, batch_size, rounds, folder) takes turns between dummy
data, decoding alone and the loop of an accuracy run; ``prepare`` (folder, images, rounds) takes turns between decoding
files and preparing a data set of them; ``steps`` (network, precision, batch_size, image_size, steps, folder) trains;
``train`` (the same and rounds) takes turns between training and Keras' ``fit``. The answer is one JSON line, the last
on stdout.
"""

import io
import json
import os
import shutil
import sys
import tarfile
import time
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import trained
from conformance.data import convert, imagenet, verify
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
    """Write a validation split of pictures."""
    encoded = _pictures(spec["images"])
    for shard in range(SHARDS):
        path = os.path.join(spec["directory"], f"validation-{shard:05d}-of-{SHARDS:05d}")
        with tf.io.TFRecordWriter(path) as writer:
            for i in range(shard, spec["images"], SHARDS):
                writer.write(_example(encoded[i % len(encoded)], 1 + i % 1000, f"image-{i:05d}.jpg"))
    return {"mean_bytes": float(np.mean([len(image) for image in encoded]))}


def _pictures(images: int) -> list[bytes]:
    """Return smooth random pictures with a little noise: about as many bytes and as long to decode as photographs."""
    rng = np.random.default_rng(0)
    encoded = []
    for i in range(min(DIFFERENT, images)):
        height, width = SIZES[i % len(SIZES)]
        coarse = rng.uniform(0, 255, (1, height // 12, width // 12, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, (height, width), "bicubic")[0].numpy()
        noisy = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
        encoded.append(tf.io.encode_jpeg(noisy, quality=92).numpy())
    return encoded


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
    step = runtime.graph_step(job, graphs.optimized(graph_def, *TENSORS), spec["precision"], *TENSORS)
    step(images)
    return step, time.monotonic() - begun, images, job


def feed(spec: dict[str, Any]) -> dict[str, Any]:
    """Return images a second of each kind, a list with an element for each round."""
    step, load_s, images, job = _loaded(spec)
    shards = find_shards(spec["data"], "validation")
    arguments = {"batch_size": spec["batch_size"], "dataset": "imagenet", "images": None, "results_path": None,
                 "bits_path": os.path.join(spec["folder"], "bits"),
                 "answers_path": os.path.join(spec["folder"], "answers.npz")}  # fmt: skip
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


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Return images a second of decoding files with nothing around it, of writing TFRecords, and of verifying them."""
    threads, folder = spec["intra_op_threads"], spec["folder"]
    encoded = _pictures(spec["images"])
    pictures = [encoded[i % len(encoded)] for i in range(spec["images"])]
    paths = []
    for i, picture in enumerate(pictures):
        paths.append(os.path.join(folder, f"{i:05d}.JPEG"))
        with open(paths[-1], "wb") as file:
            file.write(picture)
    archives = [os.path.join(folder, name) for name in ("train.tar", "validation.tar", "labels.txt")]
    with open(archives[0], "wb") as file:
        file.write(_tar([("n00000001.tar", _tar([(os.path.basename(paths[0]), pictures[0])]))]))
    with open(archives[1], "wb") as file:
        file.write(_tar([(os.path.basename(path), picture) for path, picture in zip(paths, pictures, strict=True)]))
    with open(archives[2], "w", encoding="utf-8") as file:
        file.write("n00000001\n" * spec["images"])
    output, events = os.path.join(folder, "prepared"), Events(os.path.join(folder, "events"))
    answer: dict[str, Any] = {"decoding": [], "writing": [], "verifying": [],
                              "mean_bytes": float(np.mean([len(image) for image in encoded]))}  # fmt: skip

    def decode(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), 3, fancy_upscaling=False, dct_method="INTEGER_FAST")
        return tf.shape(image)

    for _ in range(spec["rounds"]):
        begun = time.perf_counter()
        seen = sum(1 for _ in tf.data.Dataset.from_tensor_slices(paths).map(decode, threads).batch(64))
        answer["decoding"].append(spec["images"] / (time.perf_counter() - begun) if seen else 0.0)
        begun = time.perf_counter()
        convert.convert(convert.Request(*archives, output, checksum=False, validation_shards=8), threads, events)
        answer["writing"].append((spec["images"] + 1) / (time.perf_counter() - begun))
        begun = time.perf_counter()
        verify.verify(output, "imagenet", True, threads, events)
        answer["verifying"].append((spec["images"] + 1) / (time.perf_counter() - begun))
        shutil.rmtree(output)
    return answer


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


KINDS = {"jpegs": jpegs, "load": load, "feed": feed, "prepare": prepare, "steps": trained.steps,
         "train": trained.beside_fit}  # fmt: skip

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        asked = json.load(file)
    if asked["kind"] in ("steps", "train"):
        trained.set_threads(asked)
    print(json.dumps(KINDS[asked["kind"]](asked)), flush=True)
    os._exit(0)
