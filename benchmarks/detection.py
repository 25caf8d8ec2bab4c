"""How often a gate is right: ``python -m benchmarks.detection replay`` draws on pairs of runs that were measured once.

``measure`` takes pools of alternating pairs of processes, of which one is slowed on purpose (``benchmarks.slowed``),
and keeps them with the machine that they come from. ``replay``, which takes a minute, draws trials from the pools,
whole pairs at a time and with replacement, and prints how many are called regressed: by the gate, and on the same
processes by pytest-benchmark's ``--benchmark-compare-fail`` with ``mean:5%`` and ``median:5%``. Of a slow-down of 0 %
the sides of a pair are drawn as themselves or exchanged: they are the same program, and a pool that leans to a side is
no slow-down.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from pytest_benchmark.utils import parse_compare_fail

from conformance import wire
from conformance.fixtures.jobs import run_job
from conformance.judging.change import verdict_of
from conformance.judging.pairs import Pairs
from conformance.judging.statistics import summary

ROOT = Path(__file__).resolve().parent.parent
POOLS = Path(__file__).with_name("detection_pools.json")
SHARES = (0.0, 0.01, 0.02, 0.05, 0.10)
MAX_SLOWDOWN, FIRST_LOOK, MAX_PAIRS = 0.03, 6, 20
FALSE_ALARMS, FOUND = 0.01, 0.95  # of no slow-down at most, of 5 % at least
TARGETS = (0.0, 0.05)
CASE: dict[str, Any] = {
    "model": "resnet50_v1_5", "precision": "bf16", "image_size": 224, "batch_size": 8, "warmup_steps": 5, "steps": 10,
    "min_timed_s": 3.0,
}  # fmt: skip


class Pair(NamedTuple):
    """The durations of the timed steps of two processes that ran one after the other, in seconds."""

    share: float
    base_s: Sequence[float]
    slow_s: Sequence[float]


# Measuring


def measure(out: Path, seconds: float, seed: int) -> None:
    """Take pairs of every slow-down in turn, as many as fit into the time."""
    from conformance.hardware.detect import detect, identity

    host = detect()
    threads = len(host.usable_cpus())
    draw = random.Random(seed)
    pairs: list[dict[str, Any]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="detection-") as scratch:
        graph = os.path.join(scratch, "fp32.pb")
        frozen = {"model": CASE["model"], "classes": 1001, "image_size": CASE["image_size"], "seed": 0}
        run_job(wire.FREEZE_SEEDED, {**frozen, "output": graph})
        for share in _turns():
            if time.monotonic() - begun > seconds:
                break
            order = draw.sample(("base", "slow"), 2)
            series = {side: _process(scratch, graph, threads, share if side == "slow" else 0.0) for side in order}
            pairs.append({"share": share, "first": order[0], "base_s": series["base"], "slow_s": series["slow"]})
            ratio = median(series["slow"]) / median(series["base"])
            print(f"{share:5.0%} slower, {order[0]} first: the medians' ratio is {ratio:.3f}", flush=True)
            told = {"machine": identity(host), "case": CASE, "seed": seed, "pairs": pairs}
            out.write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(pairs)} pairs in {out}")


def _turns() -> Iterator[float]:
    """Yield slow-downs without end, those with a target four times as often as the others."""
    while True:
        for share in SHARES:
            if share not in TARGETS:
                yield from (*TARGETS, share)
        yield from TARGETS


def _process(scratch: str, graph: str, threads: int, share: float) -> list[float]:
    """Time the graph in a process of its own and return its steps, rounded to microseconds."""
    events, job = os.path.join(scratch, "events.jsonl"), os.path.join(scratch, "job.json")
    arguments = {
        **{key: CASE[key] for key in ("image_size", "batch_size", "warmup_steps", "steps", "min_timed_s")},
        "arms": [{"name": "it", "graph": graph, "precision": CASE["precision"]}],
        "input_name": "input_tensor", "output_name": "softmax_tensor", "seed": 0, "go_path": None,
    }  # fmt: skip
    wire.write_job(wire.Job(wire.MEASURE, events, 1, threads, arguments), job)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "KMP_BLOCKTIME": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}
    with open(os.path.join(scratch, "log"), "wb") as log:
        argv = [sys.executable, "-m", "benchmarks.slowed", job, str(share)]
        subprocess.run(argv, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    last = json.loads(Path(events).read_text(encoding="utf-8").splitlines()[-1])
    os.remove(events)
    return [round(step, 6) for step in last["result"]["arms"][0]["step_s"]]


# Replaying


def pools(path: Path) -> dict[float, list[Pair]]:
    """Read the pairs of each slow-down; ends with a sentence where there are none."""
    if not path.exists():
        sys.exit(f"There are no pools {str(path)!r}; take some with `python -m benchmarks.detection measure`.")
    found: dict[float, list[Pair]] = {}
    for pair in json.loads(path.read_text(encoding="utf-8"))["pairs"]:
        found.setdefault(pair["share"], []).append(Pair(pair["share"], pair["base_s"], pair["slow_s"]))
    return found


def drawn(pool: Sequence[Pair], draw: random.Random) -> Iterator[Pair]:
    """Yield pairs of a pool without end; of no slow-down either side may be the base."""
    while True:
        pair = draw.choice(pool)
        yield pair._replace(base_s=pair.slow_s, slow_s=pair.base_s) if pair.share == 0 and draw.random() < 0.5 else pair


class Trial(NamedTuple):
    """What the gate said, of how many pairs, and what pytest-benchmark said of the first of them."""

    verdict: str
    pairs: int
    mean_failed: bool
    median_failed: bool


def trial(taken: Iterator[Pair]) -> Trial:
    """Judge one comparison: pairs as they come until the gate has decided, or MAX_PAIRS of them."""
    pairs = Pairs(MAX_SLOWDOWN, FIRST_LOOK, MAX_PAIRS)
    first = next(taken)
    following = first
    while True:
        pairs.add(summary(following.base_s, CASE["batch_size"]), summary(following.slow_s, CASE["batch_size"]))
        if pairs.count >= MAX_PAIRS or (pairs.count >= FIRST_LOOK and pairs.decided):
            break
        following = next(taken)
    statistics = [{"mean": fmean(side), "median": median(side)} for side in (first.slow_s, first.base_s)]
    failed = [bool(parse_compare_fail(f"{field}:5%").fails(*statistics)) for field in ("mean", "median")]
    return Trial(verdict_of(pairs.changes())[0], pairs.count, *failed)


def replay(path: Path, trials: int, seed: int) -> bool:
    """Print a line for each slow-down; returns whether both targets are met."""
    found = pools(path)
    met = True
    print(f"{trials} trials each of {FIRST_LOOK} to {MAX_PAIRS} pairs, --max-slowdown {MAX_SLOWDOWN:.0%}")
    print("slower       pool  regressed    same    open  pairs   mean:5%  median:5%")
    for share, pool in sorted(found.items()):
        taken = drawn(pool, random.Random(f"{seed} {share}"))
        results = [trial(taken) for _ in range(trials)]

        def rate(verdict: str, results: Sequence[Trial] = results) -> float:
            return sum(result.verdict == verdict for result in results) / trials

        regressed = rate("regressed")
        failed = (sum(result.mean_failed for result in results), sum(result.median_failed for result in results))
        print(
            f"{share:6.0%}  {len(pool):3d} pairs  {regressed:9.1%}  {rate('same'):6.1%}  {rate('inconclusive'):6.1%}  "
            f"{median(result.pairs for result in results):5.0f}  {failed[0] / trials:8.1%}  {failed[1] / trials:9.1%}"
        )
        if share in TARGETS:
            met &= regressed <= FALSE_ALARMS if share == 0 else regressed >= FOUND
    print(
        f"At most {FALSE_ALARMS:.0%} false alarms and at least {FOUND:.0%} of 5 % found: {'met' if met else 'missed'}."
    )
    return met


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="take pools of pairs on this machine, when nothing else runs")
    measuring.add_argument("--minutes", type=float, default=60.0)
    replaying = commands.add_parser("replay", help="draw trials from pools; seconds")
    replaying.add_argument("--trials", type=int, default=500)
    for command in (measuring, replaying):
        command.add_argument("--pools", type=Path, default=POOLS)
        command.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if given.command == "measure":
        measure(given.pools, 60 * given.minutes, given.seed)
        return 0
    return 0 if replay(given.pools, given.trials, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
