"""Runs made up for the tests of run files and reports: plausible, and nobody's measurements."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from conformance.records import (
    Artefact,
    Change,
    Comparison,
    Footer,
    Header,
    Judgement,
    Kernel,
    KernelChange,
    Launched,
    Noise,
    Record,
    Run,
    Scaling,
    ScalingPoint,
    Series,
)
from conformance.records.run_file import RunWriter

STARTED = "2026-11-21T12:03:01+00:00"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
RECIPE = "recipe 003, table of accuracies"
KERNELS = {
    "fp32": (Kernel(name="brgconv:avx512_core", data_type="f32:f32", calls=53, flop_share=1.0),),
    "bf16": (
        Kernel(name="brgconv:avx512_core_amx", data_type="bf16:bf16", calls=49, flop_share=0.962),
        Kernel(name="brgconv:avx512_core", data_type="f32:f32", calls=4, flop_share=0.038),
    ),
    "int8": (
        Kernel(name="brgconv:avx512_core_amx", data_type="u8:s8", calls=52, flop_share=0.983),
        Kernel(name="jit:avx512_core_vnni", data_type="s8:s8", calls=1, flop_share=0.017),
    ),
}


def header(**changes: Any) -> Header:
    fields: dict[str, Any] = {
        "run": "run-20261121-120301-4f2a",
        "started_at": STARTED,
        "harness": "0.1.0 (test data)",
        "command": ("pytest", "suites/inference", "--hw", "xeon-8s", "--stack", "tf=/opt/tf/bin/python"),
        "profile": "xeon-8s",
        "host": {
            "architecture": "x86_64",
            "vendor": "GenuineIntel",
            "model_name": "Example Xeon 8380H (test data)",
            "sockets": 8,
            "cores_per_socket": 28,
            "threads_per_core": 2,
            "memory_bytes": 1_649_267_441_664,
            "governor": "performance",
            "hypervisor": None,
            "flags": ["avx512_bf16", "avx512_vnni", "avx512f"],
        },
        "stacks": {"tf": {"python": "3.11.9", "tensorflow": "2.21.0", "onednn": "3.7.1", "plugins": []}},
        "environment": {"TF_ENABLE_ONEDNN_OPTS": "1"},
    }
    return Header(**{**fields, **changes})


def footer(records: tuple[Record, ...]) -> Footer:
    counts: dict[str, int] = {}
    for record in records:
        counts[record.verdict] = counts.get(record.verdict, 0) + 1
    return Footer(ended_at="2026-11-21T12:41:40+00:00", counts=counts, exit_status=1)


def judgement(metric: str, verdict: Any, text: str, value: float | None, band: str | None) -> Judgement:
    source = RECIPE if band else None
    return Judgement(metric=metric, verdict=verdict, text=text, value=value, band=band, source=source)


def record(case: str, **changes: Any) -> Record:
    precision, mode, *_ = [*case.split("-"), "accuracy"]
    fields: dict[str, Any] = {
        "case": case,
        "suite": "inference",
        "model": "resnet50_v1_5",
        "mode": mode,
        "precision": precision,
        "dataset": "imagenet" if mode == "accuracy" else "dummy",
        "source": RECIPE,
        "stack": "tf",
        "profile": "xeon-8s",
        "verdict": "inside",
        "reason": "",
        "started_at": STARTED,
        "duration_s": 61.25,
        "batch_size": 100,
        "launched": (launched(precision),),
        "kernels": KERNELS.get(precision, ()),
        "inputs": {"graph": Artefact(path=f"graphs/{precision}.pb", sha256=DIGEST, bytes=102_536_550)},
        "artefacts": {
            "log": Artefact(path=f"logs/{case}.log"),
            "events": Artefact(path=f"logs/{case}.events.jsonl"),
        },
    }
    return Record(**{**fields, **changes})


def launched(precision: str) -> Launched:
    script = ("python", "-m", "conformance.subject", f"jobs/{precision} job.json")
    return Launched(
        argv=("numactl", "--cpunodebind=0", "--membind=0", *script),
        env={"OMP_NUM_THREADS": "28", "KMP_AFFINITY": "granularity=fine,compact,1,0", "LD_PRELOAD": None},
        cpus=tuple(range(28)),
        memory_nodes=(0,),
        inter_op_threads=1,
        intra_op_threads=28,
    )


def accuracy(precision: str, top1: float, top5: float, verdict: Any = "inside") -> Record:
    side = "lies inside" if verdict == "inside" else f"misses by {0.757 - top1:.4f}"
    metrics = {"top1": top1, "top5": top5, "images": 50_000.0}
    if precision != "fp32":
        metrics |= {"top1_of_fp32": top1 / 0.7651, "mcnemar_p": 0.0312}
    return record(
        f"{precision}-accuracy-imagenet",
        verdict=verdict,
        metrics=metrics,
        intervals={"top1": (top1 - 0.0037, top1 + 0.0037)},
        judgements=(
            judgement("top1", verdict, f"top-1 {top1:.4f} {side}: at least 0.7570.", top1, "at least 0.7570"),
            judgement("top5", "unjudged", f"top-5 {top5:.4f}; no band for it.", top5, None),
        ),
        published=(
            {
                "metric": "top1",
                "value": {"fp32": 0.7651, "bf16": 0.7674}.get(precision, 0.7623),
                "machine": "8 sockets x 28 cores",
                "source": RECIPE,
            },
        ),
    )


def steps(median_s: float, count: int = 200, spread: float = 0.03) -> tuple[float, ...]:
    draw = random.Random(count * median_s)
    return tuple(median_s * (1 + abs(draw.gauss(0, spread)) + (0.25 if i % 61 == 60 else 0)) for i in range(count))


def speed(precision: str, mode: str, batch_size: int, median_s: float, **changes: Any) -> Record:
    step_s = steps(median_s, spread=changes.pop("spread", 0.03))
    in_order = sorted(step_s)
    mean = sum(step_s) / len(step_s)
    flop_per_s = 8.2e9 * batch_size / mean
    ceiling = {"fp32": 5.2e12, "bf16": 11.0e12, "int8": 21.0e12}[precision] * (0.5 if batch_size == 1 else 1)
    metrics = {
        "throughput_images_per_s": batch_size / mean,
        "latency_mean_s": mean,
        **{f"latency_p{p}_s": in_order[int(len(in_order) * p / 100)] for p in (50, 90, 95, 99)},
        "spread": 0.034,
        "gap_share": 0.011,
        "achieved_flop_per_s": flop_per_s,
        "ceiling_flop_per_s": ceiling,
        "ceiling_share": flop_per_s / ceiling,
        "native_share": max(kernel.flop_share for kernel in KERNELS[precision]),
    }
    verdict = changes.pop("verdict", "inside")
    limit = metrics["throughput_images_per_s"] * 0.9
    text = f"throughput {metrics['throughput_images_per_s']:,.1f} images/s: at least {limit:,.1f} images/s."
    fields: dict[str, Any] = {
        "batch_size": batch_size,
        "verdict": verdict,
        "metrics": metrics,
        "series": (Series(warmup_steps=10, step_s=step_s, steady=verdict != "unstable"),),
        "noise": Noise(steal_share=0.0012, foreign_share=0.004, throttle_events=0, spread=0.034, ceiling_drift=0.011),
        "judgements": (
            judgement(
                "throughput_images_per_s",
                verdict,
                text,
                metrics["throughput_images_per_s"],
                f"at least {limit:,.1f} images/s",
            ),
        ),
    }
    return record(f"{precision}-{mode}-b{batch_size}", **{**fields, **changes})


def speedup(precision: str, ratio: float) -> Record:
    text = f"speed-up over fp32 {ratio:.3f}: at least 1.500."
    return record(
        f"{precision}-speedup-b128",
        mode="speedup",
        batch_size=128,
        metrics={"speedup_over_fp32": ratio},
        intervals={"speedup_over_fp32": (ratio * 0.97, ratio * 1.03)},
        judgements=(judgement("speedup_over_fp32", "inside", text, ratio, "at least 1.500"),),
    )


def scaled(precision: str = "bf16", kind: Any = "weak", predicted: bool = True, **changes: Any) -> Record:
    """Return a training on two ranks, with what is predicted of eight where that is wanted."""

    def point(ranks: int, efficiency: float, **more: Any) -> ScalingPoint:
        speed = 80 * ranks * efficiency
        return ScalingPoint(ranks=ranks, step_s=32 * ranks / speed, images_per_s=speed, efficiency=efficiency, **more)

    scaling = Scaling(
        kind=kind,
        measured=(point(1, 1.0), point(2, 0.928, interval=(0.901, 0.955))),
        predicted=(point(8, 0.799, bytes_per_host=17 * 1024**3, fits=False),) if predicted else (),
        model="ring of a test" if predicted else "",
        assumptions=("Nothing is in the way.", "Memory is cheap.") if predicted else (),
    )
    fields: dict[str, Any] = {
        "mode": "training",
        "metrics": {"global_images_per_s": 148.5, "scaling_efficiency": 0.928, "allreduce_share": 0.12},
        "intervals": {"scaling_efficiency": (0.901, 0.955)},
        "scaling": scaling,
    }
    return record(f"{precision}-training-{kind}", **{**fields, **changes})


def not_run(case: str, reason: str) -> Record:
    nothing: dict[str, Any] = {"launched": (), "kernels": (), "inputs": {}, "artefacts": {}}
    return record(case, verdict="not run", reason=reason, duration_s=0.0, **nothing)


def _measured() -> tuple[Record, ...]:
    published = {
        "metric": "throughput_images_per_s",
        "value": 239.509,
        "machine": "2 sockets x 28 cores, AVX512",
        "source": "recipe 003, sample output",
    }
    noisy = Noise(
        steal_share=0.081,
        foreign_share=0.02,
        throttle_events=None,
        spread=0.194,
        ceiling_drift=None,
        reasons=(
            "steal 8.1 % of the bound cores' time, at most 2.0 % allowed",
            "spread 19.4 %, at most 10.0 % allowed",
        ),
    )
    return (
        accuracy("fp32", 0.7651, 0.9307),
        accuracy("bf16", 0.7648, 0.9305),
        accuracy("int8", 0.7512, 0.9241, "outside"),
        speed("fp32", "throughput", 128, 0.5344, published=(published,)),
        speed("bf16", "throughput", 128, 0.2312),
        speed("int8", "throughput", 128, 0.1297),
        speed("fp32", "latency", 1, 0.009481),
        speed("bf16", "latency", 1, 0.006120),
        speed(
            "int8",
            "latency",
            1,
            0.003905,
            verdict="unstable",
            noise=noisy,
            spread=0.12,
            reason="Measured, but the machine was not quiet.",
        ),
        speedup("bf16", 2.312),
        speedup("int8", 4.120),
    )


def _unmeasured() -> tuple[Record, ...]:
    return (
        speed(
            "bf16",
            "throughput",
            16,
            0.0331,
            verdict="unjudged",
            judgements=(),
            reason="No band for this machine.",
        ),
        record(
            "int8-accuracy-digits",
            dataset="digits",
            verdict="invalid",
            reason="top1 is NaN.",
            metrics={"images": 1797.0},
            judgements=(
                judgement("top1", "invalid", "top-1 is NaN: no number was measured.", None, "at least 0.9700"),
            ),
        ),
        not_run("fp32-throughput-b1024", "Needs 96 GiB of memory, this machine has 62 GiB."),
        not_run("bf16-itex-accuracy", "The stack 'tf' has no ITEX plugin."),
        not_run("bf16-gaudi-accuracy", "No HPU here: hl-smi is not installed."),
    )


def full_run(**changes: Any) -> Run:
    """Return a run with every verdict in it."""
    records = _measured() + _unmeasured()
    run = Run(directory="results/run-20261121-120301-4f2a", header=header(), records=records, footer=footer(records))
    return msgspec.structs.replace(run, **changes)


def second_run() -> Run:
    """Return the same cases on another stack, some five percent faster."""
    records = tuple(
        msgspec.structs.replace(
            record,
            stack="tf215",
            metrics={n: v * 1.05 if n.startswith("throughput") else v for n, v in record.metrics.items()},
        )
        for record in _measured()
    )
    name = "run-20261122-080000-77aa"
    stacks = {
        "tf215": {
            "python": "3.10.14",
            "tensorflow": "2.15.1",
            "onednn": "3.2.0",
            "plugins": ["itex 2.15.0.1"],
        }
    }
    head = header(run=name, started_at="2026-11-22T08:00:00+00:00", stacks=stacks)
    return Run(directory=f"results/{name}", header=head, records=records, footer=footer(records))


def large_run(count: int) -> Run:
    """Return ``count`` records of short latency cases, no two alike, one in fifty of them outside."""
    template = speed("fp32", "latency", 1, 0.009481)
    short = Series(warmup_steps=1, step_s=template.series[0].step_s[:20], steady=True)

    def one(i: int) -> Record:
        p50, verdict = 0.009481 * (1 + i / count), "inside" if i % 50 else "outside"
        text = f"median time a batch is {1000 * p50:.3f} ms, at most {1010 * p50:.3f} ms is allowed: case {i}."
        return msgspec.structs.replace(
            template,
            case=f"fp32-latency-{i:04}",
            stack=("tf", "tf215")[i % 2],
            verdict=verdict,
            metrics=template.metrics | {"latency_p50_s": p50},
            judgements=(judgement("latency_p50_s", verdict, text, p50, f"at most {1010 * p50:.3f} ms"),),
            series=(short,),
        )

    records = tuple(one(i) for i in range(count))
    return Run(directory="results/large", header=header(), records=records, footer=footer(records))


def change(metric: str, verdict: Any, base: float, ratio: float, pairs: int = 6, **changes: Any) -> Change:
    """Return a change whose pairs lie around the ratio."""
    draw = random.Random(pairs * ratio)
    bases = tuple(base * (1 + draw.gauss(0, 0.02)) for _ in range(pairs))
    fields: dict[str, Any] = {
        "metric": metric,
        "verdict": verdict,
        "text": f"{metric}: new over base is {ratio:.3f}, {verdict}.",
        "base": base,
        "new": base * ratio,
        "ratio": ratio,
        "interval": (ratio * 0.97, ratio * 1.02),
        "p": 0.03125,
        "base_values": bases,
        "new_values": tuple(value * ratio * (1 + draw.gauss(0, 0.02)) for value in bases),
        "allowed": 0.03,
        "detectable": 0.05,
    }
    return Change(**{**fields, **changes})


def comparison(case: str, verdict: Any, *changes_of_metrics: Change, **changes: Any) -> Comparison:
    precision, mode, *_ = case.split("-")
    fields: dict[str, Any] = {
        "case": case,
        "suite": "inference",
        "model": "resnet50_v1_5",
        "mode": mode,
        "precision": precision,
        "dataset": "dummy",
        "profile": "xeon-8s",
        "base": "base",
        "new": "new",
        "paired": True,
        "order_seed": 17,
        "verdict": verdict,
        "reason": f"The median step is {verdict}.",
        "started_at": STARTED,
        "changes": changes_of_metrics,
        "differences": ("TensorFlow 2.15.1 in base, 2.21.0 in new", "oneDNN 3.2.0 in base, 3.7.1 in new"),
    }
    return Comparison(**{**fields, **changes})


def side_by_side(repeats: int = 6) -> Run:
    """Return two cases on two stacks, repeated in turns, and what the comparisons say of them."""
    records = [
        speed(precision, mode, size, median * slower * (1 + 0.01 * n), stack=stack, repeat=n, stack_digest=digest)
        for precision, mode, size, median in (("fp32", "latency", 1, 0.0095), ("bf16", "throughput", 128, 0.23))
        for n in range(1, repeats + 1)
        for stack, slower, digest in (("base", 1.0, "ba5e0000ba5e0000"), ("new", 1.08, "0e80000000000e80"))
    ]
    records[3] = msgspec.structs.replace(records[3], verdict="unstable", reason="Repeat 2 was not quiet.")
    kernels = (
        KernelChange(
            layer="convolution 12: 56x56x64 to 56x56x256",
            base="brgconv:avx512_core_amx bf16",
            new="gemm:ref f32",
            base_share=0.031,
            new_share=0.174,
        ),
        KernelChange(layer="matmul 1: 1x2048 to 1x1000", base="brgemm:avx512_core bf16", new=""),
    )
    found = (
        comparison(
            "fp32-latency-b1",
            "regressed",
            change("latency_p50_s", "regressed", 0.0095, 1.08, repeats),
            change("throughput_images_per_s", "regressed", 105.0, 0.926, repeats),
            kernels=kernels,
        ),
        comparison("bf16-throughput-b128", "same", change("latency_p50_s", "same", 0.23, 1.004, repeats)),
        comparison("int8-throughput-b128", "improved", change("latency_p50_s", "improved", 0.13, 0.9, repeats)),
        comparison("int8-latency-b1", "inconclusive", change("latency_p50_s", "inconclusive", 0.004, 1.04, repeats)),
        comparison("fp32-throughput-b128", "no baseline", reason="The base has no record of this case.", paired=False),
        comparison("bf16-latency-b1", "invalid", reason="The stack 'new' failed in turn 2."),
    )
    stacks = {
        "base": {"python": "3.11.9", "packages": {"tensorflow": "2.15.1"}, "hashes": {"tensorflow": DIGEST}},
        "new": {"python": "3.11.9", "packages": {"tensorflow": "2.21.0"}, "hashes": {"tensorflow": DIGEST[::-1]}},
    }
    head = header(run="run-20261123-090000-a1b2", stacks=stacks)
    whole = tuple(records)
    return Run(directory=f"results/{head.run}", header=head, records=whole, footer=footer(whole), comparisons=found)


def gaudi_run() -> Run:
    """Return a training on Gaudi that is made up, and cases that did not run, with Habana's published figures."""
    figures = (
        ("training_images_per_s", 650.0, "1 HPU"),
        ("global_images_per_s", 4656.0, "8 HPUs"),
        ("top1", 0.79, "8 HPUs"),
    )
    published = tuple(
        {"metric": metric, "value": value, "machine": f"Gaudi, {machine}", "source": "Habana, SynapseAI 1.0.0"}
        for metric, value, machine in figures
    )
    ran = record(
        "bf16-training-1-hpu",
        mode="training",
        stack="synapse161",
        profile="gaudi-1",
        verdict="unjudged",
        metrics={"training_images_per_s": 640.2},
        loaded={"tensorflow": "2.9.1"},
    )
    missing = not_run("bf16-training-8-hpu", "Needs 8 Gaudi, found 1.")
    records = (ran, msgspec.structs.replace(missing, published=published, profile="gaudi-1", mode="training"))
    stacks = {
        "synapse161": {"python": "3.10.12", "packages": {"tensorflow-cpu": "2.9.1", "habana-tensorflow": "1.6.1.92"}}
    }
    host = {"architecture": "x86_64", "model_name": "Example host (test data)", "accelerators": "1 x Gaudi (test data)"}
    head = header(run="run-20261124-100000-c3d4", profile="gaudi-1", host=host, stacks=stacks)
    return Run(directory=f"results/{head.run}", header=head, records=records, footer=footer(records))


def written(place: Path, runs: Iterable[Run]) -> list[Path]:
    """Write run files below ``place``, without footers, and return the directories of the runs."""
    found = []
    for run in runs:
        writer = RunWriter.create(place, run.header)
        for line in run.records:
            writer.append(line)
        writer.close()
        found.append(writer.directory)
    return found


def dated_runs(count: int = 5) -> list[Run]:
    """Return the runs of one stack on following days, the newer half of them on another TensorFlow."""
    runs = []
    for day in range(1, count + 1):
        started = f"2026-11-{day:02}T08:00:00+00:00"
        version = "2.20.0" if day <= count // 2 else "2.21.0"
        slower = 1.0 if day <= count // 2 else 1.1
        records = (speed("fp32", "latency", 1, 0.0095 * slower * (1 + 0.002 * day), started_at=started),)
        name = f"run-202611{day:02}-080000-0000"
        head = header(run=name, started_at=started, stacks={"tf": {"packages": {"tensorflow": version}}})
        runs.append(Run(directory=f"results/{name}", header=head, records=records, footer=footer(records)))
    return runs


def trained(directory: Path, precision: str, seeds: int = 2, steps: int = 300) -> Record:
    """Return a training whose steps and log are files in the directory of its run."""
    case = f"{precision}-training-digits"
    files = {"log": Artefact(path=f"logs/{case}.log")}
    for folder in ("artefacts", "logs"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    (directory / "logs" / f"{case}.log").write_text("".join(f"line {n} of {case}\n" for n in range(1, 100)))
    for seed in range(1, seeds + 1):
        draw = random.Random(seed)
        losses = [2.3 * 0.985**step + abs(draw.gauss(0, 0.05)) for step in range(steps)]
        lines = [f"{step},{loss},0.1,0.05,0.001\n" for step, loss in enumerate(losses)]
        name = "steps" if seed == 1 else f"steps_seed{seed}"
        path = f"artefacts/{case}_{name}.csv"
        (directory / path).write_text("step,loss,rate,step_s,wait_s\n" + "".join(lines))
        files[name] = Artefact(path=path)
        _evaluated(directory / path.replace("_steps", "_evaluations"), seed)
        files[name.replace("steps", "evaluations")] = Artefact(path=path.replace("_steps", "_evaluations"))
    metrics = {"final_loss": 0.04, "loss_drop": 0.98, "loss_trend_tau": -0.81, "loss_trend_p": 0.0001}
    metrics |= {"training_images_per_s": 412.0, "step_p99_over_p50": 1.31, "wait_share": 0.02}
    metrics |= {"resident_growth_bytes": 12e6, "top1": 0.981}
    return record(case, mode="training", dataset="digits", metrics=metrics, artefacts=files, series=())


def _evaluated(path: Path, seed: int) -> None:
    """Write five evaluations whose last is not the best."""
    lines = [
        f"{30 * epoch},{epoch},359,{1 - 0.5**epoch - 0.1 * (epoch == 5) + seed / 1000},1.0\n" for epoch in range(1, 6)
    ]
    path.write_text("step,epoch,images,top1,top5\n" + "".join(lines))
