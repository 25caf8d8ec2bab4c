"""Runs made up for the tests of comparisons and histories: repeats of one latency case, and nobody's measurements."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
from report_examples import footer, header, speed
from session_examples import interpreter

from conformance.records import Header, Record
from conformance.records.run_file import RunWriter

CASE = "fp32-latency-b1"
TEMPLATE = msgspec.structs.replace(speed("fp32", "latency", 1, 0.009481), stack="tf")


def repeats(
    median_s: float, count: int = 10, noise: float = 0.005, ceiling: float = 2.6e12, seed: int = 0, **changes: Any
) -> tuple[Record, ...]:
    """Return repeats whose median step is about so long, on a machine with about this ceiling."""
    draw = random.Random(seed)
    made = []
    for number in range(1, count + 1):
        step_s = median_s * draw.lognormvariate(0, noise)
        flop_per_s, limit = 8.2e9 / step_s, ceiling * draw.lognormvariate(0, noise / 2)
        metrics = {
            "throughput_images_per_s": 1 / step_s,
            "latency_p50_s": step_s,
            "latency_p90_s": step_s * 1.04,
            "latency_p99_s": step_s * 1.2,
            "achieved_flop_per_s": flop_per_s,
            "ceiling_flop_per_s": limit,
            "ceiling_share": flop_per_s / limit,
            "native_share": 1.0,
        }
        fields = {"metrics": metrics, "repeat": number, "series": (), "published": (), **changes}
        made.append(msgspec.structs.replace(TEMPLATE, **fields))
    return tuple(made)


def head(name: str, day: int = 1, **changes: Any) -> Header:
    return header(run=f"run-202611{day:02}-120000-{name}", started_at=f"2026-11-{day:02}T12:00:00+00:00", **changes)


def write(place: Path, head: Header, records: tuple[Record, ...]) -> Path:
    """Write a run file below ``place`` and return the directory of the run."""
    writer = RunWriter.create(place, head)
    for record in records:
        writer.append(record)
    writer.finish(footer(records))
    return writer.directory


def stack(tensorflow: str = "2.15.1", **changes: Any) -> dict[str, dict[str, Any]]:
    """Return the only stack of a header."""
    packages = {"tensorflow": tensorflow, "numpy": "1.26.4"}
    return {"tf": {"python": "3.11.9", "interpreter": "/opt/tf/bin/python", "packages": packages, **changes}}


# Stands in place of each subject that is asked for a speed: it answers at once with steps of about the time that the
# file beside it says, which differ from process to process by 1 %.
MEASURED = """
import json, os, random, sys
from conformance import wire

job = wire.read_job(sys.argv[-1])
a = job.arguments

def send(kind, **fields):
    with open(job.events, "ab") as file:
        file.write(wire.event_line(kind, fields))

def arm(asked):
    draw = random.Random()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "step_s.txt")) as file:
        step_s = float(file.read()) * draw.lognormvariate(0, 0.01)
    proof = {"native_share": 1.0, "kernels": [], "layers": [], "step_s": step_s, "flop_per_image": 8.2e9, "error": None,
             "onednn": {"version": "0.0", "runtime": "none", "isa": "none"}}
    ceiling = 2.6e12 * draw.lognormvariate(0, 0.005)
    return {"name": asked["name"], "precision": asked["precision"], "warmup_steps": 1, "steady": True,
            "step_s": [step_s] * 20, "block_mean_s": [step_s] * 4, "gap_share": 0.0, "begun_s": 0.0, "ended_s": 1.0,
            "finite": True, "proof": proof if asked.get("prove", a.get("prove", True)) else None,
            "ceiling_before_flop_per_s": ceiling, "ceiling_after_flop_per_s": ceiling}

send(wire.STARTED, tensorflow="2.99", plugins=[])
if job.kind == wire.FREEZE_SEEDED:
    open(a["output"], "w").close()
reading = {"steal_s": 0.0, "busy_s": 1.0, "own_s": 1.0, "elapsed_s": 1.0, "throttle_events": None, "cpus": 1}
send(wire.RESULT, result={"arms": [arm(asked) for asked in a["arms"]], "reading": reading, "network": "a stand-in"}
     if job.kind == wire.MEASURE else {})
"""


def speed_stand_in(place: Path, step_s: float) -> str:
    """Make a stack whose subjects answer with steps of about so long; ``set_speed`` changes it."""
    script = place / "answers" / "measured.py"
    script.parent.mkdir(parents=True)
    script.write_text(MEASURED, encoding="utf-8")
    set_speed(place, step_s)
    return interpreter(place, f'exec "$real" {script} "$@"')


def set_speed(place: Path, step_s: float) -> None:
    (place / "answers" / "step_s.txt").write_text(str(step_s), encoding="utf-8")
