"""Measure what the harness itself costs and print it beside the targets: ``python -m benchmarks.overhead``.

Nothing fails on a noisy machine: a target that is missed is printed as such, and only ``--strict`` makes it exit 1.
pytest and TensorFlow share this interpreter (``tox -e overhead``). About eight minutes on 2 cores, of which training
takes half; ``--only`` chooses sections.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conformance.hardware.detect import detect
from conformance.hardware.isa import native_precisions
from conformance.hardware.profile import Drive
from conformance.judging.training import WARMUP_STEPS, step_metrics
from conformance.launch.placement import Placement, Request
from conformance.launch.rules import compose, subject_path
from conformance.records import Launched, Record
from conformance.records.run_file import read_run

ROOT = Path(__file__).resolve().parent.parent
COLLECT_S, CASE_S, GAP_SHARE, FED_SHARE = 0.5, 1.0, 0.01, 0.95
BATCH_SIZES = (1, 32)
SECTIONS = ("collecting", "inference", "data", "training")

# Training: enough turns for a median, and a small network for what is of the loop and not of the network.
FIT_SHARE, GROWTH_SHARE = 0.95, 0.01
TRAINED = {"network": "resnet50_v1_5", "batch_size": 16, "image_size": 224, "steps": 3}
TURNS = 4
LONG = {"network": "resnet50_v1_5", "precision": "fp32", "batch_size": 8, "image_size": 32, "steps": 500}

# What a case is made of. Phases that stand nowhere here are a cost of the harness, so that no new one hides.
IMPORT, LOAD, STEPS = "TensorFlow's import", "the graph's load", "the steps"
BEFORE, START, PROOF = "before the subject", "process start", "waiting for the proof"
CEILING, AFTER, OTHER = "the ceiling", "exit, judging, record", "other"
PART_OF_PHASE = {
    "import TensorFlow": IMPORT,
    "load the graph": LOAD,
    "warm up": STEPS,
    "time steps": STEPS,
    "judge images": STEPS,
    "prove the precision": PROOF,
    "build the ceiling": CEILING,
    "measure the ceiling": CEILING,
}
THE_WORK = (IMPORT, LOAD, STEPS)


class Row(NamedTuple):
    """A line of the table; a figure without a target has ``met`` None."""

    figure: str
    value: str
    target: str = ""
    met: bool | None = None


class Mark(NamedTuple):
    """Something that begins at a moment of the monotonic clock, and goes on until the next mark."""

    at_s: float
    begins: str


def parts(marks: Iterable[Mark]) -> dict[str, float]:
    """Return the seconds of each part of a case; the last mark only ends the one before it."""
    ordered = sorted(marks)
    seconds: dict[str, float] = {}
    for mark, following in zip(ordered, ordered[1:], strict=False):
        seconds[mark.begins] = seconds.get(mark.begins, 0.0) + following.at_s - mark.at_s
    return seconds


def marks(noted: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]], case: str) -> list[Mark]:
    """Return the marks of a case, of what the stopwatch noted and its subject said."""
    found = []
    for note in noted:
        if note["what"] == "spawned" and note["name"] == case:
            found.append(Mark(note["monotonic_s"], START))
        elif note["what"] in ("begun", "ended") and note["name"].endswith(f"[{case}]"):
            found.append(Mark(note["monotonic_s"], BEFORE if note["what"] == "begun" else "the end"))
    for event in events:
        if event["event"] == "phase":
            found.append(Mark(event["monotonic_s"], PART_OF_PHASE.get(event["name"], OTHER)))
        elif event["event"] == "started":
            found.append(Mark(event["monotonic_s"], OTHER))
        elif event["event"] == "result":
            found.append(Mark(event["monotonic_s"], AFTER))
    return found


def overhead_s(seconds: Mapping[str, float]) -> float:
    """Return what a case took beyond TensorFlow's import, the graph's load and the steps."""
    return sum(value for part, value in seconds.items() if part not in THE_WORK)


def shared_rate(*rates: float) -> float:
    """Return the rate at which items pass through several kinds of work that share the same cores.

    >>> shared_rate(60.0, 30.0)
    20.0
    """
    return 1 / sum(1 / rate for rate in rates)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Collecting


def collecting(scratch: Path, runs: int) -> list[Row]:
    """Time ``pytest --collect-only`` of the suites and of an empty directory, in turns."""
    empty = scratch / "empty"
    empty.mkdir()
    # Byte code is kept as it is for a user, but not beside the sources.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
    times: dict[Path, list[float]] = {ROOT / "suites": [], empty: []}
    for round_ in range(runs + 1):
        for path, seconds in times.items():
            begun = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "pytest", str(path), "--collect-only", "-q", "-p", "no:cacheprovider"],
                cwd=ROOT, env=environment, capture_output=True, text=True,
            )  # fmt: skip
            taken = time.monotonic() - begun
            if (path == empty) != ("no tests collected" in done.stdout):
                sys.exit(f"Collecting {path} went wrong:\n{done.stdout}{done.stderr}")
            if round_:  # the first compiles
                seconds.append(taken)
    suites, bare = times.values()
    added = min(suites) - min(bare)
    median = statistics.median(a - b for a, b in zip(suites, bare, strict=True))
    modules = _modules_after_collecting(environment)
    foreign = [name for name in modules if name.split(".")[0] in ("tensorflow", "keras", "neural_compressor")]
    return [
        Row("pytest suites --collect-only", _best_and_median(suites), f"< {COLLECT_S} s", min(suites) < COLLECT_S),
        Row("  of it, an empty directory's", _best_and_median(bare)),
        Row("  of it, what the suites add", f"{added:.2f} s (median {median:.2f} s)", f"< {COLLECT_S} s",
            added < COLLECT_S),
        Row("TensorFlow modules imported", f"{len(foreign)} of {len(modules)} modules", "0", not foreign),
    ]  # fmt: skip


def _modules_after_collecting(environment: Mapping[str, str]) -> list[str]:
    code = (
        "import json, pytest, sys; pytest.main(['suites', '--collect-only', '-q', '-p', 'no:cacheprovider']); "
        "print(); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


def _best_and_median(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} s (median {statistics.median(seconds):.2f} s)"


# Cases


class Ran(NamedTuple):
    """A case as it was run by pytest, and the seconds of its parts."""

    record: Record
    seconds: dict[str, float]


def run_case(scratch: Path, suite: str, case: str, *options: str) -> Ran:
    """Run one case in a session of its own; whether it lies inside its bands is not asked."""
    output, noted = scratch / case, scratch / f"{case}.stopwatch"
    environment = {**os.environ, "OVERHEAD_STOPWATCH": str(noted), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"suites/inference/{suite}.py", "-k", case, "-q", "-p", "no:cacheprovider",
         "-p", "benchmarks.stopwatch", "--output-dir", str(output), *options],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    runs = list(output.glob("run-*"))
    records = read_run(runs[0]).records if runs else ()
    if not records or records[0].verdict in ("not run", "invalid"):
        sys.exit(f"{case} was not measured:\n{done.stdout}{done.stderr}")
    (record,) = records
    events = json_lines(runs[0] / "events" / f"{case}.jsonl")
    return Ran(record, parts(marks(json_lines(noted), events, case)))


def beside(scratch: Path, launched: Launched, kind: str, **spec: Any) -> dict[str, Any]:
    """Run ``benchmarks.beside`` as the harness launched a subject: same interpreter, binding and variables."""
    path = scratch / f"{kind}.json"
    threads = {"inter_op_threads": launched.inter_op_threads, "intra_op_threads": launched.intra_op_threads}
    path.write_text(json.dumps({"kind": kind, **threads, **spec}), encoding="utf-8")
    changed = {**os.environ, **launched.env, "PYTHONPATH": str(ROOT)}
    environment = {key: value for key, value in changed.items() if value is not None}
    argv = [*launched.argv[:-2], "benchmarks.beside", str(path)]
    done = subprocess.run(argv, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} went wrong:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def case_rows(ran: Ran, alone_s: float) -> list[Row]:
    """Say where the time of a case went; ``alone_s`` is the graph's load with no proof beside it."""
    seconds = dict(ran.seconds)
    timed = sum(sum(series.step_s) for series in ran.record.series)
    rows = [Row(f"  ({part}, no cost of the harness)", f"{seconds.get(part, 0):.2f} s") for part in THE_WORK]
    slower = max(0.0, seconds.get(LOAD, 0.0) - alone_s)
    costs = {part: value for part, value in seconds.items() if part not in THE_WORK}
    rows += [Row(f"  {part}", f"{value:.2f} s") for part, value in sorted(costs.items(), key=lambda x: -x[1])]
    rows.append(Row("  the load slowed by the proof beside it", f"{slower:.2f} s (alone {alone_s:.2f} s)"))
    total = overhead_s(seconds) + slower
    checks = slower + seconds.get(PROOF, 0.0) + seconds.get(CEILING, 0.0)
    name = f"{ran.record.case}, batch {ran.record.batch_size}"
    told = f"{total:.2f} s" + (f" beside {timed:.1f} s of timed steps" if timed else "")
    neither = Row("  without proof and ceiling", f"{total - checks:.2f} s")
    return [Row(name, told, f"< {CASE_S:.0f} s", total < CASE_S), neither, *rows]


def gap_rows(cases: Sequence[Ran]) -> list[Row]:
    return [
        Row(f"between timed steps, batch {ran.record.batch_size}", f"{ran.record.metrics['gap_share']:.4%} of them",
            f"< {GAP_SHARE:.0%}", ran.record.metrics["gap_share"] < GAP_SHARE)
        for ran in cases
    ]  # fmt: skip


# JPEGs


def feeding_rows(fed: Mapping[str, Any], mean_bytes: float, images: int, cores: int) -> list[Row]:
    """Hold an accuracy run's speed against dummy data's, and against what the cores leave for decoding."""
    dummy, decoding, judging = (statistics.median(fed[name]) for name in ("dummy", "decoding", "judging"))
    allowed = shared_rate(dummy, decoding)
    share, of_allowed = judging / dummy, judging / allowed
    return [
        Row("accuracy run on JPEGs", f"{judging:.1f} images/s, {images} of {mean_bytes / 1024:.0f} KiB"),
        Row("  dummy data, same graph and batch", f"{dummy:.1f} images/s"),
        Row("  decoding alone", f"{decoding:.1f} images/s on the same {cores} cores"),
        Row("  computing while it runs", f"{statistics.median(fed['compute_share']):.1%} of the time"),
        Row("  share of dummy data's speed", f"{share:.1%}"),
        Row("  share of what the cores allow", f"{of_allowed:.1%} of {allowed:.1f} images/s", f">= {FED_SHARE:.0%}",
            of_allowed >= FED_SHARE),
    ]  # fmt: skip


def preparing_rows(prepared: Mapping[str, Any], images: int, cores: int) -> list[Row]:
    """Hold the writing and the verifying of TFRecords against decoding the same files with nothing around it."""
    decoding, writing, verifying = (statistics.median(prepared[name]) for name in ("decoding", "writing", "verifying"))
    told = f"{decoding:.1f} images/s, {images} of {prepared['mean_bytes'] / 1024:.0f} KiB"
    return [
        Row(f"libjpeg-turbo alone, {cores} cores", told),
        Row("  conformance data imagenet", f"{writing:.1f} images/s, {writing / decoding:.1%}"),
        Row("  conformance data verify --full", f"{verifying:.1f} images/s, {verifying / decoding:.1%}"),
    ]


# Training


class Trained(NamedTuple):
    """What training took in turns: seconds of all steps, their medians by turn, and the processor's by step."""

    step_s: float
    by_turn_s: tuple[float, ...]
    processor_s: float


def trained(side: Mapping[str, Any]) -> Trained:
    """Return the medians of one side of ``benchmarks.beside train``."""
    turns = side["step_s"]
    processor = [whole / len(turn) for whole, turn in zip(side["processor_s"], turns, strict=True)]
    by_turn = tuple(statistics.median(turn) for turn in turns)
    return Trained(statistics.median([step for turn in turns for step in turn]), by_turn, statistics.median(processor))


def training_rows(precision: str, ours: Trained, keras: Trained, batch_size: int) -> list[Row]:
    """Hold a subject's training against Keras' fit of the same network; the processor's time is for a busy machine."""
    share = keras.step_s / ours.step_s
    pairs = [theirs / own for theirs, own in zip(keras.by_turn_s, ours.by_turn_s, strict=True)]
    processor = f"{ours.processor_s:.2f} s beside {keras.processor_s:.2f} s"
    return [
        Row(f"{precision} as a case trains, batch {batch_size}", f"{batch_size / ours.step_s:.2f} images/s"),
        Row("  tf.keras fit, same network and batch", f"{batch_size / keras.step_s:.2f} images/s"),
        Row("  share of fit's speed", f"{share:.1%}", f">= {FIT_SHARE:.0%}", share >= FIT_SHARE),
        Row("  by turns", f"{statistics.median(pairs):.1%} ({min(pairs):.1%} to {max(pairs):.1%})"),
        Row("  a step's processor time, beside fit's", f"{processor}, {ours.processor_s / keras.processor_s:.1%}"),
    ]


def bf16_rows(fp32: Trained, bf16: Trained, native: bool) -> list[Row]:
    """Say how much faster bf16 trains; a CPU without instructions for it owes nothing."""
    ratio = fp32.step_s / bf16.step_s
    target, met = ("> 1", ratio > 1) if native else ("", None)
    processor = f"{fp32.processor_s / bf16.processor_s:.2f} by processor time"
    return [Row("bf16 over fp32, training speed", f"{ratio:.2f}, {processor}", target, met)]


def long_rows(told: Mapping[str, Any]) -> list[Row]:
    """Say how the memory of a training grew after its first steps, and how unsteady its steps were.

    Memory is a median of fifty steps: what is freed a moment later differs from one to another. Judged is what is in
    use, which a leak would raise without end. The C library keeps part of what is freed, as much as the order of the
    frees lets it: that levels off, and stands beside. Before glibc 2.33 there is nothing else to judge.
    """
    figure = f"memory grows, steps {WARMUP_STEPS} to {len(told['step_s'])}"
    resident, used_bytes = grown(told["resident_bytes"]), told["used_bytes"]
    growth, share = grown(used_bytes) if used_bytes else resident
    kept = [Row("  resident, with what the C library keeps", resident[0])] if used_bytes else []
    steady = step_metrics(told["step_s"], told["wait_s"], 1)["step_p99_over_p50"]
    return [
        Row(figure, growth, f"< {GROWTH_SHARE:.0%}", share < GROWTH_SHARE),
        *kept,
        Row("  99th percentile of the steps over the median", f"{steady:.2f}"),
    ]  # fmt: skip


def grown(series_bytes: Sequence[int]) -> tuple[str, float]:
    """Return the growth of memory after the first steps, in words and as a share."""
    counted = series_bytes[WARMUP_STEPS:]
    begun, ended = (statistics.median(some) for some in (counted[:50], counted[-50:]))
    share = (ended - begun) / begun
    return f"{(ended - begun) / 1e6:.1f} MB of {begun / 1e6:.0f} MB, {share:.2%}", share


def launch_here(scratch: Path) -> Launched:
    """Return the launch of a subject on all usable cores, as the rules compose it without a profile."""
    host = detect()
    usable = tuple(sorted(cpu.id for cpu in host.usable_cpus()))
    placement = Placement(cpus=usable, memory_nodes=host.nodes, whole_nodes=True)
    job, path = scratch / "job.json", subject_path(scratch)
    return compose(sys.executable, job, path, placement, host, Drive(), Request(), "fp32", os.environ).launched


def training(scratch: Path) -> Iterable[tuple[str, list[Row]]]:
    launched = launch_here(scratch)
    medians: dict[str, Trained] = {}
    for precision in ("fp32", "bf16"):
        spec = {**TRAINED, "precision": precision, "rounds": TURNS, "folder": str(scratch)}
        told = beside(scratch, launched, "train", **spec)
        if told["ours"]["parameters"] != told["keras"]["parameters"]:
            sys.exit(f"Keras trains {told['keras']['parameters']} parameters, a case {told['ours']['parameters']}.")
        medians[precision] = trained(told["ours"])
        rows = training_rows(precision, medians[precision], trained(told["keras"]), spec["batch_size"])
        yield f"Training beside tf.keras fit, {precision}, medians of alternated turns", rows
    long = beside(scratch, launched, "steps", **LONG, folder=str(scratch))
    rows = bf16_rows(medians["fp32"], medians["bf16"], "bf16" in native_precisions(detect()))
    yield "Training, whole", [*rows, *long_rows(long)]


# All of it


def measure(scratch: Path, arguments: argparse.Namespace) -> Iterable[tuple[str, list[Row]]]:
    if "collecting" in arguments.only:
        yield "Collecting, best of alternated runs", collecting(scratch, arguments.runs)
    if "inference" in arguments.only:
        yield from inference(scratch, arguments)
    if "data" in arguments.only:
        yield from preparing(scratch, arguments)
    if "training" in arguments.only:
        yield from training(scratch)


def inference(scratch: Path, arguments: argparse.Namespace) -> Iterable[tuple[str, list[Row]]]:
    precision = arguments.precision
    stem = f"resnet50_v1_5-{precision}"
    speeds = [
        run_case(scratch, "test_latency", f"{stem}-batch1", "--batch-size", str(BATCH_SIZES[0])),
        run_case(scratch, "test_throughput", f"{stem}-batch128", "--batch-size", str(BATCH_SIZES[1]),
                 "--warmup-steps", "5", "--steps", "20"),
    ]  # fmt: skip
    launched, graph = speeds[0].record.launched[0], speeds[0].record.inputs["graph"].path
    common = {"graph": graph, "precision": precision}
    for ran in speeds:
        alone = [beside(scratch, launched, "load", **common, batch_size=ran.record.batch_size) for _ in range(2)]
        yield f"A case, beyond {', '.join(THE_WORK)}", case_rows(ran, statistics.mean(x["load_s"] for x in alone))
    data = scratch / "jpegs"
    data.mkdir()
    drawn = beside(scratch, launched, "jpegs", directory=str(data), images=arguments.images)
    fed = beside(scratch, launched, "feed", **common, batch_size=BATCH_SIZES[1], data=str(data),
                 folder=str(scratch), rounds=arguments.rounds)  # fmt: skip
    judged = run_case(scratch, "test_accuracy", f"resnet50_v1_5-imagenet-{precision}-accuracy", "--in-graph", graph,
                      "--data-location", str(data), "--batch-size", str(BATCH_SIZES[1]))  # fmt: skip
    yield "A case of accuracy (generated JPEGs and labels: no accuracy is claimed)", case_rows(judged, fed["load_s"])
    yield "Timed steps", gap_rows(speeds)
    yield (
        f"Images keep the compute busy, {precision}, batch {BATCH_SIZES[1]}, medians of alternated rounds",
        feeding_rows(fed, drawn["mean_bytes"], arguments.images, len(launched.cpus)),
    )


def preparing(scratch: Path, arguments: argparse.Namespace) -> Iterable[tuple[str, list[Row]]]:
    launched = launch_here(scratch)
    folder, count = scratch / "prepare", 4 * arguments.images
    folder.mkdir()
    prepared = beside(scratch, launched, "prepare", folder=str(folder), images=count, rounds=arguments.rounds)
    yield "A data set is prepared, medians of alternated rounds", preparing_rows(prepared, count, len(launched.cpus))


def lines(title: str, rows: Sequence[Row]) -> list[str]:
    told = [title]
    for row in rows:
        verdict = "" if row.met is None else "met" if row.met else "missed"
        told.append(f"  {row.figure:<48} {row.value:<36} {row.target:<8} {verdict}".rstrip())
    return [*told, ""]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections (default: all)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--runs", type=int, default=7, help="collections of each kind (default: 7)")
    parser.add_argument("--rounds", type=int, default=3, help="turns between dummy data and JPEGs (default: 3)")
    parser.add_argument("--images", type=int, default=384, help="generated JPEGs (default: 384)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    arguments = parser.parse_args(argv)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        for title, rows in measure(Path(scratch), arguments):
            print("\n".join(lines(title, rows)), flush=True)
            missed += sum(row.met is False for row in rows)
    load = os.getloadavg()[0]
    print(f"{missed} missed; {os.cpu_count()} cores, load average {load:.1f} at the end.")
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
