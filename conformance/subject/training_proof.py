"""Proof of the precision of a training step: the kernels of its convolutions, forwards and backwards.

oneDNN's verbose log holds for a whole process, so that two steps run in a second one, before anything is timed; the
first traces and compiles, and the second is looked at:
``python -m conformance.subject.training_proof PARENT`` with the job's arguments and threads as JSON on stdin.
"""

import json
import os
import subprocess
import sys
from typing import Any, Dict, Tuple

import numpy as np
import tensorflow as tf

from conformance.data import training
from conformance.models.resnet import ResNet
from conformance.subject import onednn
from conformance.subject.training_step import COMPUTE, Step
from conformance.subject.verbose_pass import die_with, two_steps

NOTHING: Dict[str, Any] = {"kernels": None, "native_share": None, "fallbacks": None, "layers": None, "onednn": None}
LARGEST = 5


def shown(arguments: Dict[str, Any], threads: Tuple[int, int]) -> Dict[str, Any]:
    """Return what one step on synthetic images shows; None each where there is no log.

    Keys: kernels, native_share, layers (`onednn.layers`), onednn (version, runtime, isa) and fallbacks, which has
    precision; step_s, the seconds of that step under the log; onednn_s, the sum of what its primitives took (the rest
    is TensorFlow's own, in no log); and largest, up to five of `onednn.fallbacks`.
    ``threads`` are those between operations and those of one.
    """
    command = [sys.executable, "-m", "conformance.subject.training_proof", str(os.getpid())]
    request = json.dumps({"arguments": arguments, "threads": threads}).encode()
    env = dict(os.environ, ONEDNN_VERBOSE="1")
    ended = subprocess.run(command, input=request, stdout=subprocess.PIPE, env=env, check=False)
    if ended.returncode:
        return NOTHING
    answer: Dict[str, Any] = json.loads(ended.stdout)
    log = onednn.parse(answer["lines"])
    work = log.work
    if not work:
        return NOTHING
    precision, step_s = arguments["precision"], answer["step_s"]
    share = onednn.native_share(work, precision, answer["flop"])
    fallbacks = {
        "precision": precision,
        "step_s": step_s,
        "onednn_s": sum(item.ms for item in log.timed) / 1000.0,
        "largest": onednn.fallbacks(log.timed, precision, 1000.0 * step_s)[:LARGEST],
    }
    return {
        "kernels": onednn.kernels(work),
        "native_share": share,
        "fallbacks": fallbacks,
        "layers": onednn.layers(log.timed),
        "onednn": {"version": log.version, "runtime": log.runtime, "isa": log.isa},
    }


def step_flop(network: ResNet, batch_size: int, image_size: int, head_only: bool = False) -> int:
    """Return the FLOPs of the convolutions of a step: each again for its kernel, and for its input but the first's.

    Where the head only is trained, nothing goes back through them.
    """
    images = tf.TensorSpec([batch_size, image_size, image_size, 3], tf.float32)
    graph = tf.function(network.__call__, autograph=False).get_concrete_function(images, True).graph
    forwards = [
        2 * int(np.prod(node.outputs[0].shape.as_list())) * int(np.prod(node.inputs[1].shape.as_list()[:3]))
        for node in graph.get_operations()
        if node.type == "Conv2D"
    ]
    return sum(forwards) if head_only else 3 * sum(forwards) - forwards[0]


def main(parent: int) -> None:
    die_with(parent)
    request = json.load(sys.stdin)
    a, threads = request["arguments"], request["threads"]
    tf.config.threading.set_inter_op_parallelism_threads(threads[0])
    tf.config.threading.set_intra_op_parallelism_threads(threads[1])
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs to the subject's log
    network = ResNet(a["network"], a["classes"], a["seed"], COMPUTE[a["precision"]])
    step = Step(network, dict(a, accumulate=1))
    batch = training.synthetic(a["batch_size"], a["image_size"], a["classes"], a["seed"], False)
    headers, lines, step_s = two_steps(lambda fed: step([fed], 0.0, 1.0), batch)
    lines = headers + lines
    flop = step_flop(network, a["batch_size"], a["image_size"], a["fine_tune"])
    json.dump({"lines": lines, "step_s": step_s, "flop": flop}, answer)
    answer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(0)  # tearing TensorFlow down would take another second
