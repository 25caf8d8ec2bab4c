"""Two real interpreters side by side: their processes take turns, and each record is of the one that it names.

``CONFORMANCE_TWO_STACKS`` names two Pythons with different TensorFlows, the base first; without it, this interpreter
meets a virtual environment with the same packages.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from session_examples import MAKE, QUICK, SHORT, Ended, session

from conformance.stacks.compatibility import TENSORFLOWS

GIVEN = os.environ.get("CONFORMANCE_TWO_STACKS", "").split()

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.outside,
    pytest.mark.skipif(
        not GIVEN and importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this interpreter"
    ),
]


def same_packages(place: Path) -> str:
    """Make a virtual environment that finds what this interpreter has."""
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    (site,) = place.glob("lib/python*/site-packages")
    paths = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "same_packages.pth").write_text("".join(f"{path}\n" for path in paths))
    return str(python)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pythons = GIVEN or [sys.executable, same_packages(tmp_path_factory.mktemp("other") / "venv")]
    return dict(zip(("base", "new"), pythons, strict=True))


@pytest.fixture(scope="module")
def ended(stacks: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    place = tmp_path_factory.mktemp("turns")
    made = subprocess.run([stacks["base"], "-c", MAKE, str(place)], stderr=subprocess.PIPE, text=True)
    assert made.returncode == 0, made.stderr
    (place / "quick.toml").write_text(QUICK)
    given = [word for name, python in stacks.items() for word in ("--stack", f"{name}={python}")]
    inputs = ("--hw", str(place / "quick.toml"), "--in-graph", str(place / "tiny.pb"))
    return session(place, "suites/inference", "-m", "fp32 and latency", *SHORT, *inputs, *given, "--repeats", "3")


def tensorflow(python: str) -> str:
    code = "import importlib.metadata as m; print([(d.metadata['Name'], d.version) for d in m.distributions()])"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    installed = dict(reversed(ast.literal_eval(done.stdout)))  # of two on the path, Python imports the first
    version: str = next(installed[name] for name in TENSORFLOWS if name in installed)
    return version


def test_every_repeat_is_a_process_of_the_stack_that_its_record_names(ended: Ended, stacks: dict[str, str]) -> None:
    run = ended.run
    told: dict[str, Any] = run.header.stacks
    assert {name: told[name]["interpreter"] for name in stacks} == stacks, ended.text
    order = [(record.stack, record.repeat) for record in run.records]
    assert sorted(order) == [(name, repeat) for name in ("base", "new") for repeat in (1, 2, 3)], ended.text
    assert [{name for name, _ in order[turn : turn + 2]} for turn in (0, 2, 4)] == 3 * [{"base", "new"}]
    for record in run.records:
        (launched,) = record.launched
        assert stacks[record.stack] in launched.argv
        assert record.loaded["tensorflow"] == tensorflow(stacks[record.stack])


def test_the_ratio_of_each_pair_is_that_of_its_records(ended: Ended) -> None:
    (comparison,) = ended.run.comparisons
    (median_step,) = [change for change in comparison.changes if change.metric == "latency_p50_s"]
    by_turn = {(record.stack, record.repeat): record for record in ended.run.records}
    for side, values in (("base", median_step.base_values), ("new", median_step.new_values)):
        measured = [by_turn[side, repeat].metrics["latency_p50_s"] for repeat in (1, 2, 3)]
        assert list(values) == measured
    ratios = sorted(new / base for base, new in zip(median_step.base_values, median_step.new_values, strict=True))
    assert median_step.ratio == pytest.approx(ratios[1])
    # Three pairs can show nothing at the error that is allowed, however much the two differ.
    assert comparison.verdict in ("same", "inconclusive")


def test_what_differs_between_the_two_is_told_first(ended: Ended, stacks: dict[str, str]) -> None:
    (comparison,) = ended.run.comparisons
    versions = [tensorflow(python) for python in stacks.values()]
    told = [line for line in comparison.differences if "TensorFlow" in line]
    assert bool(told) == (versions[0] != versions[1]), json.dumps(comparison.differences)
    for line in told:
        assert all(version in line for version in versions)
