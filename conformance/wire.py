"""The job that the host side writes and the event lines that the subject writes.

The only module that both sides use. It imports nothing of the project and runs on
Python 3.8. A job is one JSON file; events are JSON lines appended to the file that
the job names, so that a rank on another machine can write them as well as a child.
"""

import json
import os
import time
from typing import Any, Dict, List, NamedTuple

SCHEMA = 1

# Kinds of job, each a module of conformance.subject.
MEASURE = "measure"  # time a graph on dummy data
ACCURACY = "accuracy"  # judge a graph on every image of a validation split
WRITE_DIGITS = "write_digits"  # arrays of digits -> TFRecords in the ImageNet schema
TRAIN = "train"  # TFRecords or synthetic images -> losses, evaluations, checkpoints, graphs
FREEZE_SEEDED = "freeze_seeded"  # seeded weights -> frozen fp32 graph, for speed only
QUANTIZE = "quantize"  # fp32 graph and calibration images -> int8 graph
INSPECT = "inspect"  # any graph -> what it says of itself
FREEZE = "freeze_graph"  # checkpoint, SavedModel or graph -> frozen graph
CONVERT = "convert_graph"  # fp32 graph -> bf16 graph
CONVERT_IMAGENET = "convert_imagenet"  # archives of ImageNet -> TFRecords and class folders
SUBSET = "subset"  # TFRecords -> a class-balanced sample of a split
VERIFY = "verify_data"  # TFRecords -> what is in them, and dataset.json
PROBE_DEVICE = "probe_device"  # nothing -> what an HPU is and can do, in a process that may be aborted

# Kinds of event.
STARTED = "started"  # TensorFlow is imported; versions, threads, plugins
PHASE = "phase"  # what begins now, in a word or two
PROGRESS = "progress"  # done, total, unit, note
ALIVE = "alive"  # heartbeat
LEFT = "left"  # the ranks that go on without the others, by the numbers they were started with, the first one first
RESULT = "result"  # the measurement; the last event of a job that succeeded
FAILED = "failed"  # message and hint; the last event of a job that did not


class Job(NamedTuple):
    """What a subject is asked to do; ``arguments`` are those of the kind's module."""

    kind: str
    events: str
    inter_op_threads: int
    intra_op_threads: int
    arguments: Dict[str, Any]
    schema: int = SCHEMA


class Refused(Exception):
    """What a subject cannot do for a reason that is no bug: one sentence and the next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class WrongAnswer(Refused):
    """What a graph under test answers cannot be right: it failed, and nobody's input was wrong."""


class Consequence(WrongAnswer):
    """A rank ends because another one did, which tells why."""


def write_job(job: Job, path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job._asdict(), file, indent=1)


def read_job(path: str) -> Job:
    """Read a job; raises ValueError when another version of the harness wrote it."""
    with open(path, encoding="utf-8") as file:
        job = Job(**json.load(file))
    if job.schema != SCHEMA:
        raise ValueError(f"job schema {job.schema}, this subject reads {SCHEMA}")
    return job


def event_line(kind: str, fields: Dict[str, Any]) -> bytes:
    """Return one event as a line; NaN is refused, because it is not JSON."""
    body = {"event": kind, "pid": os.getpid(), "monotonic_s": time.monotonic(), **fields}
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def parse_events(data: bytes) -> List[Dict[str, Any]]:
    """Return the events of complete lines; raises ValueError with the first line that is none."""
    events = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
            event["event"]
        except (ValueError, KeyError, TypeError):
            shown = line[:80].decode("utf-8", "backslashreplace")
            raise ValueError(f"not an event: {shown!r}") from None
        events.append(event)
    return events
