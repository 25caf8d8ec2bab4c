"""Machines to launch on, and small scripts to launch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from conformance.hardware.host import Cpu, Host
from conformance.hardware.profile import Drive
from conformance.launch.rules import subject_path
from conformance.launch.supervision import Limits, Outcome, Start, run_subjects
from conformance.records import Launched

SOCKET, MACHINE = Drive(unit="socket"), Drive(unit="machine")


def xeon(
    sockets: int,
    cores: int,
    *,
    threads: int = 2,
    nodes_per_socket: int = 1,
    allowed: range | None = None,
    quota_cpus: float | None = None,
) -> Host:
    """Return a Xeon numbered as Linux numbers it: first all cores, then all their siblings."""
    total = sockets * cores
    cpus = tuple(
        Cpu(
            id=id,
            core=id % total,
            socket=id % total // cores,
            node=id % total // (cores // nodes_per_socket),
        )
        for id in range(total * threads)
    )
    return Host(
        architecture="x86_64",
        vendor="GenuineIntel",
        model_name="Xeon",
        family=6,
        model=85,
        sockets=sockets,
        cores_per_socket=cores,
        threads_per_core=threads,
        cpus=cpus,
        flags=(),
        allowed=tuple(range(total * threads) if allowed is None else allowed),
        memory_bytes=2**38,
        quota_cpus=quota_cpus,
    )


LIMITS = Limits(time_limit_s=20, silence_limit_s=10, grace_s=0.5)

# What every subject here begins with: ``say`` appends an event to its stream.
PRELUDE = """
import os, signal, subprocess, sys, time
from conformance import wire
def say(kind, **fields):
    with open(sys.argv[1], "ab") as file:
        file.write(wire.event_line(kind, fields))
"""


def start(directory: Path, body: str, name: str = "subject", go: bool = False, **launch: Any) -> Start:
    directory.mkdir(exist_ok=True)
    events = directory / f"{name}.events"
    go_path = directory / f"{name}.go"
    launched = Launched(
        argv=launch.get("argv", (sys.executable, "-c", PRELUDE + body, str(events), str(go_path))),
        env={"PYTHONPATH": str(subject_path(directory)), **launch.get("env", {})},
        cpus=launch.get("cpus", (0,)),
        memory_nodes=(0,),
        inter_op_threads=1,
        intra_op_threads=1,
    )
    return Start(
        launched=launched,
        events_path=events,
        log_path=directory / f"{name}.log",
        cwd=directory,
        go_path=go_path if go else None,
    )


def run(directory: Path, body: str, limits: Limits = LIMITS, **launch: Any) -> Outcome:
    (outcome,) = run_subjects([start(directory, body, **launch)], limits, lambda index, event: None)
    return outcome
