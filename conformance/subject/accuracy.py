"""Judge a graph on every image of a validation split, the last partial batch too.

Arguments of the job: graph, precision, input_name, output_name, data (a directory), dataset (its name), image_size,
batch_size, bits_path, and results_path (or None).
"""

import time
from contextlib import ExitStack
from typing import Any, Dict, List, Tuple

import numpy as np

from conformance.data import imagenet
from conformance.data.shards import find_shards
from conformance.models import graphs
from conformance.subject import proof, runtime
from conformance.subject.events import Events
from conformance.subject.verbose_pass import Subject, VerbosePass
from conformance.wire import Job, WrongAnswer


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
    subject, description = _subject(a, images.shape)
    verbose_pass.begin(images, [subject])
    step = runtime.graph_step(job, *subject)
    step(images)
    events.phase("prove the precision")
    proven = proof.shown(subject, images, verbose_pass.logs()[0])
    events.phase("judge images")
    counts = _judge(step, shards, a, job, events)
    return {"proof": proven, "graph": description._asdict(), **counts}


def _subject(a: Dict[str, Any], shape: Tuple[int, ...]) -> Tuple[Subject, graphs.Facts]:
    graph_def = graphs.read_graph(a["graph"])
    graphs.check_graph(graph_def, a["input_name"], a["output_name"])
    graphs.check_feed(graph_def, a["input_name"], shape)
    description = graphs.describe(graph_def, a["input_name"], a["output_name"])
    graphs.check_classes(description.classes, imagenet.LABELS[a["dataset"]])
    graph_def = graphs.optimized(graph_def, a["input_name"], a["output_name"])
    return Subject(graph_def, a["precision"], a["input_name"], a["output_name"]), description


def _judge(step: Any, shards: List[str], a: Dict[str, Any], job: Job, events: Events) -> Dict[str, Any]:
    hits1: List[np.ndarray] = []
    done = top1_hits = top5_hits = 0
    compute_s = 0.0
    start = time.perf_counter()
    with ExitStack() as stack:
        results = stack.enter_context(open(a["results_path"], "w", encoding="utf-8")) if a["results_path"] else None
        if results:
            results.write("filename,actual,prediction\n")
        for images, labels, names in imagenet.batches(shards, a["batch_size"], a["dataset"], job.intra_op_threads):
            begun = time.perf_counter()
            outputs = step(images)
            seconds = time.perf_counter() - begun
            compute_s += seconds
            done += len(labels)
            if not np.isfinite(outputs).all():
                raise WrongAnswer(
                    "The graph's output for images %d to %d holds NaN or Inf." % (done - len(labels), done - 1),
                    "Look at the graph: such a prediction cannot be right or wrong.",
                )
            rank = ranks(outputs, labels)
            hits1.append(rank < 1)
            top1_hits += int((rank < 1).sum())
            top5_hits += int((rank < 5).sum())
            if results:
                results.writelines(
                    "%s,%d,%d\n" % (name.decode("utf-8", "replace"), label, prediction)
                    for name, label, prediction in zip(names, labels, outputs.argmax(axis=1))
                )
            top1, top5 = top1_hits / done, top5_hits / done
            print("Iteration time: %0.4f ms" % (1000 * seconds))
            print("Processed %d images. (Top1 accuracy, Top5 accuracy) = (%0.4f, %0.4f)" % (done, top1, top5))
            events.progress(done, 0, "images", "top-1 %.4f" % top1)
    elapsed = time.perf_counter() - start
    np.packbits(np.concatenate(hits1)).tofile(a["bits_path"])
    return {
        "images": int(done),
        "top1_hits": top1_hits,
        "top5_hits": top5_hits,
        "elapsed_s": elapsed,
        "compute_s": compute_s,
    }
