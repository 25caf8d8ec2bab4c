"""Ranks that go wrong, each in a session of its own: told in a sentence, ended in time, and nothing is left of them.

Two ranks of a small network train on real digits; ``faulty_rank.py`` stands in place of the subject and lets one of
them go wrong. What is tried are the launch, the supervision and the training of the harness as they are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ranks_sessions import WITH_HOROVOD
from session_examples import ROOT, Ended, command, environment, interpreter

from conformance.launch import groups

BIN = Path(sys.executable).parent
pytestmark = [
    pytest.mark.outside,
    pytest.mark.tensorflow,
    *WITH_HOROVOD,
]
STEPS, FAULT = 40, 25
ROW = f"""
[[case]]
id = "two"
model = "resnet50_v1_5"
mode = "training"
precision = "fp32"
dataset = "digits"
batch_size = 8
world_size = 2
oversubscribe = true
time_limit_s = 300
source = "none: a small network"

  [case.training]
  epochs = 1
  max_train_steps = {STEPS}
  momentum = 0.9
  weight_decay = 1e-4
  crop = "digits"
  schedule = {{ base = 0.4, warmup_epochs = 0.2, epochs = 2 }}

  [[case.band]]
  metric = "weights_differ"
  at_most = 0
  source = "what the ranks are for: one model"
"""
# Ranks that stand still are ended after 45 s, which is too long to be waited for here, for each way to do so.
SOONER = """
import os
from functools import partial
from conformance.fixtures import subject

if "HOROVOD_STALL_CHECK_TIME_SECONDS" in os.environ:
    subject.Limits = partial(subject.Limits, standstill_limit_s=12.0)
"""
CHECKED = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "2"}


class Session(NamedTuple):
    """A session that ended, and how long after its fault."""

    ended: Ended
    place: Path
    after_s: float | None

    @property
    def sentence(self) -> str:
        (record,) = self.ended.run.records
        assert (self.ended.status, record.verdict) == (1, "invalid"), self.ended.text
        assert self.after_s is not None and self.after_s < 60
        return record.reason

    @property
    def losses(self) -> list[float]:
        """The losses of all steps that this session trained."""
        (record,) = self.ended.run.records
        _, *steps = (Path(self.ended.run.directory) / record.artefacts["steps"].path).read_text().splitlines()
        return [float(step.split(",")[1]) for step in steps]


class Sessions:
    """Runs sessions that share a cache with the digits in it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def start(self, name: str, fault: str, rank: int, *argv: str, step: int = FAULT) -> subprocess.Popen[str]:
        place = self.place / name
        body = f'exec "$real" {Path(__file__).with_name("faulty_rank.py")} {fault} {rank} {step} "$@"'
        stack = interpreter(place, body)
        suite = place / "project" / "suites" / "mine"
        suite.mkdir(parents=True)
        (place / "project" / "pytest.ini").write_text("[pytest]\naddopts = -p conformance.plugin --strict-markers\n")
        (place / "project" / "conftest.py").write_text(SOONER)
        (suite / "test_ranks.py").write_text((ROOT / "suites/distributed/test_ranks.py").read_text())
        (suite / "test_ranks.toml").write_text(ROW)
        own = {"PYTHONPATH": str(ROOT), "TF_CONFORMANCE_CACHE": str(self.place / "cache")}
        own.update(CHECKED if fault in ("sleep", "stop") else {})
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))
        return subprocess.Popen(
            command(place, "suites", "--stack", stack, "--hw", "generic-cpu", "--hw-mismatch", "run", *argv),
            cwd=place / "project", env=environment(place, **own, PATH=path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def ended(self, name: str, process: subprocess.Popen[str]) -> Session:
        text, _ = process.communicate(timeout=400)
        told = [float(path.read_text()) for path in (self.place / name).glob("runs/*/jobs/*.fault")]
        assert self.left() == []
        ended = Ended(process.returncode, text, self.place / name / "runs")
        return Session(ended, self.place / name, time.time() - told[0] if told else None)

    def run(self, name: str, fault: str, rank: int, *argv: str, step: int = FAULT) -> Session:
        return self.ended(name, self.start(name, fault, rank, *argv, step=step))

    def left(self) -> list[int]:
        """Return the processes of launches of these sessions."""
        mark = f"{groups.LAUNCH_VARIABLE}={self.place}{os.sep}".encode()
        found = {pid: groups._environment(pid) for pid in groups._processes()}
        return [pid for pid, variables in found.items() if any(name.startswith(mark) for name in variables)]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    return Sessions(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(sessions: Sessions) -> Session:
    """A training that nothing happened to."""
    found = sessions.run("whole", "none", 0)
    (record,) = found.ended.run.records
    assert (found.ended.status, record.metrics["weights_differ"], len(found.losses)) == (0, 0, STEPS), found.ended.text
    return found


@pytest.mark.parametrize(
    ("fault", "argv", "sentence"),
    [
        ("kill", ("--launcher", "horovodrun"), "Rank 1 of 2 was killed by SIGKILL (signal 9), as the kernel does when"),
        ("fail", (), "Rank 1 of 2: ZeroDivisionError: a bug of rank 1"),
        ("reshape", (), "Rank 1 has a gradient of the shape [1] where rank 0 has [11]."),
        ("starve", (), "OOM when allocating tensor with shape[268435456]"),
        ("sleep", (), "Rank 1 of 2 hung: the others waited for it for 1"),
        ("stop", (), "Rank 1 of 2 hung: no event for 1"),
    ],
)
def test_a_rank_that_goes_wrong_is_named_with_what_it_did(
    sessions: Sessions, fault: str, argv: Sequence[str], sentence: str
) -> None:
    assert sentence in sessions.run(fault, fault, 1, *argv).sentence


def test_after_a_killed_rank_the_same_command_goes_on_to_the_same_end(sessions: Sessions, whole: Session) -> None:
    given = ("--model-dir", str(sessions.place / "model"), "--checkpoint-steps", "10")
    told = sessions.run("killed", "kill", 1, *given).sentence
    assert told.startswith("Rank 1 of 2 was killed by SIGKILL (signal 9)")
    resumed = sessions.run("resumed", "none", 1, *given)
    (record,), (expected,) = resumed.ended.run.records, whole.ended.run.records
    assert resumed.ended.status == 0 and "Resumed from the checkpoint of step 20." in record.notes, resumed.ended.text
    assert len(resumed.losses) == STEPS - 20
    np.testing.assert_allclose(resumed.losses, whole.losses[20:], rtol=1e-5)
    assert record.metrics["top1"] == pytest.approx(expected.metrics["top1"], abs=2 / 364)


@pytest.mark.parametrize(("fault", "lost"), [("kill", 0), ("fail", 1)])
def test_ranks_that_are_elastic_go_on_to_the_same_end_without_one_that_is_lost(
    sessions: Sessions, whole: Session, fault: str, lost: int
) -> None:
    kept = ("--model-dir", str(sessions.place / f"elastic-model{lost}"))
    gone_on = sessions.run(f"elastic{lost}", fault, lost, "--elastic", *kept)
    (record,), (expected,) = gone_on.ended.run.records, whole.ended.run.records
    assert (gone_on.ended.status, record.metrics["weights_differ"]) == (0, 0), gone_on.ended.text
    notes = " ".join(record.notes)
    assert f"From step 20 on 1 of 2 ranks went on without the others, with the images of all: {1 - lost}." in notes
    assert f"{STEPS} steps, ended by the steps." in notes and "global_images_per_s" not in record.metrics
    # The rank that is left takes the images of both in each step: only the order of sums differs.
    assert len(gone_on.losses) == STEPS
    np.testing.assert_allclose(gone_on.losses, whole.losses, rtol=1e-3)
    assert record.metrics["top1"] == pytest.approx(expected.metrics["top1"], abs=0.03)  # by other moving statistics
    assert (
        os.listdir(sessions.place / f"elastic-model{lost}" / "two") == [f"step-{STEPS:08}"]
        and "graph" in record.artefacts
    )


def test_an_interrupted_session_ends_all_ranks_with_a_checkpoint(sessions: Sessions) -> None:
    model = sessions.place / "interrupted-model"
    more = ("--model-dir", str(model), "--train-epochs", "1000", "--max-train-steps", "1000000")
    process = sessions.start("interrupted", "none", 0, *more)
    events = sessions.place / "interrupted" / "runs"
    deadline = time.monotonic() + 200
    while not any(b'"steps"' in path.read_bytes() for path in events.glob("*/events/two.jsonl.rank1")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    found = sessions.ended("interrupted", process)
    assert found.ended.status == 2 and time.monotonic() - begun < 60, found.ended.text
    (name,) = os.listdir(model / "two")
    told = next(events.glob("*/events/two.jsonl")).read_text()
    assert name.startswith("step-") and f"; its checkpoint is step {int(name[5:])}." in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of its own that holds some checkpoints of the small network, and not all."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(place)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_for_the_first_rank_ends_all_and_keeps_what_is_there(
    sessions: Sessions, small_disk: Path
) -> None:
    found = sessions.run("full", "none", 0, "--model-dir", str(small_disk), "--checkpoint-steps", "5")
    (record,) = found.ended.run.records
    assert (found.ended.status, record.verdict) == (4, "not run"), (
        found.ended.text
    )  # the user's disk, no fault of a model
    assert record.reason.startswith("Rank 0 of 2: ") and "No space left on device" in record.reason
    kept = sorted(os.listdir(small_disk / "two"))
    assert kept and all(name.startswith("step-") and not name.endswith(".part") for name in kept)
    assert shutil.disk_usage(small_disk).total < 2**20
