"""What tests/test_faults_of_ranks.py runs in place of a subject: one rank of a small network goes wrong at a step.

``python faulty_rank.py FAULT RANK STEP ... JOB``; the words before the job are those of the subject's command line.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from conformance.models import resnet
from conformance.models.resnet import Variant
from conformance.subject import __main__ as subject
from conformance.subject import ranks, training_proof
from conformance.subject.training_step import Step


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ZeroDivisionError(f"a bug of rank {own_rank()}")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep() -> None:
    time.sleep(3600)


def reshape() -> None:
    """Let this rank reduce gradients of other shapes from now on."""
    real = ranks.Horovod.reduce
    ranks.Horovod.reduce = lambda self, told, gradients: real(self, told, [g[:1] for g in gradients])


def starve() -> None:
    """Let TensorFlow allocate a tensor that there is no memory for."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    tf.fill([2**28], 1.0)


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None, "kill": kill, "fail": fail, "stop": stop, "sleep": sleep, "reshape": reshape,
    "starve": starve,
}  # fmt: skip


def own_rank() -> str:
    return os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("HOROVOD_RANK") or "0"


def inject(fault: Callable[[], None], step: int) -> None:
    real, done = Step.__call__, [0]

    def call(self: Step, *given: Any) -> Any:
        if done[0] == step:
            Path(sys.argv[-1]).with_suffix(".fault").write_text(str(time.time()))
            fault()
        done[0] += 1
        return real(self, *given)

    Step.__call__ = call


if __name__ == "__main__":
    named, rank, step = sys.argv[1:4]
    resnet.VARIANTS["resnet50_v1_5"] = Variant((1,), (8,))
    training_proof.shown = lambda a, threads: training_proof.NOTHING
    if own_rank() == rank:
        inject(FAULTS[named], int(step))
    status = subject.main(sys.argv[-1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
