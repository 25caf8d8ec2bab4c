"""The second process of a subject, which runs under oneDNN's verbose log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import conformance
from conformance import wire
from conformance.subject.verbose_pass import Log, Subject, VerbosePass, two_steps

PACKAGE = str(Path(conformance.__file__).parents[1])


class Graph:
    """What a graph is to the process that hands it over: bytes."""

    def SerializeToString(self) -> bytes:
        return b"no graph"


@pytest.fixture(autouse=True)
def _shown_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PACKAGE)


def test_it_is_begun_without_importing_tensorflow() -> None:
    code = "import sys, conformance.subject.__main__; sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_process_that_is_killed_is_told_for_each_graph_that_it_owes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", sleeping(subprocess.Popen))  # it ends by nothing but the kill
    beside = VerbosePass("unread.json")
    beside.begin(None, [Subject(Graph(), "fp32", "in", "out")] * 2)
    os.kill(beside._process.pid, signal.SIGKILL)
    assert beside.logs() == [Log((), "the pass under the verbose log ended with exit status -9")] * 2


def test_of_two_steps_the_second_is_told_with_the_headers_of_the_first(capfd: pytest.CaptureFixture[str]) -> None:
    """oneDNN prints its headers once a process, and the first step does what is done once."""
    steps = iter(
        (
            b"onednn_verbose,v1,info,oneDNN v3.7.3\nonednn_verbose,v1,primitive,exec,cpu,reorder,once\n",
            b"onednn_verbose,v1,primitive,exec,cpu,convolution,each\n",
        )
    )
    headers, lines, step_s = two_steps(lambda images: time.sleep(0.01) or os.write(1, next(steps)), None)
    assert headers == ["onednn_verbose,v1,info,oneDNN v3.7.3"]
    assert lines == ["onednn_verbose,v1,primitive,exec,cpu,convolution,each"]
    assert 0.01 <= step_s < 1.0


def sleeping(popen: Any) -> Any:
    return lambda command, **options: popen(["/bin/sleep", "60"], **options)


@pytest.mark.tensorflow
def test_a_graph_that_cannot_run_takes_no_log_from_those_before_it(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    graph = tf.Graph()
    with graph.as_default():
        fed = tf.compat.v1.placeholder(tf.float32, (2, 8, 8, 3), name="in")
        tf.nn.conv2d(fed, np.ones((3, 3, 3, 8), np.float32), 1, "SAME", name="out")
    good = Subject(graph.as_graph_def(), "fp32", "in", "out")
    wire.write_job(wire.Job(wire.MEASURE, "unused", 1, 1, {}), str(tmp_path / "job.json"))
    beside = VerbosePass(str(tmp_path / "job.json"))
    beside.begin(np.ones((2, 8, 8, 3), np.float32), [good, good._replace(output_name="nothing"), good])
    first, *others = beside.logs()
    assert first.error is None and sum(",exec," in line and ",convolution," in line for line in first.lines) == 1
    assert first.step_s > 0 and any(",info," in line for line in first.lines)
    assert others == [Log((), "the pass under the verbose log ended with exit status 1")] * 2
