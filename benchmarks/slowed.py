"""A subject that is slower than it ought to be, on purpose: ``python -m benchmarks.slowed JOB.json SHARE``.

It times a graph as a case does, but each step goes on for SHARE of its own time with nothing done: 0.05 makes it 5 %
slower. The precision is not proven, which changes no timed step.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from conformance import wire
from conformance.subject import measure, runtime
from conformance.subject.events import Events


def slowed(step: Callable[[Any], Any], share: float) -> Callable[[Any], Any]:
    """Return a step that takes ``1 + share`` times as long."""

    def slow(images: Any) -> Any:
        begun = time.perf_counter()
        outputs = step(images)
        now = time.perf_counter()
        until = now + share * (now - begun)
        while now < until:
            now = time.perf_counter()
        return outputs

    return slow


def main(job_path: str, share: float) -> None:
    job = wire.read_job(job_path)
    graph_step = runtime.graph_step
    runtime.graph_step = lambda *arguments: slowed(graph_step(*arguments), share)
    events = Events(job.events)
    events.send(wire.RESULT, result=measure.run(job, events, None))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
