"""A second process of the subject, in which oneDNN's verbose log is on.

oneDNN reads ONEDNN_VERBOSE once and for the whole process, and printing would slow what is timed. The second process
is begun before TensorFlow is imported and imports it beside the subject, runs two steps of each graph while the subject
loads them, and is gone before anything is timed. The first step creates primitives and reorders weights once and for
all; the second is looked at. It is an interpreter of its own and no fork: TensorFlow's import starts threads, and a
fork that copies a lock which one of them holds would wait for it for ever.

``python -m conformance.subject.verbose_pass JOB.json PARENT``: a pickled request on stdin; on stdout a line of JSON a
graph, with what was printed and the seconds of the step.
"""

import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from conformance.wire import read_job

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Subject(NamedTuple):
    """A graph as it is to be run: parsed, with its tensors' names and its claimed precision."""

    graph_def: Any
    precision: str
    input_name: str
    output_name: str


class Log(NamedTuple):
    """What one step of a graph printed, and its seconds; ``error`` tells why there is nothing, or None."""

    lines: Tuple[str, ...]
    error: Optional[str]
    step_s: float = 0.0


class _Request(NamedTuple):
    images: Any  # [B, H, W, C] float32
    graphs: Tuple[Tuple[bytes, str, str, str], ...]  # serialised, precision, input name, output name


class VerbosePass:
    """The second process, begun when this is made; it is told once what to run, and ``logs`` waits for what it saw."""

    def __init__(self, job_path: str) -> None:
        command = [sys.executable, "-m", "conformance.subject.verbose_pass", job_path, str(os.getpid())]
        env = dict(os.environ, ONEDNN_VERBOSE="1")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._count = 0

    def begin(self, images: Any, subjects: Sequence[Subject]) -> None:
        """Hand over ``images`` for a step of each graph; they run one after another, beside this process."""
        graphs = tuple((s.graph_def.SerializeToString(), s.precision, s.input_name, s.output_name) for s in subjects)
        request = pickle.dumps(_Request(images, graphs), protocol=4)
        self._count = len(graphs)
        # In a thread, because handing over waits for the other's import of TensorFlow.
        self._answer = ThreadPoolExecutor(1).submit(self._process.communicate, request)

    def logs(self) -> List[Log]:
        """Return the log of each graph, in the order in which they were given; the second process is gone then."""
        answer, _ = self._answer.result()
        told = map(json.loads, answer.splitlines())
        logs = [Log(tuple(lines), None, step_s) for lines, step_s in told]
        status = self._process.returncode
        error = "the pass under the verbose log ended with exit status %d" % status
        return logs + [Log((), error)] * (self._count - len(logs))


def main(job_path: str, parent: int) -> None:
    die_with(parent)
    job = read_job(job_path)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs to the subject's log
    runtime = _runtime()
    content = sys.stdin.buffer.read()
    if not content:  # the subject had nothing to prove
        return
    request = pickle.loads(content)
    headers: List[str] = []  # oneDNN prints them once a process, and each graph's log is to have them
    for graph, precision, input_name, output_name in request.graphs:
        graph_def = runtime.tf.compat.v1.GraphDef.FromString(graph)
        step = runtime.graph_step(job, graph_def, precision, input_name, output_name)
        first, lines, step_s = two_steps(step, request.images)
        headers += first
        answers.write(json.dumps([headers + lines, step_s]) + "\n")
        answers.flush()


def _runtime() -> Any:
    from conformance.subject import runtime  # TensorFlow's import, which this module must not cost its importer

    return runtime


def two_steps(step: Callable[[Any], Any], images: Any) -> Tuple[List[str], List[str], float]:
    """Return the headers that the first of two steps prints, all that the second prints, and the second's seconds.

    The first traces, compiles, creates primitives and reorders weights: that is no part of a step.
    """
    first = printed(step, images)
    begun = time.perf_counter()
    lines = printed(step, images)
    step_s = time.perf_counter() - begun
    return [line for line in first if ",exec," not in line], lines, step_s


def printed(step: Callable[[Any], Any], images: Any) -> List[str]:
    """Return the lines that a step prints to file descriptor 1, by whatever library."""
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        step(images)
        ctypes.CDLL(None).fflush(None)
        os.dup2(2, 1)
        log.seek(0)
        return log.read().decode("utf-8", "replace").splitlines()


def die_with(parent: int) -> None:
    """Let the kernel kill this process when the subject is killed: nobody else would."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    sys.stderr.flush()
    os._exit(0)  # tearing TensorFlow down would take another second
