"""Real sessions of pytest over real suites, on a graph and a data set that are tiny."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from conformance.records import Run
from conformance.records.run_file import read_run

ROOT = Path(__file__).parents[1]
SHORT = ("--steps", "5", "--warmup-steps", "2")

# A machine like any other, measured for a moment only, and never too noisy.
QUICK = """
name = "quick"
description = "any machine, for a moment"
[machine]
[drive]
min_timed_s = 0.2
[counts]
max_steal_share = 1.0
max_foreign_share = 1.0
max_spread = 1.0
max_ceiling_drift = 1.0
"""

# Makes all graphs and data sets at once: TensorFlow's import is most of what it takes.
MAKE = '''
import os, sys
import numpy as np
import tensorflow as tf

out = sys.argv[1]
rng = np.random.default_rng(0)

def write(name, data):
    path = os.path.join(out, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)

def graph(classes=1001, weight=1.0, source="input_tensor", before=lambda x: x):
    with tf.Graph().as_default() as made:
        images = before(tf.compat.v1.placeholder(tf.float32, [None, 224, 224, 3], name=source))
        kernel = tf.constant(rng.normal(0, 0.01, (7, 7, 3, 16)).astype("float32"))
        seen = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 4, "SAME")), [1, 2])
        last = tf.constant((weight * rng.normal(0, 1, (16, classes))).astype("float32"))
        tf.nn.softmax(tf.matmul(seen, last), name="softmax_tensor")
    return made.as_graph_def().SerializeToString()

def reads_a_file(x):
    return x + tf.io.decode_raw(tf.io.read_file("/etc/hostname"), tf.uint8).shape.rank

def runs_python(x):
    return tf.reshape(tf.compat.v1.py_func(lambda y: y, [x], tf.float32), [-1, 224, 224, 3])

tiny = graph()
write("tiny.pb", tiny)
write("truncated.pb", tiny[: len(tiny) // 2])
write("text.pb", b"This is a text about graphs.\\n")
write("classes1000.pb", graph(1000))
write("nan.pb", graph(weight=float("nan")))
write("unnamed.pb", graph(source="images"))
write("readfile.pb", graph(before=reads_a_file))
write("pyfunc.pb", graph(before=runs_python))

def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

def records(name, count, **changed):
    """Write a validation split of one shard; ``changed`` holds what is different in its last record."""
    path = os.path.join(out, name, "validation-00000-of-00001")
    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for index in range(count):
            image = rng.integers(0, 255, (256, 300, 3)).astype("uint8")
            fields = {
                "encoded": tf.io.encode_jpeg(image).numpy(),
                "class/label": index + 1,
                "filename": b"image_%d.JPEG" % index,
            }
            if index == count - 1:
                fields.update({key.replace("_", "/"): value for key, value in changed.items()})
            known = {"image/" + key: feature(value) for key, value in fields.items() if value is not None}
            writer.write(tf.train.Example(features=tf.train.Features(feature=known)).SerializeToString())
    return path

records("good", 6)
records("label0", 2, class_label=0)
records("label1001", 2, class_label=1001)
records("nojpeg", 2, encoded=b"no JPEG")
records("nofeature", 2, encoded=None)
damaged = records("corrupt", 2)
with open(damaged, "r+b") as file:
    file.seek(-100, os.SEEK_END)
    file.write(b"rot")
write("empty/validation-00000-of-00001", b"")
os.makedirs(os.path.join(out, "nothing"))
'''


class Ended(NamedTuple):
    """A session that ended: its exit status, all that it printed, and where its runs lie."""

    status: int
    text: str
    runs: Path

    @property
    def run(self) -> Run:
        """The one run of this session, as whoever comes later reads it."""
        (directory,) = self.runs.glob("run-*")
        return read_run(directory)

    @property
    def has_run(self) -> bool:
        return any(self.runs.glob("run-*"))


def environment(place: Path, **changes: str) -> dict[str, str]:
    """Return an environment without anything of this session's, with a cache and leases of its own."""
    told = ("PYTEST_", "TF_", "OMP_", "KMP_", "ONEDNN_", "COV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    return {**kept, "TF_CONFORMANCE_CACHE": str(place / "cache"), "TMPDIR": str(place / "tmp"), **changes}


def command(place: Path, *argv: str) -> list[str]:
    given = [] if any(word.startswith("--output-dir") for word in argv) else ["--output-dir", str(place / "runs")]
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *argv, *given]


def session(place: Path, *argv: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Ended:
    """Run a session to its end, with its runs below ``place``."""
    done = subprocess.run(
        command(place, *argv),
        cwd=cwd,
        env=environment(place, **({} if cwd == ROOT else {"PYTHONPATH": str(ROOT)}), **(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return Ended(done.returncode, done.stdout, place / "runs")


def interpreter(place: Path, body: str) -> str:
    """Make a stack whose interpreter is this one, except that ``body`` stands in place of each subject."""
    path = place / "stack" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(
        f'#!/bin/sh\nreal={sys.executable}\ncase "$*" in\n*conformance.subject*)\n{body}\n;;\n'
        f'*) exec "$real" "$@" ;;\nesac\n'
    )
    path.chmod(0o755)
    return str(path)


# Stands in place of each subject, or rank, of a training: it answers at once with what its ``trained()`` tells.
STAND_IN_BEGIN = """
import json, os, sys
from conformance import wire

job = wire.read_job(sys.argv[-1])
a, rank = job.arguments, int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))

def send(kind, **fields):
    with open(job.events + (".rank%d" % rank if rank else ""), "ab") as file:
        file.write(wire.event_line(kind, fields))
"""
STAND_IN_END = """
send(wire.STARTED, tensorflow="2.99")
if job.kind == wire.WRITE_DIGITS:
    os.makedirs(a["output"])
    splits = {"train": {"images": 1433, "shards": []}, "validation": {"images": 364, "shards": []}}
    with open(os.path.join(a["output"], "dataset.json"), "w") as file:
        json.dump({"schema": 1, "dataset": "digits", "classes": 10, "splits": splits}, file)
send(wire.RESULT, result=trained() if job.kind == wire.TRAIN and not rank else {})
"""


def stand_in(place: Path, facts: str, trained: str) -> str:
    """Make a stack whose subjects answer a training with ``trained``, a function's source that uses ``facts``."""
    script = place / "stand_in.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"{facts}\n{STAND_IN_BEGIN}{trained}{STAND_IN_END}", encoding="utf-8")
    return interpreter(place, f'exec "$real" {script} "$@"')


def suites(place: Path, table: str) -> Path:
    """Make a project with one suite of its own: its latency cases are the rows of ``table``."""
    suite = place / "project" / "suites" / "mine"
    suite.mkdir(parents=True)
    (place / "project" / "pytest.ini").write_text("[pytest]\naddopts = -p conformance.plugin --strict-markers\n")
    (suite / "test_latency.py").write_text((ROOT / "suites/inference/test_latency.py").read_text())
    (suite / "test_latency.toml").write_text(table)
    return place / "project"


ROW = """
[[case]]
id = "mine"
model = "resnet50_v1_5"
mode = "latency"
precision = "fp32"
dataset = "dummy"
batch_size = 1
source = "a README"
"""


def processes(place: Path) -> list[int]:
    """Return the ids of living processes whose command line names something below ``place``, but for pytest's own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        of_a_subject = any(word.startswith(b"conformance.subject") for word in words)
        if state not in "ZX" and of_a_subject and any(bytes(place) in word for word in words):
            found.append(int(entry.name))
    return found
