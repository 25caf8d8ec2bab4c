"""What tests/test_ranks.py runs under mpirun: ``python ranks_program.py together PLACE`` or ``raising JOB``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from conformance.models import resnet
from conformance.models.resnet import Variant
from conformance.subject import __main__ as subject
from conformance.subject import ranks, train
from conformance.wire import Consequence, Refused

ENGINE = {"engine": "horovod", "world_size": 2}


class Heard:
    """Takes what a subject says, and does something after a step."""

    def __init__(self, step: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.step, self.act = step, act

    def phase(self, name: str) -> None: ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if unit == "steps" and done == self.step:
            self.act()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def together(place: Path) -> None:
    """Train in many ways in one session of Horovod; each rank writes what came of them."""
    a = json.loads((place / "arguments.json").read_text())
    found: dict[str, Any] = {}
    with ranks.joined({**ENGINE, "timeline": str(place / "timeline.json")}) as joined:

        def told(name: str, heard: Heard | None = None, given: Any = None, **changes: Any) -> None:
            with contextlib.redirect_stdout(io.StringIO()) as log:
                try:
                    found[name] = train.train({**a, **changes}, heard or Heard(), 1, given or joined)
                except Refused as refused:
                    found[name] = {"message": refused.message, "consequence": isinstance(refused, Consequence)}
            found[name]["log"] = log.getvalue()
            joined.asked = joined.agreed = False  # each training is to be as in a process of its own

        def as_wanted(**wanted: Any) -> ranks.Horovod:
            return ranks.Horovod(ranks.parsed({**ENGINE, **wanted}))

        model = place / "model"
        told("trained", model_dir=str(model), checkpoint_steps=10, epochs_between_evals=2)
        if joined.rank == 0:
            shutil.move(model / "step-00000020", place / "last")
        told("resumed", model_dir=str(model), resume=True)
        told("other", given=as_wanted(compression="fp16", shard="file"), max_train_steps=4)
        told("control", given=as_wanted(communicate=False, check_every=4))
        ended = Heard(3, interrupt) if joined.rank == 1 else Heard()
        told("interrupted", ended, model_dir=str(place / "interrupted"))
        labels = train.training.synthetic
        if joined.rank == 1:
            train.training.synthetic = lambda *given: (labels(*given)[0] * np.nan, labels(*given)[1])
        told("nan", data=None)
        found["affinity"] = sorted(os.sched_getaffinity(0))
        (place / f"found{joined.rank}.json").write_text(json.dumps(found))
        try:
            as_wanted(world_size=3)
        except Refused as refused:
            (place / f"three{joined.rank}").write_text(refused.message)


def raising(job: str) -> int:
    """Run a job whose input fails on rank 1 in its second step, while rank 0 waits for it."""
    real = train.training.batches

    def failing(*given: Any) -> Any:
        batches = real(*given)
        yield next(batches)
        raise Refused("The disk of rank 1 is gone.", "Look for it.")

    if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        train.training.batches = failing
    return subject.main(job)


if __name__ == "__main__":
    resnet.VARIANTS["tiny"] = Variant((1,), (8,))
    status = together(Path(sys.argv[2])) if sys.argv[1] == "together" else raising(sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
