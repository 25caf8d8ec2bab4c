"""Judge a graph on every image of a validation split, the last partial batch too.

Arguments of the job: graph, precision, input_name, output_name, data (a directory), dataset (its name), image_size,
batch_size, images (how many of the split, or None for all), bits_path, answers_path, and results_path (or None).
Where a network is claimed also model, and allow_other_network.
"""

import time
from contextlib import ExitStack
from typing import Any, Dict, List, Tuple

import numpy as np

from conformance.data import imagenet
from conformance.data.shards import find_shards
from conformance.models import graphs
from conformance.models.architecture import Network, check_network
from conformance.subject import proof, runtime
from conformance.subject.events import Events
from conformance.subject.verbose_pass import Subject, VerbosePass
from conformance.wire import Job, Refused, WrongAnswer


def ranks(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many classes stand before the label's: 0 is a top-1 hit, below 5 a top-5 hit.

    ``outputs`` [B, classes], ``labels`` [B] int. Among equal outputs the lower class stands first, as in argmax: a
    graph that gives every class the same output is right for one class only, not for all of them.
    """
    own = outputs[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(outputs.shape[1])[None, :] < labels[:, None]
    return ((outputs > own) | ((outputs == own) & earlier)).sum(axis=1)


def run(job: Job, events: Events, verbose_pass: VerbosePass) -> Dict[str, Any]:
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    shards = find_shards(a["data"], "validation")
    events.phase("load the graph")
    images = runtime.dummy_images(a["batch_size"], a["image_size"], a["image_size"], 0)
    subject, description, network = _subject(a, images.shape)
    verbose_pass.begin(images, [subject])
    step = runtime.graph_step(job, *subject)
    step(images)
    if description.input_shape and description.input_shape[0]:
        step = _of_whole_batches(step, description.input_shape[0])
    events.phase("prove the precision")
    proven = proof.shown(subject, images, verbose_pass.logs()[0])
    events.phase("judge images")
    counts = _judge(step, shards, a, job, events)
    return {"proof": proven, "graph": description._asdict(), "network": str(network), **counts}


def _subject(a: Dict[str, Any], shape: Tuple[int, ...]) -> Tuple[Subject, graphs.Facts, Network]:
    graph_def = graphs.read_graph(a["graph"])
    network = check_network(graph_def, a.get("model"), a.get("allow_other_network", False))
    graphs.check_graph(graph_def, a["input_name"], a["output_name"])
    graphs.check_feed(graph_def, a["input_name"], shape)
    description = graphs.describe(graph_def, a["input_name"], a["output_name"])
    graphs.check_classes(description.classes, imagenet.LABELS[a["dataset"]])
    graph_def = graphs.optimized(graph_def, a["input_name"], a["output_name"])
    return Subject(graph_def, a["precision"], a["input_name"], a["output_name"]), description, network


def _of_whole_batches(step: runtime.Step, size: int) -> runtime.Step:
    """Feed a graph of a fixed batch size whole batches only: a shorter one is filled up, and its filling forgotten."""

    def filled(images: np.ndarray) -> np.ndarray:
        filling = np.zeros((size - len(images),) + images.shape[1:], images.dtype)
        return step(np.concatenate([images, filling]))[: len(images)] if len(filling) else step(images)

    return filled


class Answers:
    """What a graph said of each image, in the order of reading, and where that image lies."""

    def __init__(self, shards: List[str]) -> None:
        self.shards = shards
        self._numbers = {path.encode(): number for number, path in enumerate(shards)}
        self._parts: List[Tuple[np.ndarray, ...]] = []

    def add(self, batch: imagenet.Batch, predictions: np.ndarray) -> None:
        numbers = np.array([self._numbers[path] for path in batch.shards], np.uint16)
        self._parts.append((batch.labels, predictions, batch.filenames.astype(np.bytes_), numbers, batch.records))

    def save(self, path: str) -> None:
        """Write label, prediction, filename, shard (a number into ``shards``) and record, each [images]."""
        label, prediction, filename, shard, record = map(np.concatenate, zip(*self._parts))
        np.savez_compressed(
            path,
            label=label.astype(np.uint16),
            prediction=prediction.astype(np.uint16),
            filename=filename,
            shard=shard,
            record=record.astype(np.uint32),
            shards=np.array(self.shards),
        )


def _judge(step: Any, shards: List[str], a: Dict[str, Any], job: Job, events: Events) -> Dict[str, Any]:
    hits1: List[np.ndarray] = []
    answers = Answers(shards)
    done = top1_hits = top5_hits = 0
    compute_s = 0.0
    start = time.perf_counter()
    with ExitStack() as stack:
        results = stack.enter_context(open(a["results_path"], "w", encoding="utf-8")) if a["results_path"] else None
        if results:
            results.write("filename,actual,prediction\n")
        for batch in imagenet.batches(shards, a["batch_size"], a["dataset"], job.intra_op_threads, a["images"]):
            begun = time.perf_counter()
            outputs = step(batch.images)
            seconds = time.perf_counter() - begun
            compute_s += seconds
            done += len(batch.labels)
            if not np.isfinite(outputs).all():
                raise WrongAnswer(
                    "The graph's output for images %d to %d holds NaN or Inf." % (done - len(batch.labels), done - 1),
                    "Look at the graph: such a prediction cannot be right or wrong.",
                )
            rank, predictions = ranks(outputs, batch.labels), outputs.argmax(axis=1)
            hits1.append(rank < 1)
            answers.add(batch, predictions)
            top1_hits += int((rank < 1).sum())
            top5_hits += int((rank < 5).sum())
            if results:
                results.writelines(
                    "%s,%d,%d\n" % (name.decode("utf-8", "replace"), label, prediction)
                    for name, label, prediction in zip(batch.filenames, batch.labels, predictions)
                )
            top1, top5 = top1_hits / done, top5_hits / done
            print("Iteration time: %0.4f ms" % (1000 * seconds))
            print("Processed %d images. (Top1 accuracy, Top5 accuracy) = (%0.4f, %0.4f)" % (done, top1, top5))
            events.progress(done, a["images"] or 0, "images", "top-1 %.4f" % top1)
    elapsed = time.perf_counter() - start
    if done < (a["images"] or 0):
        raise Refused(
            "%d images were asked for, and the split holds %d." % (a["images"], done),
            "Ask for fewer with --images, or leave it out to judge all of them.",
        )
    np.packbits(np.concatenate(hits1)).tofile(a["bits_path"])
    answers.save(a["answers_path"])
    return {
        "images": int(done),
        "top1_hits": top1_hits,
        "top5_hits": top5_hits,
        "elapsed_s": elapsed,
        "compute_s": compute_s,
    }
