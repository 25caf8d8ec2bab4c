"""Time frozen graphs on dummy data: warm up, find the steady state, take a series; nothing between timed steps.

One arm is a throughput or latency case. Several arms take turns in one process, in blocks whose order alternates,
so that a neighbour's noise hits all of them alike: the ratio of two arms is then worth more than either speed.

Arguments of the job: arms (name, graph, precision), input_name, output_name, image_size, batch_size, warmup_steps,
steps, min_timed_s, seed, and go_path where several instances wait for each other (else None). Where a network is
claimed also model, and allow_other_network. Without prove, which is true by default, the proof of each arm is None: an
earlier process proved the same graph.
"""

import gc
import os
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from conformance.models import graphs
from conformance.models.architecture import Network, check_network
from conformance.subject import machine, proof, runtime
from conformance.subject.ceiling import Ceiling
from conformance.subject.events import Events
from conformance.subject.verbose_pass import Log, Subject, VerbosePass
from conformance.wire import Job

BLOCK_S = 0.5  # length of a block, between which progress is told and arms change
MIN_BLOCKS = 10  # of each arm, where arms are compared
WARMUP_LIMIT_S = 20.0
STEADY_CHECK_S = 0.05  # the pause between two looks at whether the series is steady; short steps are many
STEADY_WITHIN = 0.05  # medians of the last two windows of a steady series differ by less


class Arm:
    """One graph under measurement and all that was seen of it."""

    def __init__(self, name: str, subject: Subject, images: np.ndarray) -> None:
        self.name, self.subject, self.images = name, subject, images
        self.warmup: List[float] = []
        self.steady = False
        self.begun: List[float] = []
        self.ended: List[float] = []
        self.block_sizes: List[int] = []
        self.gap_s = 0.0
        self.proof: Optional[Dict[str, Any]] = None

    def load(self, job: Job) -> None:
        self.step = runtime.graph_step(job, *self.subject)
        outputs = self.step(self.images)
        self.finite = bool(np.isfinite(outputs).all())

    def prove(self, log: Log) -> None:
        self.proof = proof.shown(self.subject, self.images, log)

    def run_block(self, steps: int) -> float:
        """Time ``steps`` steps; returns the seconds of the whole block."""
        step, images, clock = self.step, self.images, time.perf_counter
        begun, ended = [0.0] * steps, [0.0] * steps
        for i in range(steps):
            begun[i] = clock()
            step(images)
            ended[i] = clock()
        timed = sum(end - begin for begin, end in zip(begun, ended))  # no sums of clocks: they round
        self.gap_s += (ended[-1] - begun[0]) - timed
        self.begun += begun
        self.ended += ended
        self.block_sizes.append(steps)
        return ended[-1] - begun[0]

    @property
    def step_s(self) -> List[float]:
        return [end - begin for begin, end in zip(self.begun, self.ended)]

    def block_means(self) -> List[float]:
        """Return the mean step time of each block, in seconds."""
        edges = np.cumsum([0] + self.block_sizes)
        step_s = self.step_s
        return [float(np.mean(step_s[a:b])) for a, b in zip(edges[:-1], edges[1:])]


def is_steady(step_s: Sequence[float]) -> bool:
    """Tell whether the medians of the last two windows agree; a window is 0.5 s, and 3 steps at least."""
    window, seconds = 0, 0.0
    for duration in reversed(step_s):
        if window >= 3 and seconds >= BLOCK_S:
            break
        window, seconds = window + 1, seconds + duration
    if len(step_s) < 2 * window or window < 3:
        return False
    last, before = np.median(step_s[-window:]), np.median(step_s[-2 * window : -window])
    return bool(abs(last - before) <= STEADY_WITHIN * last)


def warm_up(arm: Arm, steps: int, events: Events) -> None:
    """Run the given steps, then on until the series is steady or WARMUP_LIMIT_S is over."""
    start = checked = time.monotonic()
    while len(arm.warmup) < steps or not arm.steady:
        begun = time.perf_counter()
        arm.step(arm.images)
        arm.warmup.append(time.perf_counter() - begun)
        now = time.monotonic()
        if now - checked >= STEADY_CHECK_S:
            arm.steady = is_steady(arm.warmup)
            checked = time.monotonic()
            events.progress(min(len(arm.warmup), steps), steps, "warm-up steps", arm.name)
        if len(arm.warmup) >= steps and now - start > WARMUP_LIMIT_S:
            return


def take_series(arms: Sequence[Arm], steps: int, min_timed_s: float, events: Events) -> None:
    """Run blocks until the one arm has its steps and its seconds; several arms take turns for their seconds only."""
    wanted = MIN_BLOCKS if len(arms) > 1 else 1
    least = steps if len(arms) == 1 else 1
    seconds, blocks = 0.0, 0
    order = list(arms)
    while seconds < min_timed_s * len(arms) or blocks < wanted or len(arms[0].begun) < least:
        for arm in order:
            typical = float(np.median(arm.warmup[-20:]))
            size = max(1, int(BLOCK_S / typical))
            if len(arms) == 1 and len(arm.begun) < steps:
                size = min(size, steps - len(arm.begun))
            seconds += arm.run_block(size)
        blocks += 1
        order.reverse()
        if len(arms) == 1:
            events.progress(len(arms[0].begun), max(steps, len(arms[0].begun)), "steps", "%.1f s timed" % seconds)
        else:
            events.progress(blocks, max(wanted, blocks), "pairs of blocks", "%.1f s timed" % seconds)


def wait_for_others(go_path: str, events: Events) -> None:
    events.phase("ready")
    while not os.path.exists(go_path):
        time.sleep(0.002)


def run(job: Job, events: Events, verbose_pass: Optional[VerbosePass]) -> Dict[str, Any]:
    a = job.arguments
    runtime.eager_threads(job)
    runtime.announce(job, events)
    images = runtime.dummy_images(a["batch_size"], a["image_size"], a["image_size"], a["seed"])
    events.phase("load the graph")
    subjects = [_subject(arm, a, images.shape) for arm in a["arms"]]
    arms = [Arm(arm["name"], subject, images) for arm, (subject, _) in zip(a["arms"], subjects)]
    networks = "; ".join(dict.fromkeys(str(network) for _, network in subjects))
    if verbose_pass is not None:
        verbose_pass.begin(images, [arm.subject for arm in arms])
    for arm in arms:
        arm.load(job)
    events.phase("build the ceiling")
    ceilings = {arm.subject.precision: Ceiling(arm.subject.precision, job) for arm in arms}
    if verbose_pass is not None:
        events.phase("prove the precision")
        for arm, log in zip(arms, verbose_pass.logs()):
            arm.prove(log)
    events.phase("warm up")
    for arm in arms:
        warm_up(arm, a["warmup_steps"], events)
    events.phase("measure the ceiling")
    before = {precision: ceiling.sample() for precision, ceiling in ceilings.items()}
    if a["go_path"]:
        wait_for_others(a["go_path"], events)
    events.phase("time steps")
    reading = _take(arms, a, events)
    events.phase("measure the ceiling")
    after = {precision: ceiling.sample() for precision, ceiling in ceilings.items()}
    _print_like_the_recipe(arms[0], a["batch_size"])
    return {"arms": [_report(arm, before, after) for arm in arms], "reading": reading, "network": networks}


def _take(arms: Sequence[Arm], a: Dict[str, Any], events: Events) -> Dict[str, Any]:
    cpus = sorted(os.sched_getaffinity(0))
    gc.collect()
    gc.disable()
    first = machine.read(cpus)
    take_series(arms, a["steps"], a["min_timed_s"], events)
    reading = machine.between(first, machine.read(cpus), cpus)
    gc.enable()
    return reading


def _subject(arm: Dict[str, Any], a: Dict[str, Any], shape: Tuple[int, ...]) -> Tuple[Subject, Network]:
    graph_def = graphs.read_graph(arm["graph"])
    network = check_network(graph_def, a.get("model"), a.get("allow_other_network", False))
    graphs.check_graph(graph_def, a["input_name"], a["output_name"])
    graphs.check_feed(graph_def, a["input_name"], shape)
    graph_def = graphs.optimized(graph_def, a["input_name"], a["output_name"])
    return Subject(graph_def, arm["precision"], a["input_name"], a["output_name"]), network


def _report(arm: Arm, before: Dict[str, float], after: Dict[str, float]) -> Dict[str, Any]:
    timed: Tuple[float, ...] = tuple(arm.step_s)
    precision = arm.subject.precision
    return {
        "name": arm.name,
        "precision": precision,
        "warmup_steps": len(arm.warmup),
        "steady": arm.steady,
        "step_s": timed,
        "block_mean_s": arm.block_means(),
        "gap_share": arm.gap_s / sum(timed),
        "begun_s": arm.begun[0],
        "ended_s": arm.ended[-1],
        "finite": arm.finite,
        "proof": arm.proof,
        "ceiling_before_flop_per_s": before[precision],
        "ceiling_after_flop_per_s": after[precision],
    }


def _print_like_the_recipe(arm: Arm, batch_size: int) -> None:
    """Print the recipe's lines, which scripts of its users look for, once nothing is timed any more."""
    print("Inference with dummy data.")
    step_s = arm.warmup + arm.step_s
    every = 10 if len(step_s) > 100 else 1
    for i, seconds in enumerate(step_s, 1):
        if i % every == 0:
            print("Iteration %d: %.6f sec" % (i, seconds))
    mean = float(np.mean(arm.step_s))
    print("Average time: %.6f sec" % mean)
    print("Batch size = %d" % batch_size)
    if batch_size == 1:
        print("Latency: %.3f ms" % (mean * 1000))
    print("Throughput: %.3f images/sec" % (batch_size / mean))
